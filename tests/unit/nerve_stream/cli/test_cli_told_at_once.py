"""What can be refused without opening a graph is refused first; what a run says while it goes and ends."""

import signal
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nerve_stream.cli import segment as cli
from nerve_stream.cli.input import as_options
from nerve_stream.pipeline import SegmenterOptions
from tests.data.clips import write_clip
from tests.data.running_command import RunningCommand, error_of, segment, words_of


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip.mp4", 5)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["none.mp4"], 5, "source none.mp4 does not exist"),
        (["empty.mp4"], 5, "is empty (0 bytes)"),
        (["none.mp4", "empty.mp4"], 5, ""),
        (["clip.mp4", "--overlay", "there.mp4"], 2, "exists already"),
        (["clip.mp4", "--overlay", "x.avi"], 2, "ends in '.avi'"),
        (["clip.mp4", "--jsonl", "there.mp4"], 2, "exists already"),
        (["clip.mp4", "--jsonl", "/dev/full", "--force"], 2, "is a device"),
        (["clip.mp4", "--masks", "folder"], 2, "holds masks already"),
        (["clip.mp4", "--masks", "new", "--mask-format", "grey"], 2, "mask format is 'grey'"),
        (["clip.mp4", "--hang-timeout", "0"], 2, "hang timeout is 0.0 s"),
        (["clip.mp4", "--duration", "0"], 2, "duration is 0.0 s"),
        (["clip.mp4", "--give-up-after", "-1"], 2, "give_up_after_s is -1.0 s"),
    ],
)
def test_nothing_is_opened_for_a_run_that_cannot_be(
    bundle: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int, message: str
) -> None:
    def open_nothing(options: SegmenterOptions) -> None:
        raise AssertionError("a bundle was opened")

    monkeypatch.setattr(SegmenterOptions, "open", open_nothing)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "there.mp4").write_bytes(b"mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "frame_000000.png").write_bytes(b"mine")
    ended = segment(bundle, *words)
    assert ended.exit_code == code, ended.output
    assert message in ended.stderr
    assert (tmp_path / "there.mp4").read_bytes() == b"mine"


def test_of_several_sources_a_missing_one_is_told_first_and_the_others_are_done(
    bundle: Path, clip: Path, tmp_path: Path
) -> None:
    ended = segment(bundle, tmp_path / "none.mp4", clip, "--jsonl", tmp_path / "l.jsonl")
    assert ended.exit_code == 5
    assert ended.stderr.index("none.mp4 does not exist") < ended.stderr.index("backend: fake")
    assert (tmp_path / "l.clip.jsonl").exists()


def test_a_list_with_commas_alone_is_answered_by_showing_the_semicolon(bundle: Path, clip: Path) -> None:
    words = [str(clip), "--bundle", str(bundle), "--backend", "fake", "--classes", "red, grass, sky"]
    ended = CliRunner().invoke(cli.app, words)
    assert ended.exit_code == 2
    assert "classes are separated by ';' and synonyms by ',': 'red; grass; sky'" in error_of(ended)
    unknown = CliRunner().invoke(cli.app, [*words[:-1], "unicorn"])
    assert "unicorn" in error_of(unknown)
    assert "rival" not in error_of(unknown)


def test_each_source_has_one_line_and_stages_only_when_asked_for(bundle: Path, clip: Path) -> None:
    ended = segment(bundle, clip, "--keyframe-every", 2)
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("clip.mp4: ")]
    assert line.startswith("clip.mp4: 5 frames in ")
    assert line.endswith("frames/s), 3 keyframes")
    assert "walk_carried" not in ended.stderr
    timed = segment(bundle, clip, "--keyframe-every", 2, "--timings")
    assert "walk_carried" in timed.stderr


def test_messages_name_options_where_options_are_given() -> None:
    said = as_options('use backend="ort" or providers="cpu", trust_engines=True, allow_unchecked=True, x=True')
    assert said == "use --backend ort or --providers cpu, --trust-engines, --allow-unchecked, x=True"


def test_ctrl_c_says_that_it_was_heard(bundle: Path, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "long.mp4", 3000)
    words = words_of(bundle, clip, "--jsonl", tmp_path / "l.jsonl", "--follow")
    with RunningCommand(tmp_path / "run", words) as command:
        command.wait_for("a result", lambda: (tmp_path / "l.jsonl").exists() and (tmp_path / "l.jsonl").stat().st_size)
        command.process.send_signal(signal.SIGINT)
        assert command.end() == 130
        assert "stopping: what is done is being finished; once more ends at once" in command.stderr()
