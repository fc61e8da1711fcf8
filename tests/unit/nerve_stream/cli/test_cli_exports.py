"""`--export` and `--instances`, as a user types them."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.data.clips import halves, write_clip
from tests.data.running_command import error_of, everything_below, json_lines, segment


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a", "b"):
        cv2.imwrite(str(folder / f"{name}.jpg"), halves((48, 64)))
    return folder


def test_a_folder_of_pictures_is_one_file_of_each_format(bundle: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    formats = ("coco=i.json", "coco-panoptic=pan", "yolo=yolo", "cvat=c.xml", "label-studio=l.json")
    words = [word for form in formats for word in ("--export", form.replace("=", f"={out}/"))]
    ended = segment(bundle, photos, *words)
    assert ended.exit_code == 0, ended.output
    files = [name for name in everything_below(out) if (out / name).is_file()]
    assert files == sorted([
        "c.xml", "i.json", "l.json", "pan/a.png", "pan/b.png", "pan/panoptic.json", "yolo/data.yaml",
        "yolo/labels/a.txt", "yolo/labels/b.txt",
    ])  # fmt: skip
    assert [image["file_name"] for image in json.loads((out / "i.json").read_text())["images"]] == ["a.jpg", "b.jpg"]


def test_instances_are_in_lines_and_exports(bundle: Path, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", frames=4)
    ended = segment(
        bundle,
        clip,
        "--instances",
        "--jsonl",
        tmp_path / "l.jsonl",
        "--export",
        f"coco-instances={tmp_path / 'i.json'}",
    )
    assert ended.exit_code == 0, ended.output
    lines = json_lines(tmp_path / "l.jsonl")
    annotations = json.loads((tmp_path / "i.json").read_text())["annotations"]
    assert all(line["instances"] for line in lines)
    assert sum(len(line["instances"]) for line in lines) == len(annotations)
    assert {annotation["iscrowd"] for annotation in annotations} == {0}
    numbers = [{instance["number"] for instance in line["instances"]} for line in lines]
    assert set.intersection(*numbers), "no region was followed through the clip"
    areas = [instance["pixels"] for instance in lines[0]["instances"]]
    assert np.sum(areas) <= np.prod(lines[0]["size_hw"])


@pytest.mark.parametrize(
    ("form", "left"),
    [
        ("yolo", "out/.labels.abcdefgh.tmp/a.txt"),
        ("yolo", "out/.data.abcdefgh.tmp.yaml"),
        ("coco-panoptic", ".out.abcdefgh.tmp/a.png"),
        ("coco-panoptic", "out/.panoptic.abcdefgh.tmp.json"),
    ],
)
def test_what_a_killed_run_left_of_an_export_is_swept_by_a_resumed_one(
    form: str, left: str, bundle: Path, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / left).parent.mkdir(parents=True)
    (tmp_path / left).write_bytes(b"half")
    ended = segment(bundle, photos, "--export", f"{form}={tmp_path / 'out'}", "--resume")
    assert ended.exit_code == 0, ended.output
    assert [name for name in everything_below(tmp_path) if "abcdefgh" in name] == []


def test_what_a_killed_run_left_of_the_classes_of_several_pictures_is_swept_by_a_resumed_one(
    bundle: Path, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / ".classes.abcdefgh.tmp.json").write_bytes(b"half")
    ended = segment(bundle, photos / "a.jpg", photos / "b.jpg", "--masks", tmp_path / "masks", "--resume")
    assert ended.exit_code == 0, ended.output
    assert not (tmp_path / "masks" / ".classes.abcdefgh.tmp.json").exists()


@pytest.mark.parametrize("text", ["yolo", "yolo=", "pascal=x"])
def test_an_unknown_format_is_refused_with_those_there_are(text: str, bundle: Path, photos: Path) -> None:
    ended = segment(bundle, photos, "--export", text)
    assert ended.exit_code == 2
    assert "expected FORMAT=PATH, FORMAT one of coco-instances, coco-panoptic, yolo, cvat, label-studio" in error_of(
        ended
    )


def test_an_export_that_exists_is_kept(bundle: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "i.json").write_text("mine")
    ended = segment(bundle, photos, "--export", f"coco-instances={tmp_path / 'i.json'}")
    assert ended.exit_code == 2
    assert (tmp_path / "i.json").read_text() == "mine"


def test_an_export_that_exists_is_told_before_a_graph_is_opened(bundle: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "i.json").write_text("mine")
    ended = segment(bundle, photos, "--export", f"coco-instances={tmp_path / 'i.json'}")
    assert "backend:" not in ended.stderr


def test_a_resumed_folder_has_all_its_pictures_in_the_export(bundle: Path, photos: Path, tmp_path: Path) -> None:
    export = tmp_path / "i.json"
    words = (photos, "--masks", tmp_path / "masks", "--export", f"coco-instances={export}", "--resume")
    assert segment(bundle, *words).exit_code == 0
    export.unlink()  # as after a run that was ended behind its last mask
    assert segment(bundle, *words).exit_code == 0
    assert [image["file_name"] for image in json.loads(export.read_text())["images"]] == ["a.jpg", "b.jpg"]


def test_panoptic_pngs_never_replace_their_pictures(bundle: Path, photos: Path) -> None:
    picture = photos / "a.png"
    cv2.imwrite(str(picture), halves((48, 64)))
    before = picture.read_bytes()
    ended = segment(bundle, picture, "--export", f"coco-panoptic={photos}", "--force")
    assert (ended.exit_code, picture.read_bytes()) == (2, before)
    assert "which holds the source a.png; choose another folder" in error_of(ended)
