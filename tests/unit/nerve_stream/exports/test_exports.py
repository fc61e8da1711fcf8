import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from nerve_runtime import FrameResult, UsageError
from nerve_runtime.drawing import class_colours
from nerve_stream.exports import FOLDER_FORMATS, FORMATS, export_sink
from nerve_stream.exports.label_studio import packed_run_lengths
from nerve_stream.sources.images import Picture
from tests.data.drawn_results import drawn_results

BACKGROUND = [pytest.param(True, id="with background"), pytest.param(False, id="without background")]


def written(name: str, folder: Path, results: list[FrameResult], picture: str = "street {}.jpg") -> Path:
    """An export of results, as pictures `street 0.jpg`, `street 1.jpg`, ..."""
    path = folder / name
    with export_sink(name, path) as sink:
        for number, result in enumerate(results):
            rgb = np.zeros((*result.labels.shape, 3), dtype=np.uint8)
            path_of_picture = Path(picture.format(number))
            sink.write(rgb, result, Picture(rgb, number, Fraction(0), path=path_of_picture, stem=path_of_picture.stem))
    return path


def seen(result: FrameResult) -> set[int]:
    """The labels that an export holds."""
    return set(np.unique(result.labels).tolist()) - {255} - ({0} if result.has_background else set())


@pytest.mark.parametrize("background", BACKGROUND)
def test_run_lengths_of_coco_instances_are_the_masks(background: bool, tmp_path: Path) -> None:
    results = list(drawn_results(background=background))
    content = json.loads(written("coco-instances", tmp_path, results).read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    assert len({annotation["id"] for annotation in content["annotations"]}) == len(content["annotations"])
    for number, result in enumerate(results, start=1):
        found = [annotation for annotation in content["annotations"] if annotation["image_id"] == number]
        assert {annotation["category_id"] - 1 for annotation in found} == seen(result)
        for annotation in found:
            counts = annotation["segmentation"]["counts"]
            flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
            mask = flat.reshape(annotation["segmentation"]["size"], order="F")
            np.testing.assert_array_equal(mask, result.mask(names[annotation["category_id"]]))
            left, top, width, height = annotation["bbox"]
            assert mask[top : top + height, left : left + width].sum() == annotation["area"] == mask.sum()


@pytest.mark.parametrize("background", BACKGROUND)
def test_the_pngs_of_coco_panoptic_are_the_masks(background: bool, tmp_path: Path) -> None:
    results = list(drawn_results(background=background))
    folder = written("coco-panoptic", tmp_path, results)
    content = json.loads((folder / "panoptic.json").read_text())
    assert {category["isthing"] for category in content["categories"]} == {0}
    names = {category["id"]: category["name"] for category in content["categories"]}
    for result, annotation in zip(results, content["annotations"], strict=True):
        bgr = cv2.imread(str(folder / annotation["file_name"]))
        assert bgr is not None
        numbers = bgr[..., 2] + 256 * bgr[..., 1].astype(int) + 65536 * bgr[..., 0].astype(int)
        infos = annotation["segments_info"]
        assert {info["id"] for info in infos} == set(np.unique(numbers).tolist()) - {0}
        for info in infos:
            np.testing.assert_array_equal(numbers == info["id"], result.mask(names[info["category_id"]]))


@pytest.mark.parametrize("background", BACKGROUND)
@pytest.mark.parametrize("whole", ["round", "cut"])
def test_polygons_of_yolo_fill_to_the_masks(whole: str, background: bool, tmp_path: Path) -> None:
    results = list(drawn_results(background=background))
    folder = written("yolo", tmp_path, results)
    names = dict(re.findall(r'^  (\d+): (".*")$', (folder / "data.yaml").read_text(), re.MULTILINE))
    for number, result in enumerate(results):
        size_wh = np.array(result.labels.shape[::-1])
        masks: dict[str, NDArray[np.uint8]] = {}
        for line in (folder / "labels" / f"street {number}.txt").read_text().splitlines():
            class_number, *shares = line.split()
            points = np.array(shares, dtype=np.float32).reshape(-1, 2) * size_wh
            assert len(points) >= 3  # readers refuse less, a single pixel's too
            mask = masks.setdefault(json.loads(names[class_number]), np.zeros(result.labels.shape, dtype=np.uint8))
            cv2.fillPoly(mask, [(np.rint(points) if whole == "round" else points).astype(np.int32)], 1)
        assert {result.class_names.index(name) for name in masks} == seen(result)
        for name, mask in masks.items():
            np.testing.assert_array_equal(mask.astype(bool), result.mask(name))


@pytest.mark.parametrize("background", BACKGROUND)
def test_masks_of_cvat_are_the_masks(background: bool, tmp_path: Path) -> None:
    results = list(drawn_results(background=background))
    root = ElementTree.parse(written("cvat", tmp_path, results)).getroot()
    declared = {label.findtext("name"): label.findtext("color") for label in root.iter("label")}
    names = results[0].class_names
    colours = class_colours(names)
    assert declared == {names[i]: f"#{bytes(colours[i]).hex()}" for i in range(int(background), len(names))}
    for result, image in zip(results, root.iter("image"), strict=True):
        size_hw = int(image.attrib["height"]), int(image.attrib["width"])
        assert size_hw == result.labels.shape
        found = {element.attrib["label"]: _cvat_mask(element.attrib, size_hw) for element in image.iter("mask")}
        assert {result.class_names.index(name) for name in found} == seen(result)
        assert set(found) <= set(declared)
        for name, mask in found.items():
            np.testing.assert_array_equal(mask, result.mask(name))


def _cvat_mask(attributes: dict[str, str], size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    left, top, width, height = (int(attributes[name]) for name in ("left", "top", "width", "height"))
    counts = [int(count) for count in attributes["rle"].split(",")]
    mask = np.zeros(size_hw, dtype=bool)
    mask[top : top + height, left : left + width] = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(
        height, width
    )
    return mask


@pytest.mark.parametrize("background", BACKGROUND)
def test_brush_masks_of_label_studio_are_the_masks(background: bool, tmp_path: Path) -> None:
    results = list(drawn_results(background=background))
    tasks = json.loads(written("label-studio", tmp_path, results).read_text())
    for number, (result, task) in enumerate(zip(results, tasks, strict=True)):
        assert task["data"] == {"image": f"street {number}.jpg"}
        regions = task["predictions"][0]["result"]
        assert {result.class_names.index(region["value"]["brushlabels"][0]) for region in regions} == seen(result)
        for region in regions:
            named = (region["type"], region["from_name"], region["to_name"])
            assert named == ("brushlabels", "label", "image")  # as the labelling interface names them
            height, width = region["original_height"], region["original_width"]
            values = np.array(list(_unpacked(bytes(region["value"]["rle"])))).reshape(height, width, 4)
            assert {tuple(value) for value in np.unique(values.reshape(-1, 4), axis=0).tolist()} <= {
                (0,) * 4,
                (255,) * 4,
            }
            np.testing.assert_array_equal(values[..., 3] > 0, result.mask(region["value"]["brushlabels"][0]))


def test_the_score_of_a_label_studio_task_is_the_mean_of_its_regions(tmp_path: Path) -> None:
    labels = np.array([[1, 1, 2], [0, 0, 0]], dtype=np.uint8)
    confidence = np.array([[255, 153, 102], [0, 0, 0]], dtype=np.uint8)
    result = FrameResult(labels, confidence, ("background", "a", "b"), 0, None, {}, True, 0, True)
    (task,) = json.loads(written("label-studio", tmp_path, [result]).read_text())
    (prediction,) = task["predictions"]
    assert [region["score"] for region in prediction["result"]] == [0.8, 0.4]
    assert prediction["score"] == 0.6


def _unpacked(content: bytes) -> Iterator[int]:
    """The values of rle-pack, block by block."""
    bits = "".join(f"{byte:08b}" for byte in content)
    at = 0

    def take(count: int) -> int:
        nonlocal at
        at += count
        return int(bits[at - count : at], 2)

    total, word = take(32), take(5) + 1
    widths = [take(4) + 1 for _ in range(4)]
    given = 0
    while given < total:
        is_run, length = take(1), 0
        length = take(widths[take(2)]) + 1
        values = [take(word)] * length if is_run else [take(word) for _ in range(length)]
        yield from values
        given += length


def test_runs_longer_than_a_length_can_tell_are_told_in_parts() -> None:
    assert sum(1 for _ in _unpacked(packed_run_lengths(np.ones((300, 300), dtype=bool)))) == 4 * 300 * 300


@pytest.mark.parametrize("name", FORMATS)
def test_a_picture_without_scores_has_no_segment(name: str, tmp_path: Path) -> None:
    result = FrameResult(
        np.full((8, 8), 255, dtype=np.uint8), np.zeros((8, 8), dtype=np.uint8), ("a",), 0, None, {}, True, 0, False
    )
    path = written(name, tmp_path, [result])
    texts = [file.read_text() for file in ([path] if path.is_file() else path.rglob("*.[jt][sx]*"))]
    assert not any(
        word in text for text in texts for word in ("counts", '"id": 1, "category_id"', "<mask", '"rle"', "0 0.")
    )


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_there_is_replaced_only_by_force(name: str, tmp_path: Path) -> None:
    results = list(drawn_results(background=True))[:1]
    path = written(name, tmp_path, results)
    assert path.is_dir() == (name in FOLDER_FORMATS)
    with pytest.raises(UsageError, match="--force"):
        export_sink(name, path)
    export_sink(name, path, force=True).abort()


@pytest.mark.parametrize("name", FORMATS)
def test_nothing_is_left_after_an_error(name: str, tmp_path: Path) -> None:
    def broken() -> None:
        with export_sink(name, tmp_path / "out") as sink:
            sink.write(np.zeros((8, 8, 3), dtype=np.uint8), next(drawn_results(background=True)))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("name", FORMATS)
def test_a_picture_whose_name_is_no_utf_8_does_not_cost_the_others_their_export(name: str, tmp_path: Path) -> None:
    path = written(name, tmp_path, list(drawn_results(background=True))[:1], picture=os.fsdecode(b"m\xf6we {}.jpg"))
    texts = [file.read_text() for file in ([path] if path.is_file() else path.glob("*.[jy]*"))]
    assert name == "yolo" or any("m\ufffdwe 0.jpg" in text for text in texts)


def test_yaml_reads_the_class_names_of_yolo_as_they_are(tmp_path: Path) -> None:
    names = ("background", "\U0001f600 caf\u00e9", 'a "b": #c', "line\u2028end", "no\ufffecharacter", "back\\slash")
    result = replace(next(drawn_results(background=True)), class_names=names)
    folder = written("yolo", tmp_path, [replace(result, labels=result.labels % len(names))])
    yaml = pytest.importorskip("yaml", reason="not installed: yaml")
    assert yaml.safe_load((folder / "data.yaml").read_text(encoding="utf-8"))["names"] == dict(enumerate(names[1:]))


def test_characters_that_xml_cannot_hold_cost_nobody_the_file(tmp_path: Path) -> None:
    result = replace(next(drawn_results(background=True)), class_names=("background", "a\uffff", "b", "c"))
    root = ElementTree.parse(written("cvat", tmp_path, [result], picture="bell\x07 <{}>.jpg")).getroot()
    assert [image.attrib["name"] for image in root.iter("image")] == ["bell\ufffd <0>.jpg"]
    assert [label.findtext("name") for label in root.iter("label")] == ["a\ufffd", "b", "c"]
    assert {mask.attrib["label"] for mask in root.iter("mask")} <= {"a\ufffd", "b", "c"}


def test_labels_that_somebody_drew_are_kept(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "street 0.txt").write_text("by hand")
    with pytest.raises(UsageError, match=r"labels holds labels already; choose another or add --force"):
        export_sink("yolo", tmp_path)


def test_a_folder_of_photographs_is_no_place_for_panoptic_pngs(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(b"a photograph")
    with pytest.raises(UsageError, match="holds PNG files already"):
        export_sink("coco-panoptic", tmp_path)
