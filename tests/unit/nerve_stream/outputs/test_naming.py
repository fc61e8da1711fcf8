from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nerve_stream.outputs.naming import common_root, names_below, path_below
from nerve_stream.outputs.planning import plan_sources
from tests.unit.nerve_stream.cli.test_cli_plan import outputs_for

PARTS = st.sampled_from(["a", "a.mp4", "b", "b.png", "A"])


@given(st.lists(st.lists(PARTS, min_size=1, max_size=3).map("/".join), unique=True))
def test_names_differ_from_each_other_and_from_folders(paths: list[str]) -> None:
    files = [path for path in paths if not any(other.startswith(f"{path}/") for other in paths)]
    names = names_below(files)
    folders = {str(parent) for path in files for parent in Path(path).parents}
    assert len(set(names)) == len(names)
    assert not set(names) & folders
    assert all(path.startswith(name) for path, name in zip(files, names, strict=True))


def test_a_video_beside_a_folder_of_its_name_keeps_its_suffix() -> None:
    assert names_below(["clip.mp4", "clip/frame_000000.png"]) == ["clip.mp4", "clip/frame_000000"]


def test_a_name_that_would_be_taken_by_a_whole_name_is_whole_too() -> None:
    assert names_below(["a.mp4", "a.avi", "a.mp4.png"]) == ["a.mp4", "a.avi", "a.mp4.png"]


def test_outputs_lie_below_the_folder_that_was_named(tmp_path: Path) -> None:
    (tmp_path / "in" / "a").mkdir(parents=True)
    assert common_root([str(tmp_path / "in")]) == tmp_path / "in"
    assert common_root([str(tmp_path / "in" / "**" / "*.mp4")]) == tmp_path / "in"
    assert common_root([str(tmp_path / "in" / "a" / "x.mp4"), str(tmp_path / "in" / "b" / "y.mp4")]) == tmp_path / "in"
    assert path_below(tmp_path / "in", str(tmp_path / "in" / "a" / "x.mp4")) == "a/x.mp4"
    assert path_below(tmp_path / "in", str(tmp_path / "in")) == "in"


def test_a_file_whose_name_looks_like_a_pattern_has_its_own_folder(tmp_path: Path) -> None:
    (tmp_path / "a[1].mp4").write_bytes(b"x")
    assert common_root([str(tmp_path / "a[1].mp4")]) == tmp_path


@pytest.mark.parametrize(("overlay", "jsonl"), [("o", "l"), ("o.mp4", "l.jsonl")])
def test_outputs_of_several_videos_are_named_by_the_kind_of_output(overlay: str, jsonl: str) -> None:
    first, _ = plan_sources(["x/a.mp4", "y/a.mp4"], outputs_for(overlay=Path(overlay), jsonl=Path(jsonl)))
    expected = [Path("o/x/a.mp4"), Path("l/x/a.jsonl")] if overlay == "o" else [Path("o.a.mp4"), Path("l.a.jsonl")]
    assert first.outputs.paths() == expected
