from pathlib import Path

import pytest

from nerve_runtime.errors import SourceError
from nerve_stream.sources.expanding import expand_sources
from nerve_stream.sources.opening import open_frames


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Videos and pictures in folders, which is the working folder too."""
    names = [
        "clips/10.mp4",
        "clips/9.MP4",
        "clips/notes.txt",
        "clips/old/1.mkv",
        "shots/1.png",
        "shots/2.png",
        "a[1].mp4",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("given", "expanded"),
    [
        (["clips"], ["clips/9.MP4", "clips/10.mp4"]),
        (["clips/*"], ["clips/9.MP4", "clips/10.mp4"]),
        (["clips/*.mp4"], ["clips/10.mp4"]),
        (["clips/*.txt"], ["clips/notes.txt"]),
        (["**/*.mkv"], ["clips/old/1.mkv"]),
        (["clips/**"], ["clips/9.MP4", "clips/10.mp4", "clips/old/1.mkv"]),
        (["sh?ts"], ["shots"]),
        (["cl[i]ps"], ["clips/9.MP4", "clips/10.mp4"]),
        (["shots"], ["shots"]),
        (["a[1].mp4"], ["a[1].mp4"]),
        (["missing.mp4"], ["missing.mp4"]),
        (["clips/10.mp4", "clips/*"], ["clips/10.mp4", "clips/9.MP4"]),
        (
            ["0", "rtsp://user:secret@host/*?token=1", "/dev/video0"],
            ["0", "rtsp://user:secret@host/*?token=1", "/dev/video0"],
        ),
    ],
)
@pytest.mark.usefixtures("folder")
def test_patterns_and_folders_of_videos_become_files_in_natural_order(given: list[str], expanded: list[str]) -> None:
    assert expand_sources(given) == expanded


def test_an_absolute_pattern_is_understood(folder: Path) -> None:
    assert expand_sources([f"{folder}/clips/1*.mp4"]) == [f"{folder}/clips/10.mp4"]


@pytest.mark.usefixtures("folder")
def test_a_pattern_that_matches_nothing_is_named() -> None:
    with pytest.raises(SourceError, match=r"pattern nothing/\*\.mp4 matches nothing; check it, and quote it"):
        expand_sources(["clips", "nothing/*.mp4"])


def test_a_folder_of_both_kinds_has_to_be_told_apart(folder: Path) -> None:
    (folder / "clips" / "1.png").touch()
    with pytest.raises(
        SourceError, match=r"folder clips holds 1 images and 2 videos, expected one kind; name the videos"
    ):
        expand_sources(["clips"])


def test_a_folder_of_videos_is_no_source_by_itself(folder: Path) -> None:
    with pytest.raises(
        SourceError, match=r"holds no image, expected .*; it holds 2 videos, which are sources of their own"
    ):
        open_frames(folder / "clips")
