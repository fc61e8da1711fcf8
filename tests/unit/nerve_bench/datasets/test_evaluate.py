"""Figures on benchmarks: mIoU against loops, what a protocol says, runs that were stopped, both runners."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from nerve_bench.datasets import Dataset, open_dataset, runners
from nerve_bench.datasets.evaluate import Run, evaluate, evaluate_benchmark
from nerve_bench.datasets.pixel_counts import (
    PixelCountFile,
    class_iou,
    confusion,
    interval,
    pixel_counts,
    resampled_mious,
)
from nerve_bench.datasets.protocol import Choices, Defaults, Protocol, make_protocol
from nerve_bench.datasets.runners import BundleRunner, LabelsOf, ReferenceRunner, labels_at
from nerve_bench.measure.accuracy import World
from nerve_ref.walk import readout
from nerve_runtime import IGNORE_LABEL
from nerve_runtime.errors import SourceError, UsageError
from tests.data.benchmark_folders import class_files, write_benchmark_folders
from tests.unit.nerve_bench.conftest import quietly

Labels = NDArray[np.uint8]
CLASSES = 6
DEFAULTS = Defaults((128, 128), 0.1, "single", can_tile=True)
BUNDLE = Defaults((128, 128), 0.1, "single", can_tile=False)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("benchmarks")
    write_benchmark_folders(folder / "data")
    class_files(folder / "classes")
    return folder


def random_pairs(count: int) -> list[tuple[Labels, Labels]]:
    """Truth with ignored pixels and no class 4; labels with no class 5 and some without any."""
    rng = np.random.default_rng(3)
    truths = rng.choice([0, 1, 2, 3, 5, IGNORE_LABEL], (count, 15, 22)).astype(np.uint8)
    labels = np.where(rng.random(truths.shape) < 0.6, truths, rng.choice([0, 1, 2, 3, IGNORE_LABEL], truths.shape))
    return [
        (truth, np.where(found == 5, 3, found).astype(np.uint8)) for truth, found in zip(truths, labels, strict=True)
    ]


def iou_by_histograms(pairs: list[tuple[Labels, Labels]]) -> list[float]:
    """The field's formula, from histograms of the labels: of both where they agree, of each where truth counts."""
    agree, true, found = np.zeros(CLASSES), np.zeros(CLASSES), np.zeros(CLASSES)
    for truth, labels in pairs:
        kept_truth, kept_labels = truth[truth != IGNORE_LABEL], labels[truth != IGNORE_LABEL]
        edges = np.arange(CLASSES + 1)
        agree += np.histogram(kept_labels[kept_labels == kept_truth], edges)[0]
        true += np.histogram(kept_truth, edges)[0]
        # The last bin of numpy is closed: CLASSES itself may not occur, 255 lies outside.
        found += np.histogram(kept_labels, edges)[0]
    with np.errstate(invalid="ignore"):
        return list(100 * agree / (true + found - agree))


def counted(pairs: list[tuple[Labels, Labels]]) -> dict[str, NDArray[np.int64]]:
    return {str(index): pixel_counts(*pair, CLASSES, IGNORE_LABEL) for index, pair in enumerate(pairs)}


def test_iou_equals_the_fields_formula_on_random_labels_with_ignored_pixels() -> None:
    pairs = random_pairs(5)
    found = class_iou(confusion(counted(pairs), CLASSES))
    expected = iou_by_histograms(pairs)
    np.testing.assert_allclose(found, expected)
    assert np.isnan(expected).tolist() == [False, False, False, False, True, False]
    assert expected[5] == 0


def test_a_pixel_without_a_label_is_wrong_and_an_ignored_one_is_not_counted() -> None:
    truth, found = np.array([[0, 0, IGNORE_LABEL, 1]], np.uint8), np.array([[0, IGNORE_LABEL, 1, 1]], np.uint8)
    matrix = confusion({"a": pixel_counts(truth, found, 2, IGNORE_LABEL)}, 2)
    assert matrix.tolist() == [[1, 0, 1], [0, 1, 0]]
    assert class_iou(matrix).tolist() == [50, 100]


def test_a_picture_of_ignored_pixels_alone_counts_nothing() -> None:
    counts = pixel_counts(np.full((2, 2), IGNORE_LABEL, np.uint8), np.zeros((2, 2), np.uint8), 3, IGNORE_LABEL)
    assert counts.shape == (0, 3)


def test_the_interval_is_that_of_resampled_pictures_taken_one_by_one() -> None:
    pairs = random_pairs(6)
    draws = resampled_mious(counted(pairs), CLASSES)
    times = np.random.default_rng(8248).multinomial(6, np.full(6, 1 / 6), 2000)
    for draw in (0, 1, 1999):
        drawn = [pair for pair, count in zip(pairs, times[draw], strict=True) for _ in range(count)]
        assert draws[draw] == pytest.approx(np.nanmean(iou_by_histograms(drawn)))
    low, high = interval(draws)
    assert low < np.nanmean(iou_by_histograms(pairs)) < high


def test_a_tally_goes_on_where_it_was_and_throws_a_broken_last_line_away(tmp_path: Path) -> None:
    path, counts = tmp_path / "state.jsonl", counted(random_pairs(3))
    with PixelCountFile(path, {"run": 1}) as tally:
        tally.add("0", counts["0"])
        tally.add("1", counts["1"])
    whole = path.read_bytes()
    path.write_bytes(whole[:-4])
    with PixelCountFile(path, {"run": 1}) as tally:
        assert list(tally.pictures) == ["0"]
        tally.add("1", counts["1"])
    assert path.read_bytes() == whole
    with PixelCountFile(path, {"run": 1}) as tally:
        np.testing.assert_array_equal(tally.pictures["1"], counts["1"])


def test_a_state_of_another_run_is_refused_with_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "state.jsonl"
    PixelCountFile(path, {"protocol": {"threshold": 0.1, "resize": "stretch"}, "folder": "a"}).__exit__(
        None, None, None
    )
    with pytest.raises(UsageError, match=r"another run, which differs in: protocol\.threshold; .* --restart"):
        PixelCountFile(path, {"protocol": {"threshold": 0.2, "resize": "stretch"}, "folder": "a"})
    path.write_bytes(b"not a state\n")
    with pytest.raises(UsageError, match=r"is not what a run left there .*--restart"):
        PixelCountFile(path, {})


def test_labels_of_a_few_classes_at_a_time_are_those_of_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    P = torch.softmax(torch.randn(7, 64, generator=torch.Generator().manual_seed(1)), dim=0)
    P[:, 5] = torch.nan
    protocol = replace(make_protocol("voc21", Choices(), DEFAULTS), threshold=0.3)
    expected = readout(P, (8, 8), (30, 50), 0.3, has_background=True)[0].numpy()
    for at_a_time in (1, 3, 7):
        monkeypatch.setattr(runners, "READOUT_ELEMENTS_LIMIT", at_a_time * 30 * 50)
        np.testing.assert_array_equal(labels_at(P, (8, 8), (30, 50), protocol), expected)
    assert {0, 1, IGNORE_LABEL} < {*expected.ravel()}


def test_under_cam_a_class_is_measured_by_its_own_maximum() -> None:
    """Class 2 never exceeds 0.4, yet is found at its peak; at half of it, it is background."""
    P = torch.tensor([[0.3, 0.32, 0.0, 0.3], [0.3, 0.33, 1.0, 0.45], [0.4, 0.35, 0.0, 0.25]])
    P[2, 1] = 0.34
    protocol = replace(make_protocol("voc21", Choices(background_rule="cam"), DEFAULTS), threshold=0.5)
    assert labels_at(P, (1, 4), (1, 4), protocol).tolist() == [[2, 2, 1, 0]]
    plain = replace(protocol, background_rule="threshold")
    assert labels_at(P, (1, 4), (1, 4), plain).tolist() == [[0, 0, 1, 0]]


def test_a_protocol_says_everything_that_would_change_the_figure() -> None:
    record = make_protocol("voc21", Choices(), DEFAULTS).as_json()
    json.dumps(record)
    assert record["classes"][0] == "aeroplane, airplane, aircraft"
    assert (record["background_rule"], record["threshold"], record["resize"]) == ("threshold", 0.1, "stretch")
    assert (record["field_short_side_px"], record["ignore_value"], record["templates"]) == (336, 255, "single")
    assert "sky" in record["background"]


def test_only_the_wide_benchmark_is_tiled_by_itself_and_only_where_that_can_be_done() -> None:
    sizes = {name: make_protocol(name, Choices(), DEFAULTS).short_side_px for name in ("voc20", "cityscapes", "ade20k")}
    assert sizes == {"voc20": None, "cityscapes": 213, "ade20k": None}
    assert make_protocol("voc20", Choices(resize="tiles"), DEFAULTS).short_side_px == 128
    assert make_protocol("cityscapes", Choices(), BUNDLE).resize == "stretch"
    with pytest.raises(UsageError, match=r"tiles cannot see each other; use the reference for tiles"):
        make_protocol("cityscapes", Choices(resize="tiles"), BUNDLE)


@pytest.mark.parametrize(
    ("dataset", "choices", "message"),
    [
        ("voc20", Choices(background_rule="words"), r"voc20 has no background"),
        ("voc21", Choices(background_rule="none"), r"voc21 has background"),
        ("voc21", Choices(background_rule="words", threshold=0.2), r"no meaning under the background rule 'words'"),
        ("voc20", Choices(threshold=0.2), r"no meaning under the background rule 'none'"),
        ("voc21", Choices(threshold=1.2), r"threshold is 1.2, expected 0 to 1"),
        ("voc20", Choices(resize="tiles", overlap=1.0), r"overlap of tiles is 1.0, expected 0 to below 1"),
        ("voc20", Choices(resize="cut"), r"resize rule is 'cut', expected one of: stretch, tiles"),  # type: ignore[arg-type]  # wrong on purpose
        ("voc21", Choices(background_rule="best"), r"rule is 'best', expected one of: none, words"),  # type: ignore[arg-type]  # wrong on purpose
    ],
)
def test_a_choice_that_makes_no_sense_is_refused(dataset: str, choices: Choices, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_protocol(dataset, choices, DEFAULTS)


def test_cam_needs_scores_which_a_bundle_does_not_give() -> None:
    with pytest.raises(UsageError, match=r"'cam' needs scores, and a bundle gives labels; use the reference"):
        make_protocol("voc21", Choices(background_rule="cam"), BUNDLE)


def test_classes_without_a_line_are_left_out_and_their_pixels_ignored(tmp_path: Path) -> None:
    path = tmp_path / "voc21.txt"
    path.write_text("# two of them\ncat = tabby, kitten\nbackground = grass, sky\nbird = sparrow\n")
    protocol = make_protocol("voc21", Choices(path), DEFAULTS)
    assert (protocol.label_names, protocol.classes) == (("background", "bird", "cat"), ("sparrow", "tabby, kitten"))
    assert protocol.background == ("grass", "sky")
    assert len(protocol.left_out) == 18
    table = protocol.labels_in_use()
    assert table[[0, 3, 8, 1, 20, 255]].tolist() == [0, 1, 2, IGNORE_LABEL, IGNORE_LABEL, IGNORE_LABEL]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat", r"line 1 is 'cat', expected 'class of the benchmark = word, synonym'"),
        ("kitten = cat", r"line 1: 'kitten' is no class of voc20"),
        ("cat = a\ncat = b", r"line 2: 'cat' was given words already"),
        ("cat = a\nbird = a", r"repeats 'a'"),
        ("cat = a\nbird = b\nbackground = c", r"voc20 has no background, remove its line"),
    ],
)
def test_a_class_file_that_makes_no_sense_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "voc20.txt"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        make_protocol("voc20", Choices(path), DEFAULTS)


class Stopping:
    """A runner whose labels depend on the picture, and which is interrupted at the n-th."""

    defaults = DEFAULTS

    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at, self.seen = stop_at, 0

    def described(self) -> dict[str, Any]:
        return {"runner": "double"}

    @contextmanager
    def opened(self, protocol: Protocol) -> Iterator[LabelsOf]:
        yield self._labels

    def _labels(self, rgb: Labels) -> Labels:
        if self.seen == self.stop_at:
            raise KeyboardInterrupt
        self.seen += 1
        return (rgb[..., 0] // 16).astype(np.uint8)


def test_a_run_that_was_stopped_goes_on_to_the_very_same_record(folders: Path, tmp_path: Path) -> None:
    def record(runner: Stopping, state: str, **how: Any) -> dict[str, Any]:
        run = Run(tmp_path / state, **how)
        return evaluate_benchmark("ade20k", folders / "data", runner, Choices(), run, quietly)

    whole = record(Stopping(), "whole.jsonl")
    with pytest.raises(KeyboardInterrupt):
        record(Stopping(stop_at=1), "stopped.jsonl")
    again = Stopping()
    assert record(again, "stopped.jsonl") == whole
    assert again.seen == 1
    assert (tmp_path / "stopped.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    fewer = record(Stopping(stop_at=0), "whole.jsonl", limit=1)
    assert (fewer["n"], fewer["complete"]) == (1, False)
    anew = Stopping()
    assert record(anew, "whole.jsonl", restart=True) == whole
    assert anew.seen == 2


def test_a_run_in_which_nothing_counts_is_refused(folders: Path, tmp_path: Path) -> None:
    path = tmp_path / "voc20.txt"
    path.write_text("sofa = a\ntrain = b\n")
    dataset = open_dataset("voc20", folders / "data")
    protocol = make_protocol("voc20", Choices(path), DEFAULTS)
    with pytest.raises(SourceError, match=r"no pixel of 2 pictures in .*VOC2012 belongs to a class in use"):
        evaluate(dataset, Stopping(), protocol, Run(tmp_path / "state.jsonl"), quietly)


def read_all(dataset: Dataset) -> list[tuple[Labels, Labels]]:
    return [dataset.read(sample) for sample in dataset.samples]


def test_the_reference_is_rated_by_the_labels_it_gives(world: World, folders: Path, tmp_path: Path) -> None:
    choices = Choices(folders / "classes/voc21.txt")
    runner = ReferenceRunner(world.models, world.params, "tiny", "packaged")
    record = evaluate_benchmark("voc21", folders / "data", runner, choices, Run(tmp_path / "s.jsonl"), quietly)
    protocol = make_protocol("voc21", choices, runner.defaults)
    dataset = open_dataset("voc21", folders / "data")
    with runner.opened(protocol) as labels_of:
        pairs = [(truth, labels_of(rgb)) for rgb, truth in read_all(dataset)]
    hits = sum(int((truth == found)[truth != IGNORE_LABEL].sum()) for truth, found in pairs)
    assert record["pixel_accuracy"] == pytest.approx(
        100 * hits / sum(int((truth != IGNORE_LABEL).sum()) for truth, _ in pairs), abs=1e-3
    )
    assert (record["n"], record["of"], record["complete"]) == (2, 1449, False)
    assert record["interval"][0] <= record["miou"] <= record["interval"][1]
    assert (
        record["protocol"]["background"] == list(record["protocol"]["background"]) or record["protocol"]["background"]
    )
    assert record["runner"]["constants"]["beta"] == world.params.beta


def test_words_that_the_tiny_networks_never_heard_are_refused(world: World, folders: Path, tmp_path: Path) -> None:
    runner = ReferenceRunner(world.models, world.params, "tiny", "packaged")
    with pytest.raises(UsageError, match=r"know 60 words only, and aircraft, bird.* --classes-file"):
        evaluate_benchmark("voc21", folders / "data", runner, Choices(), Run(tmp_path / "s.jsonl"), quietly)


@pytest.mark.onnx
@pytest.mark.parametrize("name", ["voc21", "context59"])
def test_a_bundle_and_the_reference_give_the_same_figures(
    name: str, world: World, bundle: Path, folders: Path, tmp_path: Path
) -> None:
    choices = Choices(folders / f"classes/{name}.txt")
    records = []
    for runner in (ReferenceRunner(world.models, world.params, "tiny", "packaged"), BundleRunner(bundle, "ort")):
        run = Run(tmp_path / f"{type(runner).__name__}.jsonl")
        records.append(evaluate_benchmark(name, folders / "data", runner, choices, run, quietly))
    assert records[0]["pixel_accuracy"] == pytest.approx(records[1]["pixel_accuracy"], abs=0.5)
    assert records[0]["pixel_accuracy"] > 50
    assert records[1]["runner"]["backend"] == "ort"
