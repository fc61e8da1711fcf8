"""`nerve-segment` as a process, on real streams, killed, frozen and interrupted: rows 27 to 29 and 48, and long jobs."""

import json
import os
import re
import signal
import socket
import time
import urllib.request
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from nerve_stream.sources.decoding import process as decoder
from tests.data.clips import halves
from tests.data.media import make_video
from tests.data.running_command import (
    RunningCommand,
    conserved,
    everything_below,
    frames_of_video,
    json_lines,
    segment,
    status_of,
    words_of,
)
from tests.flaps import FPS, Server, free_port
from tests.unit.nerve_stream.sources.test_frames import write_image

pytestmark = pytest.mark.slow

H264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p")
SECRET = "secret"
"""Of the server's address, rtsp://user:secret@..."""
SUSPENDED_S = 3.0


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(free_port()) as running:
        yield running


class Live:
    """The files of a run on streams, and what they say."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "out"
        self.overlay, self.lines = self.folder / "o.mp4", self.folder / "l.jsonl"
        self.status_path = folder / "status.json"

    def words(self, *more: object) -> tuple[object, ...]:
        """Options that ask for the files."""
        return ("--overlay", self.overlay, "--jsonl", self.lines, "--status-json", self.status_path, *more)

    def source(self, number: int = 0) -> dict[str, Any]:
        """What the status file says of a source, `{}` while it says nothing."""
        sources: list[dict[str, Any]] = status_of(self.status_path).get("sources", [])
        return sources[number] if sources else {}

    def done(self, number: int = 0) -> int:
        """Frames of a source that are written."""
        return int(self.source(number).get("counts", {"done": 0})["done"])

    def state(self, number: int = 0) -> str:
        """Where a source stands."""
        return str(self.source(number).get("state", ""))


def metrics_of(command: RunningCommand) -> str:
    """What Prometheus would be told now."""
    address = re.search(r"metrics: (http://\S+)", command.stderr())
    assert address is not None, command.stderr()
    with urllib.request.urlopen(address[1], timeout=10) as answer:
        return str(answer.read().decode())


def test_rows_27_and_28_a_stream_is_killed_and_frozen_and_all_outputs_are_whole_in_the_end(
    bundle: Path, tmp_path: Path
) -> None:
    live = Live(tmp_path)
    with Server(free_port()) as server:
        words = words_of(bundle, server.url, *live.words("--follow", "--metrics-port", 0, "--verbose"))
        with RunningCommand(tmp_path / "run", words) as command:
            command.wait_for("frames", lambda: live.done() > FPS)
            children = command.children()
            assert len(children) == 2  # the decoder and the worker
            told = " ".join(word for child in children for word in child.cmdline())
            server.kill()
            command.wait_for("the loss is seen", lambda: live.state() == "reconnecting", 5)
            server.start()
            command.wait_for("it is back", lambda: live.state() == "streaming", 12)
            server.send(signal.SIGSTOP)
            command.wait_for("the freeze is seen", lambda: live.state() == "reconnecting", 6)
            server.send(signal.SIGCONT)
            command.wait_for("it is back", lambda: live.state() == "streaming", 12)
            before = live.done()
            command.wait_for("frames again", lambda: live.done() > before + FPS)
            metrics = metrics_of(command)
            command.children()
            command.process.send_signal(signal.SIGTERM)
            assert command.end(5) == 143, command.stderr()
            assert command.left_over() == []
            texts = [command.stdout(), command.stderr(), metrics, told]
    source, lines = live.source(), json_lines(live.lines)
    assert conserved(source)
    assert source["counts"]["in_flight"] == 0
    assert frames_of_video(live.overlay) == len(lines) == source["counts"]["done"]
    assert all(later["index"] > earlier["index"] for earlier, later in pairwise(lines))
    assert all(later["time_s"] > earlier["time_s"] for earlier, later in pairwise(lines))
    samples = {(one.name, one.labels.get("outcome")): one.value for family in text_string_to_metric_families(metrics) for one in family.samples}  # fmt: skip
    assert samples["nerve_reconnects_total", None] == source["reconnects"] == 2
    assert 0 < samples["nerve_frames_total", "done"] <= source["counts"]["done"]
    assert status_of(live.status_path)["worker_restarts"] == 0
    texts += [path.read_bytes().decode(errors="ignore") for path in tmp_path.rglob("*") if path.is_file()]
    assert [text for text in texts if SECRET in text] == []


def test_of_two_streams_one_dies_for_good_and_the_other_goes_on(bundle: Path, tmp_path: Path, server: Server) -> None:
    live = Live(tmp_path)
    with Server(free_port()) as dying:
        words = words_of(bundle, server.url, dying.url, *live.words("--give-up-after", 2, "--duration", 10))
        with RunningCommand(tmp_path / "run", words) as command:
            command.wait_for("frames of both", lambda: min(live.done(0), live.done(1)) > FPS)
            dying.kill()
            command.children()
            assert command.end() == 5, command.stderr()
            assert command.left_over() == []
            (error,) = [line for line in command.stderr().splitlines() if line.startswith("error: ")]
    assert "was away for 2 s and is given up" in error
    assert SECRET not in error
    good, dead = sorted(live.folder.glob("l.*.jsonl")), sorted(live.folder.glob("o.*.mp4"))
    assert [frames_of_video(overlay) for overlay in dead] == [len(json_lines(lines)) for lines in good]
    ends_s = sorted(json_lines(lines)[-1]["time_s"] for lines in good)
    assert ends_s[0] < 9.5 < ends_s[1] < 10
    seen = status_of(live.status_path)["sources"]
    assert [(source["state"], source["reconnects"], conserved(source)) for source in seen] == [
        ("ended", 0, True),
        ("failed", 0, True),
    ]
    # From the second frame on: the first one of a stream waits until all of them are open.
    steps_s = [
        later["time_s"] - earlier["time_s"] for lines in good for earlier, later in pairwise(json_lines(lines)[1:])
    ]
    assert max(steps_s) < 1  # neither waited for the other


def test_a_killed_command_leaves_no_file_with_a_final_name_and_no_process(
    bundle: Path, tmp_path: Path, server: Server
) -> None:
    live = Live(tmp_path)
    with RunningCommand(tmp_path / "run", words_of(bundle, server.url, *live.words())) as command:
        command.wait_for("frames", lambda: live.done() > 10)
        assert len(command.children()) == 2
        command.process.kill()
        command.end(5)
        assert command.left_over(3) == []
    assert not live.overlay.exists()
    assert not live.lines.exists()
    assert all(Path(name).name.startswith(".") for name in everything_below(live.folder))


@pytest.mark.parametrize("moment", ["while it reads", "while it waits for the stream"])
def test_ctrl_c_in_a_terminal_ends_worker_and_decoder_and_finishes_the_files(
    bundle: Path, tmp_path: Path, moment: str
) -> None:
    live = Live(tmp_path)
    with Server(free_port()) as server:
        words = words_of(bundle, server.url, *live.words())
        with RunningCommand(tmp_path / "run", words, terminal=True) as command:
            command.wait_for("frames", lambda: live.done() > FPS)
            assert len(command.children()) == 2
            if moment == "while it waits for the stream":
                server.kill()
                command.wait_for("the loss is seen", lambda: live.state() == "reconnecting", 5)
                command.children()
            command.press_ctrl_c()
            assert command.end(5) == 130, command.stderr()
            assert command.left_over() == []
            assert "Traceback" not in command.stderr()
            assert sorted(command.stdout().split()) == sorted([str(live.overlay), str(live.lines)])
    assert frames_of_video(live.overlay) == len(json_lines(live.lines)) == live.done() > FPS


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_a_silent_camera_is_opened_ends_the_command_within_5_s(
    bundle: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    live = Live(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and never says a word
        url = f"rtsp://user:secret@127.0.0.1:{silent.getsockname()[1]}/live"
        with RunningCommand(tmp_path / "run", words_of(bundle, url, *live.words())) as command:
            connection = silent.accept()[0]
            command.children()
            command.process.send_signal(number)
            assert command.end(5) == code, command.stderr()
            assert command.left_over() == []
            assert "Traceback" not in command.stderr()
            connection.close()
    assert everything_below(live.folder) == []


def most_lines_in(path: Path, window_s: float, watched_s: float) -> int:
    """The most lines that a file grew by in any such window of the next seconds."""
    until_s = time.monotonic() + watched_s
    seen: list[tuple[float, int]] = []
    while time.monotonic() < until_s:
        seen.append((time.monotonic(), path.read_bytes().count(b"\n")))
        time.sleep(0.02)
    return max(after - before for at_s, before in seen for then_s, after in seen if at_s <= then_s <= at_s + window_s)


@pytest.mark.parametrize("everybody", [False, True])
def test_row_48_a_suspended_command_goes_on_where_the_camera_is(
    bundle: Path, tmp_path: Path, server: Server, everybody: bool
) -> None:
    """Suspended alone, as a debugger does it, and with its decoder, as Ctrl-Z does it."""
    live = Live(tmp_path)
    words = words_of(bundle, server.url, *live.words("--hang-timeout", 2, "--follow"))
    with RunningCommand(tmp_path / "run", words) as command:
        command.wait_for("frames", lambda: live.done() > FPS)
        send = os.killpg if everybody else os.kill
        send(command.process.pid, signal.SIGSTOP)
        time.sleep(SUSPENDED_S)  # longer than the hang timeout and than the read timeout
        settled = len(json_lines(live.lines))
        send(command.process.pid, signal.SIGCONT)
        # 12 frames are due in half a second, and 75 were missed.
        assert most_lines_in(live.lines, 0.5, 2) < 30
        command.wait_for("frames again", lambda: live.done() > settled + FPS, 10)
        status, source = status_of(live.status_path), live.source()
        command.process.send_signal(signal.SIGTERM)
        assert command.end(5) == 143, command.stderr()
    assert (status["worker_restarts"], source["counts"]["dropped_by_reason"]["failed"]) == (0, 0)
    # FFmpeg in a decoder that was suspended too finds its read timeout over, and the stream is opened anew.
    assert source["reconnects"] <= everybody
    assert source["age"]["p50_ms"] < 300
    assert conserved(source)


def test_row_29_a_decoder_deaf_to_sigterm_is_killed_and_the_stream_goes_on(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(decoder, "TARGET", "tests.data.fake_decoders:stubborn")
    live, before = Live(tmp_path), psutil.Process().children()
    ended = segment(bundle, 0, *live.words("--lossless", "--limit", 5, "--no-isolate"))
    assert ended.exit_code == 0, ended.output
    assert (live.source()["reconnects"], live.done()) == (1, 5)
    assert frames_of_video(live.overlay) == 5
    assert psutil.Process().children() == before


def masks_by_name(folder: Path) -> dict[str, bytes]:
    """Every mask of a folder and of the folders in it, and whatever else is there but records."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and ".nerve-job" not in path.name]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_folder_of_videos_that_was_killed_goes_on_with_those_that_are_left(bundle: Path, tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    for number, seconds in enumerate((1, 8, 8)):
        make_video(clips / f"{number}.mp4", *H264, "-preset", "ultrafast", seconds=seconds)
    assert segment(bundle, clips, "--masks", tmp_path / "whole").exit_code == 0
    words = words_of(bundle, clips, "--masks", tmp_path / "masks", "--overlay", tmp_path / "o.mp4", "--resume")
    record = tmp_path / ".o.mp4.nerve-job.jsonl"
    with RunningCommand(tmp_path / "first", words) as command:
        command.wait_for("the first is finished", lambda: record.exists() and record.read_text().count("\n") > 1)
        command.process.kill()
        command.end(5)
    assert sorted(path.name for path in tmp_path.glob("o.*")) == ["o.0.mp4"]
    assert frames_of_video(tmp_path / "o.0.mp4") == 10
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "masks" / "0").iterdir()}
    with RunningCommand(tmp_path / "second", words) as command:
        assert command.end() == 0, command.stderr()
        assert "resuming: 1 of 3 sources are finished" in command.stderr()
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "masks" / "0").iterdir()} == finished
    assert masks_by_name(tmp_path / "masks") == masks_by_name(tmp_path / "whole")
    assert [frames_of_video(path) for path in sorted(tmp_path.glob("o.*"))] == [10, 80, 80]
    assert list(tmp_path.glob(".*.tmp*")) == []  # what was killed is swept
    outputs = ("--masks", tmp_path / "masks", "--overlay", tmp_path / "o.mp4")
    refused = segment(bundle, clips, *outputs, "--resume", "--alpha", 0.25)
    assert refused.exit_code == 2
    assert "is of a job with other settings (constants: then " in refused.stderr
    assert '"alpha": 0.25' in refused.stderr


def test_a_folder_of_pictures_that_was_killed_goes_on_in_the_middle(bundle: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(40):
        picture = halves((240, 320))
        picture[:, : number + 1] = number * 2
        write_image(pictures / f"{number}.png", picture)
    masks = tmp_path / "masks"
    words = words_of(bundle, pictures, "--masks", masks, "--resume")
    with RunningCommand(tmp_path / "first", words) as command:
        command.wait_for("some masks", lambda: len(list(masks.glob("*.png"))) > 8)
        command.process.kill()
        command.end(5)
    noted = [json.loads(line)["mask"] for line in (masks / ".nerve-job.jsonl").read_text().splitlines()[1:-1]]
    finished = {name: (masks / name).stat().st_mtime_ns for name in noted}
    assert 4 < len(finished) < 38
    with RunningCommand(tmp_path / "second", words) as command:
        assert command.end() == 0, command.stderr()
    assert {name: (masks / name).stat().st_mtime_ns for name in finished} == finished
    assert segment(bundle, pictures, "--masks", tmp_path / "whole").exit_code == 0
    assert masks_by_name(masks) == masks_by_name(tmp_path / "whole")
