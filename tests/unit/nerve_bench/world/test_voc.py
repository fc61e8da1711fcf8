from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from nerve_bench.world import CLASS_NAMES, make_scene, voc
from nerve_bench.world.voc import scene_name, voc_colors, voc_labels, write_voc


@pytest.fixture
def written(tmp_path: Path) -> Path:
    folder = tmp_path / "deep" / "shapes"
    assert write_voc(folder, {"train": range(3), "val": [1_000_000]}) == 4
    return folder


def test_labels_survive_the_round_trip(written: Path) -> None:
    for seed in (0, 1, 2, 1_000_000):
        with Image.open(written / "SegmentationClass" / f"{scene_name(seed)}.png") as image:
            assert image.mode == "P"
            stored = np.asarray(image)
        assert np.array_equal(stored, make_scene(seed).labels + 1)


def test_pictures_survive_up_to_jpeg_losses(written: Path) -> None:
    picture = cv2.imread(str(written / "JPEGImages" / f"{scene_name(1)}.jpg"))
    assert picture is not None
    # 8 of 255: JPEG smooths the sensor noise, whose standard deviation is 4, and thins out colour.
    assert np.abs(picture[..., ::-1].astype(float) - make_scene(1).rgb).mean() < 8


def test_labels_show_in_the_colours_of_voc(written: Path) -> None:
    shown = cv2.imread(str(written / "SegmentationClass" / f"{scene_name(2)}.png"))
    assert shown is not None
    assert np.array_equal(shown[..., ::-1], voc_colors()[make_scene(2).labels + 1])


def test_the_lists_name_the_files(written: Path) -> None:
    lists = {path.stem: path.read_text().split() for path in (written / "ImageSets" / "Segmentation").iterdir()}
    assert lists == {"train": ["scene_0000000", "scene_0000001", "scene_0000002"], "val": ["scene_1000000"]}
    named = sorted(lists["train"] + lists["val"])
    assert sorted(path.stem for path in (written / "JPEGImages").iterdir()) == named
    assert sorted(path.stem for path in (written / "SegmentationClass").iterdir()) == named


def test_line_k_of_the_class_list_names_label_k(written: Path) -> None:
    assert (written / "classes.txt").read_text().splitlines() == list(CLASS_NAMES)


def test_class_i_is_stored_as_i_plus_1_and_255_stays() -> None:
    assert voc_labels(np.array([[0, 19, 255]], np.uint8)).tolist() == [[1, 20, 255]]


def test_the_colours_are_those_that_voc_published() -> None:
    published = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 8: (64, 0, 0), 15: (192, 128, 128), 20: (0, 64, 128)}
    assert {label: tuple(voc_colors()[label].tolist()) for label in published} == published
    assert voc_colors()[255].tolist() == [224, 224, 192]


def test_scenes_of_another_size_are_written_in_that_size(tmp_path: Path) -> None:
    write_voc(tmp_path / "large", {"val": [5]}, size_px=192)
    with Image.open(tmp_path / "large" / "SegmentationClass" / f"{scene_name(5)}.png") as image:
        assert image.size == (192, 192)


def test_an_existing_data_set_is_never_overwritten(written: Path) -> None:
    with pytest.raises(FileExistsError, match="not an empty folder; choose another name"):
        write_voc(written, {"val": [7]})
    assert not (written / "JPEGImages" / f"{scene_name(7)}.jpg").exists()


def test_no_scenes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one seed"):
        write_voc(tmp_path / "none", {"train": []})


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(folder: Path, name: str, scene: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(voc, "write_voc_scene", full_disk)
    with pytest.raises(OSError, match="no space left"):
        write_voc(tmp_path / "shapes", {"train": [0]})
    assert list(tmp_path.iterdir()) == []
