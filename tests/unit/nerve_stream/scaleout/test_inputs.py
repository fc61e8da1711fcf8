import os
from pathlib import Path

import pytest

from nerve_runtime.errors import SourceError, UsageError
from nerve_stream.scaleout.inputs import find_inputs
from nerve_stream.scaleout.job import JobInput, Places, decode_chunk, encode_chunk, split_into_chunks
from tests.data.job_inputs import write_tree

NOWHERE = Places(masks="/nowhere/masks")


def _names(words: list[str], places: Places = NOWHERE) -> list[str]:
    return [item.name for item in find_inputs(words, places)]


def test_a_folder_gives_all_below_it_with_their_paths(tmp_path: Path) -> None:
    write_tree(tmp_path)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "x.png").write_bytes(b"x")
    (tmp_path / "notes.txt").write_text("no source")
    expected = ["a/clip.mp4", "a/clip.png", "b/photo 1", "b/deep/clip", "b/deep/other"]
    assert _names([str(tmp_path)]) == expected
    assert sorted(_names([f"{tmp_path}/**/*"])) == sorted(expected)
    assert _names([str(tmp_path), str(tmp_path / "a")]) == expected, "each input once"


def test_folders_of_outputs_within_the_sources_are_no_inputs(tmp_path: Path) -> None:
    write_tree(tmp_path)
    places = Places(masks=str(tmp_path / "a"))
    assert _names([str(tmp_path)], places) == ["b/photo 1", "b/deep/clip", "b/deep/other"]


def test_folders_of_outputs_are_no_inputs_under_any_name(tmp_path: Path) -> None:
    write_tree(tmp_path / "in")
    (tmp_path / "link").symlink_to(tmp_path / "in" / "a")
    places = Places(jsonl="/nowhere/lines", masks=str(tmp_path / "link"))
    assert _names([str(tmp_path / "in")], places) == ["b/photo 1", "b/deep/clip", "b/deep/other"]
    with pytest.raises(SourceError, match=r"/a lies in the folder of outputs --masks, whose files are no inputs"):
        find_inputs([str(tmp_path / "in" / "a")], places)


def test_a_file_that_is_missing_is_an_input_and_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (item,) = find_inputs([str(tmp_path / "none.mp4")], NOWHERE)
    assert (item.name, item.size_bytes, item.picture) == ("none", 0, False)
    with pytest.raises(SourceError, match=r"holds no video or picture, expected files ending in .*mp4"):
        find_inputs([str(tmp_path)], NOWHERE)


@pytest.mark.parametrize("source", ["0", "/dev/video1", "rtsp://me:secret@door/live", "udp://:5000"])
def test_what_is_live_is_refused(source: str) -> None:
    with pytest.raises(UsageError, match=r"is a camera or a stream, expected files; .* run it without them") as caught:
        find_inputs([source], NOWHERE)
    assert "secret" not in str(caught.value)


def test_a_relative_source_does_not_depend_on_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tree(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert {os.path.isabs(item.source) for item in find_inputs(["a"], NOWHERE)} == {True}  # noqa: PTH117


def _input(name: str, size_bytes: int, *, picture: bool = False) -> JobInput:
    return JobInput(name, name, picture, size_bytes)


def test_videos_are_chunks_of_their_own_the_largest_first_and_pictures_go_together() -> None:
    pictures = [_input(f"p{n}", 1, picture=True) for n in range(20)]
    chunks = split_into_chunks([_input("small", 5), *pictures, _input("large", 9)], workers=2)
    assert [[item.name for item in chunk] for chunk in chunks[:2]] == [["large"], ["small"]]
    assert [len(chunk) for chunk in chunks[2:]] == [3, 3, 3, 3, 3, 3, 2]
    assert sorted(item.name for chunk in chunks for item in chunk) == sorted(
        ["small", "large", *(item.name for item in pictures)]
    )
    assert decode_chunk(encode_chunk(chunks[2])) == chunks[2]


def test_a_chunk_has_at_most_32_pictures() -> None:
    chunks = split_into_chunks([_input(f"p{n}", 1, picture=True) for n in range(1000)], workers=1)
    assert max(map(len, chunks)) == 32
