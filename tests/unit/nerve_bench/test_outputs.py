"""`nerve-bench --out` refuses devices before it computes, and never puts a file in the place of a device, pipe or link."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from nerve_bench.cli import main as cli
from nerve_bench.datasets.pixel_counts import PixelCountFile
from nerve_runtime.errors import NerveError, ResourceError, UsageError
from tests.data.benchmark_folders import write_voc

needs_devices = pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full: a Linux device")
Words = Callable[[Path, Path], list[object]]


def run(*words: object) -> Result:
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def device_in(folder: Path, name: str, device: str = "/dev/full") -> Path:
    """A link to a device, so that a fault could only harm the link."""
    (folder / name).symlink_to(device)
    return folder / name


def evaluated(data: Path, out: Path) -> list[object]:
    write_voc(data, 1)
    return ["evaluate", "--dataset", "voc20", "--data", data, "--out", out]


def reported(data: Path, out: Path) -> list[object]:
    return ["report", "--from", data, "--no-pictures", "--out", out]


def filmed(data: Path, out: Path) -> list[object]:
    return ["demo-video", "--frames", 2, "--size", 64, "--out", out]


@needs_devices
@pytest.mark.parametrize("words", [evaluated, reported, filmed])
def test_a_device_is_refused_before_anything_is_computed(
    words: Words, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "out").mkdir()
    device = device_in(tmp_path / "out", "result.mp4")
    for computing in ("datasets.evaluate.evaluate_benchmark", "report.page.page", "world.clips.write_video"):
        monkeypatch.setattr(f"nerve_bench.{computing}", lambda *_: pytest.fail("it was computed first"))
    ended = run(*words(tmp_path / "data", device))
    assert isinstance(ended.exception, UsageError)
    assert f"output {device} is a device, expected" in str(ended.exception)
    assert list((tmp_path / "out").iterdir()) == [device]
    assert device.is_symlink()


@needs_devices
@pytest.mark.parametrize(("command", "name"), [("certify", "certificate.json"), ("reproduce", "report.jsonl")])
def test_a_device_in_the_folder_of_a_report_is_refused_first(command: str, name: str, tmp_path: Path) -> None:
    device = device_in(tmp_path, name)
    words = [command, *(["bundles/none"] if command == "certify" else ["--data", tmp_path]), "--out", tmp_path]
    ended = run(*words)
    assert isinstance(ended.exception, UsageError)
    assert f"output {device} is a device" in str(ended.exception)
    assert device.is_symlink()


@needs_devices
def test_a_state_file_that_is_a_device_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a device"):
        PixelCountFile(device_in(tmp_path, "state.jsonl"), {})


def test_a_report_is_written_through_a_pipe_which_stays_one(tmp_path: Path) -> None:
    pipe, read = tmp_path / "page.html", list[str]()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    (tmp_path / "data").mkdir()
    assert run(*reported(tmp_path / "data", pipe)).exit_code == 0
    reader.join(5)
    assert pipe.is_fifo()
    assert read[0].startswith("<!doctype html>")


def test_a_video_follows_a_link_and_refuses_a_pipe(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link.mp4").symlink_to(tmp_path / "disk" / "video.mp4")
    assert run(*filmed(tmp_path, tmp_path / "link.mp4")).exit_code == 0
    assert (tmp_path / "link.mp4").is_symlink()
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["video.mp4"]
    os.mkfifo(tmp_path / "pipe.mp4")
    assert isinstance(run(*filmed(tmp_path, tmp_path / "pipe.mp4")).exception, UsageError)


def test_a_video_that_breaks_off_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> int:
        raise OSError("the disk is full")

    old = tmp_path / "video.mp4"
    old.write_bytes(b"old")
    monkeypatch.setattr("nerve_bench.world.clips.write_video", broken)
    assert isinstance(run(*filmed(tmp_path, old)).exception, (OSError, NerveError))
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("video.mp4", b"old")]


@needs_devices
def test_figures_that_cannot_be_kept_say_so_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    text = tmp_path / "text.md"
    text.write_text("nothing is marked\n")
    folder = tmp_path / "file"
    folder.write_bytes(b"")
    ended = run("figures", "--from", tmp_path / "data", "--kept", folder / "figures.json", "--text", text)
    assert isinstance(ended.exception, ResourceError)
    ended = run(
        "figures",
        "--from",
        tmp_path / "data",
        "--kept",
        tmp_path / "kept.json",
        "--text",
        device_in(tmp_path, "d", "/dev/null"),
    )
    assert isinstance(ended.exception, UsageError)
