"""1,203 classes through all that draws, writes and counts labels."""

import json
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner, Result

from nerve_runtime.drawing.colours import class_colours, least_distance
from nerve_runtime.drawing.legend import label_areas, legend_entries, with_legend
from nerve_runtime.drawing.overlays import OverlayStyle, overlay
from nerve_runtime.drawing.region_names import place_names
from nerve_runtime.errors import UsageError
from nerve_runtime.frames import Frame
from nerve_runtime.labels import Labels
from nerve_runtime.result import FrameResult, result_record
from nerve_stream.cli import segment as cli
from nerve_stream.cli.progress import EmbeddingBar
from nerve_stream.pipeline import ProcessWorker, SegmenterOptions
from nerve_stream.sinks import MaskFile, MaskFolder, indexed_png, mask_name
from tests.data.clips import write_clip
from tests.data.fake_bundle import WORDS, make_fake_bundle
from tests.data.label_maps import noise, result_of
from tests.data.many_names import many_names

MANY = 1203
NAMES = tuple(many_names(WORDS, MANY))
BARE = OverlayStyle(legend=False, status=False, names=False)
NO_LABEL = 65535


@pytest.fixture(scope="module")
def wide_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_fake_bundle(tmp_path_factory.mktemp("wide"), max_classes=MANY)


def quarters(size_hw: tuple[int, int] = (200, 300)) -> NDArray[np.uint16]:
    """Labels whose lower bytes are alike: 1 and 257 above, 1025 and 1 below."""
    labels = np.full(size_hw, 1, np.uint16)
    labels[: size_hw[0] // 2, size_hw[1] // 2 :], labels[size_hw[0] // 2 :, : size_hw[1] // 2] = 257, 1025
    return labels


def wide_result(labels: Labels, *, valid: bool = True) -> FrameResult:
    return result_of(labels, NAMES, valid=valid)


def segment(bundle: Path, *arguments: object) -> Result:
    words = [str(argument) for argument in arguments]
    return CliRunner().invoke(
        cli.app, [*words, "--bundle", str(bundle), "--backend", "fake", "--classes", ";".join(NAMES)]
    )


def test_every_class_has_the_colour_of_its_name_and_no_label_is_grey() -> None:
    table = class_colours(NAMES)
    assert table.shape == (65536, 3)
    assert [table[label].tolist() for label in (0, 255, 1202)] == [
        class_colours((NAMES[label],))[0].tolist() for label in (0, 255, 1202)
    ]
    assert table[NO_LABEL].tolist() == class_colours(("red",))[255].tolist() == [128, 128, 128]
    assert not table[MANY:NO_LABEL].any()
    assert class_colours(NAMES[:254]).shape == (256, 3)


def test_the_least_distance_of_many_classes_is_that_of_their_most_alike_pair() -> None:
    distances = least_distance(NAMES, 0.55)
    assert all(np.isfinite(value) for value in distances.values())
    assert least_distance((*NAMES[:300], "Red", "RED"), 0.55)["normal"] == 0.0
    assert distances["normal"] <= least_distance(NAMES[:254], 0.55)["normal"]


def test_the_overlay_colours_each_label_by_its_own_class() -> None:
    labels = quarters()
    style = OverlayStyle(opacity=1.0, legend=False, status=False, names=False)
    np.testing.assert_array_equal(overlay(noise((200, 300)), wide_result(labels), style), class_colours(NAMES)[labels])


def test_labels_that_differ_by_256_have_an_edge_between_them() -> None:
    picture = np.full((200, 300, 3), 90, np.uint8)
    style = OverlayStyle(contours=True, legend=False, status=False, names=False)
    drawn = overlay(picture, wide_result(quarters()), style)
    inner, edge = drawn[50, 20], drawn[50, 149]
    assert (inner != edge).any()
    assert edge.tolist() == class_colours(NAMES)[1].tolist()


def test_where_there_is_no_label_the_picture_is_hatched() -> None:
    labels = quarters()
    labels[:] = NO_LABEL
    drawn = overlay(np.zeros((200, 300, 3), np.uint8), wide_result(labels, valid=False), BARE)
    share = (drawn == 200).all(axis=2).mean()
    assert 0.2 < share < 0.3
    labels[:] = 255  # a class like any other
    assert not (overlay(np.zeros((200, 300, 3), np.uint8), wide_result(labels), BARE) == 200).all(axis=2).any()


def test_areas_legend_and_names_know_labels_beyond_255() -> None:
    labels = quarters((400, 600))
    labels[390:] = NO_LABEL
    areas = label_areas(labels)
    np.testing.assert_array_equal(areas, np.bincount(labels.ravel(), minlength=65536))
    result = wide_result(labels)
    texts = [entry.text for entry in legend_entries(result, areas)]
    assert texts == [f"{NAMES[1]} 49%", f"{NAMES[257]} 25%", f"{NAMES[1025]} 24%"]
    placed = place_names(labels, areas, NAMES, 20)
    assert {name.label for name in placed} == {1, 257, 1025}
    assert all((labels[name.box.pixels] == name.label).mean() >= 0.5 for name in placed)
    assert with_legend(noise((400, 600)), result).shape[1] > 600
    assert (overlay(noise((400, 600)), result) != overlay(noise((400, 600)), result, BARE)).any()


def test_masks_have_16_bit_and_every_reader_gives_their_labels(tmp_path: Path) -> None:
    labels = np.arange(200 * 300, dtype=np.uint16).reshape(200, 300) % MANY
    labels[0] = NO_LABEL
    result = wide_result(labels)
    with MaskFolder(tmp_path / "masks") as folder, MaskFile(tmp_path / "one.png") as file:
        folder.write(noise((200, 300)), result)
        file.write(noise((200, 300)), result)
    for path in (tmp_path / "masks" / mask_name(0), tmp_path / "one.png"):
        read = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert read is not None
        np.testing.assert_array_equal(read, labels, strict=True)
        np.testing.assert_array_equal(np.asarray(Image.open(path)), labels)
    classes = json.loads((tmp_path / "masks" / "classes.json").read_text(encoding="utf-8"))
    assert (len(classes), classes[1202]["label"], classes[1202]["name"]) == (MANY, 1202, NAMES[1202])


def test_a_palette_is_refused_where_it_has_too_few_colours(wide_bundle: Path, tmp_path: Path) -> None:
    with MaskFile(tmp_path / "one.png", "palette") as file, pytest.raises(UsageError, match="256 colours at most"):
        file.write(noise((200, 300)), wide_result(quarters()))
    with pytest.raises(UsageError, match=r"the labels are uint16, expected uint8"):
        indexed_png(quarters(), class_colours(NAMES))
    clip = write_clip(tmp_path / "clip.mp4", 2)
    ended = segment(wide_bundle, clip, "--masks", tmp_path / "masks", "--mask-format", "palette")
    assert ended.exit_code == 2
    assert "there are 1203 classes; leave out --mask-format palette" in ended.stderr
    assert not (tmp_path / "masks").exists()


def test_lines_name_classes_beyond_255_with_their_runs() -> None:
    labels = quarters((4, 6))
    labels[0, 0] = NO_LABEL
    record = result_record(wide_result(labels), rle=True)
    found = {entry["label"]: (entry["name"], entry["pixels"]) for entry in record["classes"]}
    assert found == {1: (NAMES[1], 11), 257: (NAMES[257], 6), 1025: (NAMES[1025], 6)}
    assert record["classes"][1]["rle"] == {"size": [4, 6], "counts": [12, 2, 2, 2, 2, 2, 2]}
    json.dumps(record, allow_nan=False)


def test_labels_from_a_process_of_its_own_are_those_of_this_one(wide_bundle: Path) -> None:
    options = SegmenterOptions(str(wide_bundle), NAMES, backend="fake", cache_dir=None, progress=EmbeddingBar())
    frame = Frame(noise((32, 48)), 0, Fraction(0))
    outcomes: list[FrameResult | BaseException] = []
    with ProcessWorker(options.open) as worker:
        assert worker.wait_room(30)
        worker.submit("a", frame, outcomes.append)
        while not outcomes:
            worker.wait_room(0.05)
    with options.open() as segmenter:
        expected = segmenter.segment(frame)
    assert isinstance(outcomes[0], FrameResult)
    np.testing.assert_array_equal(outcomes[0].labels, expected.labels, strict=True)
    assert expected.labels.max() > 255


@pytest.mark.parametrize("isolate", ["--isolate", "--no-isolate"])
def test_a_clip_becomes_an_overlay_16_bit_masks_and_lines(wide_bundle: Path, tmp_path: Path, isolate: str) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 2)
    outputs = ("--overlay", tmp_path / "o.mp4", "--masks", tmp_path / "m", "--jsonl", tmp_path / "l.jsonl", "--rle")
    ended = segment(wide_bundle, clip, *outputs, isolate)
    assert ended.exit_code == 0, ended.output
    mask = cv2.imread(str(tmp_path / "m" / mask_name(1)), cv2.IMREAD_UNCHANGED)
    assert mask is not None
    assert mask.dtype == np.uint16
    line = json.loads((tmp_path / "l.jsonl").read_text(encoding="utf-8").splitlines()[1])
    pixels = {record["label"]: record["pixels"] for record in line["classes"]}
    labels, counts = np.unique(mask, return_counts=True)
    assert pixels == dict(zip(labels.tolist(), counts.tolist(), strict=True))
