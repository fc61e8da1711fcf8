"""Readers of the field's data sets: what each value means, what is missing, which words stand for the classes."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from nerve_bench.datasets import BENCHMARKS, class_lines, open_dataset
from nerve_bench.datasets.label_files import read_label_file, read_picture
from nerve_bench.datasets.protocol import Choices, Defaults, make_protocol
from nerve_bench.world import SEEDS, make_scene
from nerve_ref.text import parse_classes
from nerve_runtime import IGNORE_LABEL
from nerve_runtime.errors import SourceError, UsageError
from nerve_runtime.vocabulary.class_list import ClassList
from nerve_stream.sinks import indexed_png
from tests.data.benchmark_folders import THINGS, write_benchmark_folders, write_coco, write_voc

FULL = Defaults((512, 512), 0.1, "openai80", can_tile=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_benchmark_folders(folder)
    return folder


def test_each_benchmark_has_as_many_classes_as_its_name_says() -> None:
    counts = {name: len(benchmark.classes) + bool(benchmark.background) for name, benchmark in BENCHMARKS.items()}
    assert counts == {
        "voc21": 21,
        "context60": 60,
        "coco-object": 81,
        "voc20": 20,
        "context59": 59,
        "coco-stuff": 171,
        "cityscapes": 19,
        "ade20k": 150,
    }


def test_the_validation_splits_are_those_of_the_field() -> None:
    pictures = [benchmark.pictures for benchmark in BENCHMARKS.values()]
    assert pictures == [1449, 5104, 5000, 1449, 5104, 5000, 500, 2000]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_no_word_stands_for_two_classes_of_a_benchmark(name: str) -> None:
    benchmark = BENCHMARKS[name]
    by_reference = parse_classes(list(benchmark.classes), list(benchmark.background))
    by_runtime = ClassList.of(benchmark.classes, benchmark.background, strict=True)
    assert by_reference.names == by_runtime.names[bool(benchmark.background) :] == benchmark.class_names


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_printed_classes_are_a_class_file_that_changes_nothing(name: str, tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("\n".join(class_lines(name)))
    assert make_protocol(name, Choices(path), FULL) == make_protocol(name, Choices(), FULL)


def test_landmarks_of_the_label_files_lie_where_the_data_sets_have_them() -> None:
    """Some numbers that are widely known: VOC's person is 15, ADE's flag 150, COCO's train ids 0 and 79, and so on."""
    names = {name: benchmark.class_names for name, benchmark in BENCHMARKS.items()}
    assert (names["voc20"][14], names["voc20"][19]) == ("person", "tv monitor")
    assert (names["ade20k"][0], names["ade20k"][149]) == ("wall", "flag")
    assert (names["coco-stuff"][0], names["coco-stuff"][79], names["coco-stuff"][80]) == (
        "person",
        "toothbrush",
        "banner",
    )
    assert (names["coco-stuff"][170], names["cityscapes"][13]) == ("wood", "car")
    assert (names["context59"][0], names["context59"][36], names["context59"][58]) == ("aeroplane", "person", "wood")


def test_a_palette_picture_gives_its_indices_and_not_its_colours(tmp_path: Path) -> None:
    labels = np.array([[0, 1, 255], [20, 15, 7]], np.uint8)
    colours = np.random.default_rng(0).integers(0, 256, (256, 3)).astype(np.uint8)
    (tmp_path / "a.png").write_bytes(indexed_png(labels, colours))
    np.testing.assert_array_equal(read_label_file(tmp_path / "a.png"), labels)


def test_a_palette_of_four_bits_a_pixel_is_read_too(tmp_path: Path) -> None:
    from PIL import Image

    labels = np.array([[0, 1, 2], [3, 2, 15]], np.uint8)
    image = Image.fromarray(labels, mode="P")
    image.putpalette(list(range(48)))
    image.save(tmp_path / "a.png", bits=4)
    assert (tmp_path / "a.png").read_bytes()[24] == 4
    np.testing.assert_array_equal(read_label_file(tmp_path / "a.png"), labels)


def test_a_label_map_of_colours_is_refused(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(SourceError, match=r"a\.png has pixels of mode RGB, expected one number a pixel"):
        read_label_file(tmp_path / "a.png")


def test_a_picture_is_not_turned_as_the_camera_notes_for_labels_are_not(tmp_path: Path) -> None:
    from PIL import Image

    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(np.zeros((4, 8, 3), np.uint8)).save(tmp_path / "a.jpg", exif=turned)
    assert read_picture(tmp_path / "a.jpg").shape == (4, 8, 3)


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(SourceError, match=r"cannot read the label map .*a\.png"):
        read_label_file(tmp_path / "a.png")
    with pytest.raises(SourceError, match=r"cannot read the picture .*a\.png"):
        read_picture(tmp_path / "a.png")


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_small_folder_of_each_layout_gives_pictures_of_the_world(name: str, data: Path) -> None:
    dataset = open_dataset(name, data)
    assert len(dataset.samples) == 2
    rgb, truth = dataset.read(dataset.samples[0])
    labels = len(BENCHMARKS[name].classes) + bool(BENCHMARKS[name].background)
    assert rgb.shape[:2] == truth.shape == ((128, 256) if name == "cityscapes" else (128, 128))
    assert {*np.unique(truth)} - {IGNORE_LABEL} <= {*range(labels)}
    assert (truth != IGNORE_LABEL).any()


def test_the_same_scene_gets_the_labels_of_each_numbering(data: Path) -> None:
    """The world's label w: thing if 6 or more; VOC w - 5, Context w + 1, train id w - 6 or w + 80, all from files."""
    world = make_scene(SEEDS["validation"][0], close_up=False, things=THINGS).labels.astype(int)
    world = world[3:-3]  # the rest is the border that is ignored
    truths = {}
    for name in BENCHMARKS:
        dataset = open_dataset(name, data)
        truths[name] = dataset.read(dataset.samples[0])[1][3:-3]
    thing = world >= 6
    np.testing.assert_array_equal(truths["voc21"], np.where(thing, world - 5, 0))
    np.testing.assert_array_equal(truths["voc20"], np.where(thing, world - 6, IGNORE_LABEL))
    np.testing.assert_array_equal(truths["context60"], world + 1)
    np.testing.assert_array_equal(truths["context59"], world)
    np.testing.assert_array_equal(truths["coco-object"], np.where(thing, world - 5, 0))
    np.testing.assert_array_equal(truths["coco-stuff"], np.where(thing, world - 6, world + 80))
    np.testing.assert_array_equal(truths["ade20k"], world)


def test_unlabelled_pixels_are_ignored_but_for_coco_object_where_they_are_background(data: Path) -> None:
    borders = {}
    for name in BENCHMARKS:
        dataset = open_dataset(name, data)
        borders[name] = {*np.unique(dataset.read(dataset.samples[0])[1][:3])}
    assert borders.pop("coco-object") == {0}
    borders.pop("cityscapes")  # has no border
    assert all(border == {IGNORE_LABEL} for border in borders.values())


def test_coco_maps_as_published_say_the_same_as_train_ids(tmp_path: Path) -> None:
    """Train ids 0, 11, 79, 80, 170 are categories 1, 13, 90, 92, 182, stored less one."""
    write_coco(tmp_path)
    home = tmp_path / "coco_stuff164k"
    (home / "stuffthingmaps/val2017").mkdir(parents=True)
    for path in (home / "annotations/val2017").glob("*.png"):
        published = home / "stuffthingmaps/val2017" / path.name.replace("_labelTrainIds", "")
        cv2.imwrite(str(published), np.full((128, 128), 255, np.uint8))
    values = [0, 12, 89, 91, 181]
    row = np.resize(np.array([*values, 255], np.uint8), (128, 128))
    cv2.imwrite(str(home / "stuffthingmaps/val2017/2007_000000.png"), row)
    shutil.rmtree(home / "annotations")
    dataset = open_dataset("coco-stuff", tmp_path)
    assert dataset.read(dataset.samples[0])[1][0, :6].tolist() == [0, 11, 79, 80, 170, IGNORE_LABEL]
    objects = open_dataset("coco-object", tmp_path)
    assert objects.read(objects.samples[0])[1][0, :6].tolist() == [1, 12, 80, 0, 0, 0]


def test_label_ids_of_cityscapes_say_the_same_as_train_ids(tmp_path: Path) -> None:
    """Road is 7, car 26, bicycle 33; 0 to 6 and the trailer, 30, are ignored."""
    for kind, folder in (("leftImg8bit", "leftImg8bit"), ("gtFine_labelIds", "gtFine")):
        path = tmp_path / f"cityscapes/{folder}/val/ulm/ulm_0_{kind}.png"
        path.parent.mkdir(parents=True)
        cv2.imwrite(str(path), np.array([[7, 26, 33, 0, 30, 255]], np.uint8))
    dataset = open_dataset("cityscapes", tmp_path)
    assert dataset.read(dataset.samples[0])[1].tolist() == [[0, 13, 18, IGNORE_LABEL, IGNORE_LABEL, IGNORE_LABEL]]


def test_a_value_that_no_label_map_has_is_refused_by_name(tmp_path: Path) -> None:
    write_voc(tmp_path)
    dataset = open_dataset("voc21", tmp_path)
    cv2.imwrite(str(dataset.samples[1].truth), np.full((128, 128), 77, np.uint8))
    with pytest.raises(SourceError, match=r"2007_000001\.png has the values 77, which no label map of PASCAL VOC 2012"):
        dataset.read(dataset.samples[1])


def test_a_label_map_of_another_size_is_refused(tmp_path: Path) -> None:
    write_voc(tmp_path)
    dataset = open_dataset("voc20", tmp_path)
    cv2.imwrite(str(dataset.samples[0].truth), np.zeros((128, 100), np.uint8))
    with pytest.raises(SourceError, match=r"is \(128, 128\) pixels and its label map \(128, 100\), expected one size"):
        dataset.read(dataset.samples[0])


@pytest.mark.parametrize("name", BENCHMARKS)
def test_what_is_not_there_is_named_with_what_to_download(name: str, tmp_path: Path) -> None:
    home = BENCHMARKS[name].layout.homes[0]
    with pytest.raises(SourceError, match=rf"is not there, looked for: .*{home}.*ownload .*(\.zip|\.tar)") as caught:
        open_dataset(name, tmp_path)
    assert caught.value.exit_code == 5
    assert "http" in str(caught.value)
    (tmp_path / home).mkdir(parents=True)
    with pytest.raises(SourceError, match=r"is not complete: there is no .*ownload .*(\.zip|\.tar)"):
        open_dataset(name, tmp_path)


def test_a_missing_label_map_is_counted_and_named(tmp_path: Path) -> None:
    write_voc(tmp_path)
    (tmp_path / "VOCdevkit/VOC2012/SegmentationClass/2007_000001.png").unlink()
    with pytest.raises(
        SourceError, match=r"1 of 4 files are missing, the first is .*SegmentationClass.2007_000001\.png"
    ):
        open_dataset("voc21", tmp_path)


def test_an_unknown_benchmark_is_refused_with_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"the data set is 'voc', expected one of: voc21, context60"):
        open_dataset("voc", tmp_path)
    with pytest.raises(SourceError, match=r"there is no folder .*nowhere"):
        open_dataset("voc21", tmp_path / "nowhere")
