"""Pictures in, pictures out: outputs bear the names of the pictures they were made from."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from nerve_runtime.drawing.colours import class_colours
from tests.data.clips import halves, write_clip
from tests.data.running_command import CLASSES, error_of, everything_below, json_lines, outputs_in, segment, summary_of

NAMES = ("img_0", "img_2", "img_10")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write_picture(path: Path, side_px: int = 48) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), halves((side_px, 64)))
    return path


def assert_beside_its_legend(drawn: NDArray[Any]) -> None:
    """The overlay of a picture of 48 x 64 is at its left, and to its right a strip that covers nothing."""
    assert drawn.shape[0] >= 48
    assert drawn.shape[1] > 64
    assert np.median(drawn[:, 64:]) < 64


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in NAMES:
        write_picture(tmp_path / "photos" / f"{name}.jpg")
    return tmp_path / "photos"


def test_a_folder_of_pictures_gives_masks_overlays_and_lines_of_their_names(
    bundle: Path, photos: Path, tmp_path: Path
) -> None:
    outputs = ("--masks", tmp_path / "pm", "--overlay", tmp_path / "po", "--jsonl", tmp_path / "l.jsonl")
    ended = segment(bundle, photos, *outputs)
    assert ended.exit_code == 0, ended.output
    assert everything_below(tmp_path / "pm") == sorted(["classes.json", *(f"{name}.png" for name in NAMES)])
    assert everything_below(tmp_path / "po") == sorted(f"{name}.png" for name in NAMES)
    lines = json_lines(tmp_path / "l.jsonl")
    assert [(line["index"], line["file"]) for line in lines] == [(n, f"{name}.jpg") for n, name in enumerate(NAMES)]
    mask = cv2.imread(str(tmp_path / "pm" / "img_10.png"), cv2.IMREAD_UNCHANGED)
    drawn = cv2.imread(str(tmp_path / "po" / "img_10.png"))
    assert mask is not None
    assert drawn is not None
    assert mask.shape == (48, 64)
    assert_beside_its_legend(drawn)


def test_classes_json_says_what_the_labels_of_masks_mean(bundle: Path, photos: Path, tmp_path: Path) -> None:
    segment(bundle, photos, "--masks", tmp_path / "pm")
    names = tuple(CLASSES.split("; "))
    colours = class_colours(names)
    assert json.loads((tmp_path / "pm" / "classes.json").read_text(encoding="utf-8")) == [
        {"label": label, "name": name, "color": "#{:02x}{:02x}{:02x}".format(*colours[label])}
        for label, name in enumerate(names)
    ]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_one_picture_gives_one_picture_and_one_mask(bundle: Path, tmp_path: Path, suffix: str) -> None:
    photo = write_picture(tmp_path / "photo.png")
    outputs = ("--masks", tmp_path / "x.png", "--overlay", tmp_path / f"seen{suffix}")
    ended = segment(bundle, photo, *outputs)
    assert ended.exit_code == 0, ended.output
    assert ended.stdout.splitlines() == [str(tmp_path / "x.png"), str(tmp_path / f"seen{suffix}")]
    mask, drawn = cv2.imread(str(tmp_path / "x.png"), -1), cv2.imread(str(tmp_path / f"seen{suffix}"))
    assert mask is not None
    assert drawn is not None
    assert mask.shape == (48, 64)
    assert_beside_its_legend(drawn)
    segment(bundle, photo, "--overlay", tmp_path / f"plain{suffix}", "--plain")
    plain = cv2.imread(str(tmp_path / f"plain{suffix}"))
    assert plain is not None
    assert plain.shape == (48, 64, 3)


def test_a_picture_goes_into_a_folder_under_its_own_name_and_a_slideshow_is_made_when_asked_for(
    bundle: Path, photos: Path, tmp_path: Path
) -> None:
    assert (
        segment(bundle, photos / "img_2.jpg", "--overlay", tmp_path / "po", "--masks", tmp_path / "pm").exit_code == 0
    )
    assert everything_below(tmp_path / "po") == ["img_2.png"]
    assert everything_below(tmp_path / "pm") == ["classes.json", "img_2.png"]
    assert segment(bundle, photos, "--overlay", tmp_path / "slides.mp4").exit_code == 0
    assert (tmp_path / "slides.mp4").stat().st_size > 0


def test_several_pictures_share_the_folders_and_keep_their_names(bundle: Path, photos: Path, tmp_path: Path) -> None:
    words = (*sorted(photos.iterdir()), "--masks", tmp_path / "pm", "--overlay", tmp_path / "po")
    ended = segment(bundle, *words)
    assert ended.exit_code == 0, ended.output
    assert everything_below(tmp_path / "pm") == sorted(["classes.json", *(f"{name}.png" for name in NAMES)])
    assert everything_below(tmp_path / "po") == sorted(f"{name}.png" for name in NAMES)
    again = segment(bundle, *words)
    assert (again.exit_code, "exists already" in error_of(again)) == (2, True)


def test_files_that_differ_in_their_suffix_alone_keep_masks_of_their_own(bundle: Path, tmp_path: Path) -> None:
    write_picture(tmp_path / "photos" / "a.jpg")
    write_picture(tmp_path / "photos" / "a.png", 32)
    segment(bundle, tmp_path / "photos", "--masks", tmp_path / "pm")
    heights = {path.name: cv2.imread(str(path), -1).shape[0] for path in (tmp_path / "pm").glob("*.png")}  # type: ignore[union-attr]
    assert heights == {"a.jpg.png": 48, "a.png.png": 32}


def test_a_damaged_picture_is_skipped_reported_and_counted_and_shifts_no_name(
    bundle: Path, photos: Path, tmp_path: Path
) -> None:
    (photos / "img_1.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a picture")
    ended = segment(bundle, photos, "--masks", tmp_path / "pm", "--jsonl", tmp_path / "l.jsonl")
    assert ended.exit_code == 5, ended.output
    assert "1 of its pictures could not be read" in error_of(ended)
    assert "3 frames" in ended.stderr
    assert "1 damaged and skipped" in ended.stderr
    numbers = {line["file"]: line["index"] for line in json_lines(tmp_path / "l.jsonl")}
    assert numbers == {"img_0.jpg": 0, "img_2.jpg": 2, "img_10.jpg": 3}
    assert {path.stem for path in (tmp_path / "pm").glob("*.png")} == set(NAMES)
    allowed = segment(bundle, photos, "--masks", tmp_path / "pm", "--force", "--allow-partial", "--json")
    assert (allowed.exit_code, summary_of(allowed)["skipped"], summary_of(allowed)["frames"]) == (0, 1, 3)


def test_a_resumed_folder_does_only_the_pictures_that_are_missing(bundle: Path, photos: Path, tmp_path: Path) -> None:
    segment(bundle, photos, "--masks", tmp_path / "pm", "--resume", "--limit", 2)
    (tmp_path / "pm" / "img_0.png").write_bytes(b"changed in size")
    kept = (tmp_path / "pm" / "img_2.png").stat().st_mtime_ns
    ended = segment(bundle, photos, "--masks", tmp_path / "pm", "--resume", "--limit", 2, "--json")
    assert ended.exit_code == 0, ended.output
    assert summary_of(ended)["frames"] == 2  # img_0 again, and img_10
    assert (tmp_path / "pm" / "img_2.png").stat().st_mtime_ns == kept
    expected = np.asarray(cv2.imread(str(tmp_path / "pm" / "img_2.png"), -1))
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "pm" / "img_0.png"), -1), expected)


def test_pictures_called_like_frames_keep_their_masks_in_a_resumed_run(bundle: Path, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        write_picture(tmp_path / "photos" / f"frame_{number:06d}.jpg")
    words = (tmp_path / "photos", "--masks", tmp_path / "pm", "--resume")
    assert segment(bundle, *words, "--limit", 2).exit_code == 0
    assert len(list((tmp_path / "pm").glob("*.png"))) == 2
    write_picture(tmp_path / "photos" / "frame_000004.jpg")
    (tmp_path / "pm" / "frame_000001.png").unlink()
    assert segment(bundle, *words, "--limit", 2).exit_code == 0
    assert {path.stem for path in (tmp_path / "pm").glob("*.png")} == {f"frame_{number:06d}" for number in (1, 2, 3)}


def test_what_a_killed_run_left_of_a_folder_of_overlays_is_swept_by_the_next(
    bundle: Path, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / ".po.abcdefgh.tmp").mkdir()
    (tmp_path / ".po.abcdefgh.tmp" / "img_0.png").write_bytes(b"half")
    ended = segment(bundle, photos, "--overlay", tmp_path / "po", "--resume")
    assert ended.exit_code == 0, ended.output
    assert not (tmp_path / ".po.abcdefgh.tmp").exists()


@pytest.mark.parametrize(
    ("source", "output", "message"),
    [
        ("clip.mp4", ("--overlay", "x.png"), "ends in '.png', expected one of .mp4, .mkv, .mov"),
        ("clip.mp4", ("--overlay", "folder"), "ends in '', expected one of .mp4, .mkv, .mov"),
        ("clip.mp4", ("--masks", "x.png"), "is one file, but clip.mp4 is no single picture; name a folder"),
        ("photos", ("--masks", "x.png"), "is one file, but photos is no single picture; name a folder"),
        ("photos", ("--overlay", "x.png"), "or a folder without suffix for a PNG of each picture"),
        ("photos/img_0.jpg", ("--overlay", "x.gif"), "expected one of .png, .jpg, .jpeg, .webp, .mp4"),
        ("photos/img_0.jpg", ("--overlay", "photos/img_0.jpg"), "is the source itself"),
        ("photos", ("--overlay", "photos"), "is the source itself"),
        ("photos/img_0.jpg", ("--masks", "both", "--overlay", "both"), "would lie among the masks of that folder"),
        ("photos", ("--masks", "mine"), "classes.json exists already"),
    ],
)
def test_outputs_that_do_not_fit_the_source_are_refused(
    bundle: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    output: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_clip(tmp_path / "clip.mp4", 3)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "classes.json").write_text("of somebody else", encoding="utf-8")
    before = everything_below(tmp_path)
    ended = segment(bundle, source, *output)
    assert ended.exit_code == 2, ended.output
    assert message in error_of(ended)
    assert everything_below(tmp_path) == before


def test_outputs_in_hand_are_still_those_of_a_video(bundle: Path, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 3)
    assert segment(bundle, clip, *outputs_in(tmp_path / "out")).exit_code == 0
    assert {path.name for path in (tmp_path / "out" / "masks").iterdir()} == {
        "classes.json", *(f"frame_{number:06d}.png" for number in range(3))
    }  # fmt: skip
    assert {line["file"] for line in json_lines(tmp_path / "out" / "l.jsonl")} == {None}
