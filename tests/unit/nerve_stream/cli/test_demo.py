"""`nerve-segment demo`: something to see at once, with nothing but the package."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from nerve_stream.cli import segment as cli
from nerve_stream.cli.options import ClassOptions, OutputOptions, SourceOptions
from nerve_stream.cli.plan import DEMO_OVERLAY, demo_options, is_demo
from tests.data.clips import write_clip
from tests.data.fake_bundle import make_fake_bundle
from tests.data.running_command import frames_of_video, json_lines


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of a small clip, two classes and a bundle."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "package" / "demo").mkdir(parents=True)
    write_clip(tmp_path / "package" / "demo" / "clip.mp4", 4)
    (tmp_path / "package" / "demo" / "classes.txt").write_text("red\ngrass\nsky\n", encoding="utf-8")
    make_fake_bundle(tmp_path / "package" / "tiny")
    for module in ("plan", "input"):
        monkeypatch.setattr(f"nerve_stream.cli.{module}.files", lambda name: tmp_path / "package")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "package"


def test_the_word_demo_gives_an_overlay_in_the_current_folder_and_may_be_said_again(package: Path) -> None:
    for _ in range(2):
        ended = CliRunner().invoke(cli.app, ["demo", "--backend", "fake"])
        assert ended.exit_code == 0, ended.output
        assert ended.stdout.splitlines() == [str(DEMO_OVERLAY)]
        assert "colours: the two most alike differ by normal" in ended.stderr
    assert frames_of_video(DEMO_OVERLAY) == 4
    assert [path.name for path in Path().iterdir()] == [str(DEMO_OVERLAY)]


def test_what_is_asked_for_beside_the_demo_is_kept(package: Path) -> None:
    words = ["demo", "--backend", "fake", "--classes", "blue; road", "--jsonl", "l.jsonl"]
    ended = CliRunner().invoke(cli.app, words)
    assert ended.exit_code == 0, ended.output
    assert ended.stdout.splitlines() == ["l.jsonl"]
    assert {named["name"] for line in json_lines(Path("l.jsonl")) for named in line["classes"]} <= {"blue", "road"}
    read, find, write = demo_options(
        SourceOptions(["demo"]), ClassOptions(classes="a; b"), OutputOptions(), show_only=True
    )
    assert (find.classes, find.classes_file, write.overlay) == ("a; b", None, None)
    assert read.sources == [str(package / "demo" / "clip.mp4")]


def test_a_file_of_that_name_is_a_source_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_demo(["demo"])
    assert not is_demo(["demo", "clip.mp4"])
    Path("demo").touch()
    assert not is_demo(["demo"])


def test_the_packaged_clip_and_classes_are_there() -> None:
    read, find, _ = demo_options(SourceOptions(["demo"]), ClassOptions(), OutputOptions(), show_only=False)
    assert frames_of_video(Path(read.sources[0])) >= 50
    assert find.classes_file is not None
    assert len(find.classes_file.read_text(encoding="utf-8").splitlines()) >= 8
