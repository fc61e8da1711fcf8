import io
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import av
import av.error
import ffmpeg
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nerve_runtime.errors import CompatibilityError, ResourceError, UsageError
from nerve_runtime.result import FrameResult
from nerve_stream.backoff import Backoff
from nerve_stream.redaction import redacted
from nerve_stream.sinks import OutgoingStream, outgoing
from tests.data.processes import threads_and_files

SIZE_HW = (96, 128)
LARGE_HW = (480, 640)
# Four pictures that have nothing in common: a connection's buffers are soon full of them.
NOISE = np.random.default_rng(0).integers(0, 256, (4, *LARGE_HW, 3)).astype(np.uint8)


def write_frames(
    stream: OutgoingStream, count: int, pause_s: float = 0.02, size_hw: tuple[int, int] = SIZE_HW
) -> float:
    """Offer frames and give the longest time that one `write` took, in seconds."""
    longest_s = 0.0
    labels = np.zeros(size_hw, dtype=np.uint8)
    for index in range(count):
        result = FrameResult(labels, labels, ("grass",), index, None, {}, True, 0, True)
        picture = NOISE[(stream.frames_offered + index) % 4, : size_hw[0], : size_hw[1]]
        started_s = time.monotonic()
        stream.write(picture, result)
        longest_s = max(longest_s, time.monotonic() - started_s)
        time.sleep(pause_s)
    return longest_s


def never_waits(stream: OutgoingStream, **options: Any) -> bool:
    """Whether no `write` of twenty took 0.2 s, one frame of 5 fps: of three times, as a busy machine may stop this process.

    A `write` takes microseconds; one that waited for a receiver would do so for every frame.
    """
    return any(write_frames(stream, 20, **options) < 0.2 for _ in range(3))


def write_until(stream: OutgoingStream, true: Callable[[], bool], within_s: float = 15.0, **options: Any) -> None:
    deadline_s = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline_s, "it did not come true in time"
        write_frames(stream, 1, **options)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def close_in_time(stream: OutgoingStream) -> None:
    started_s = time.monotonic()
    stream.close()
    assert time.monotonic() - started_s < 2.5  # promised are 2 s; half a second is for a busy machine
    assert stream.frames_offered == stream.frames_sent + stream.frames_lost


@contextmanager
def rtsp_receiver(port: int) -> Iterator["subprocess.Popen[bytes]"]:
    """The ffmpeg program, listening until one sender comes."""
    words = ["-loglevel", "error", "-rtsp_flags", "listen", "-i", f"rtsp://127.0.0.1:{port}/live", "-f", "null", "-"]
    receiver = subprocess.Popen([ffmpeg.FFMPEG_PATH, *words], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield receiver
    finally:
        receiver.kill()
        receiver.wait()


def connected(url: str, size_hw: tuple[int, int] = SIZE_HW) -> OutgoingStream:
    """The stream once its receiver listens; it is started a moment before."""
    for _ in range(50):
        with suppress(ResourceError):
            return OutgoingStream(url, size_hw)
        time.sleep(0.1)
    return OutgoingStream(url, size_hw)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short waits, so that tests need not."""
    monkeypatch.setattr(outgoing, "OPEN_TIMEOUT_S", 2.0)
    monkeypatch.setattr(outgoing, "STALLED_S", 0.5)
    monkeypatch.setattr(outgoing, "Backoff", lambda: Backoff(first_s=0.2, longest_s=0.4))


def test_frames_arrive_over_udp_with_growing_times_and_labels_on_them() -> None:
    port = free_port()
    arrived: list[tuple[int, int, int | None]] = []

    def receive() -> None:
        with av.open(f"udp://127.0.0.1:{port}", timeout=(20, 1.5)) as container:
            arrived.extend((frame.width, frame.height, frame.pts) for frame in container.decode(video=0))

    def receive_until_silent() -> None:
        try:
            receive()
        except av.error.ExitError:
            return

    reader = threading.Thread(target=receive_until_silent, daemon=True)
    reader.start()
    stream = OutgoingStream(f"udp://127.0.0.1:{port}", (95, 127))
    write_until(stream, lambda: len(arrived) > 20)
    close_in_time(stream)
    reader.join(10)
    assert {size[:2] for size in arrived} == {(128, 96)}
    times = [size[2] or 0 for size in arrived]
    assert times == sorted(set(times))
    assert stream.reconnects == 0


def test_a_receiver_that_is_killed_is_found_again_and_segmentation_never_waits(
    quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    with rtsp_receiver(port) as receiver:
        stream = connected(f"rtsp://127.0.0.1:{port}/live")
        write_until(stream, lambda: stream.frames_sent >= 10)
        receiver.kill()
        receiver.wait()
        write_until(stream, lambda: stream.frames_lost >= 10)
    sent = stream.frames_sent
    with rtsp_receiver(port):
        write_until(stream, lambda: stream.reconnects == 1 and stream.frames_sent > sent + 10)
        assert never_waits(stream)
        close_in_time(stream)
    assert "connection lost" in caplog.text


def test_a_receiver_that_hangs_costs_frames_but_no_time_and_closing_ends(
    quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    with rtsp_receiver(port) as receiver:
        stream = connected(f"rtsp://127.0.0.1:{port}/live", LARGE_HW)
        write_until(stream, lambda: stream.frames_sent >= 3, size_hw=LARGE_HW)
        os.kill(receiver.pid, signal.SIGSTOP)
        write_until(stream, lambda: "the receiver takes nothing" in caplog.text, size_hw=LARGE_HW)
        assert never_waits(stream, size_hw=LARGE_HW)
        assert stream.frames_offered - stream.frames_sent - stream.frames_lost <= 3  # two on the tray, one in hand
        close_in_time(stream)
        os.kill(receiver.pid, signal.SIGCONT)


def test_a_receiver_that_accepts_and_says_nothing_is_given_up(quick: None) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"rtsp://me:secret@127.0.0.1:{silent.getsockname()[1]}/live"
        with pytest.raises(ResourceError, match=r"cannot send to rtsp://\*\*\*@127.*takes nothing; start the receiver"):
            OutgoingStream(url, SIZE_HW)


def test_a_receiver_that_was_never_there_is_an_error_without_the_password() -> None:
    url = f"rtsp://me:secret@127.0.0.1:{free_port()}/live?token=hidden"
    with pytest.raises(ResourceError, match="Connection refused; start the receiver first") as refused:
        OutgoingStream(url, SIZE_HW)
    assert "secret" not in str(refused.value)
    assert "hidden" not in str(refused.value)


def test_a_protocol_that_this_ffmpeg_lacks_is_said_to_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(outgoing.OUTGOING_SCHEMES, "nosuch", "mpegts")
    with pytest.raises(CompatibilityError, match="this FFmpeg cannot speak nosuch:host; use rtsp:// or udp://"):
        OutgoingStream("nosuch://host:1", SIZE_HW)


@pytest.mark.parametrize("url", ["file:///etc/x", "http://me:secret@h/", "x.ts", "concat:a|b", "RTSPX://h"])
def test_other_schemes_are_refused(url: str) -> None:
    with pytest.raises(UsageError, match=r"expected rtsp://, .* or - for MPEG-TS on stdout") as refused:
        OutgoingStream(url, SIZE_HW)
    assert "secret" not in str(refused.value)


def test_a_url_without_host_and_a_terminal_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="names no host; expected udp://HOST:PORT"):
        OutgoingStream("udp://", SIZE_HW)
    monkeypatch.setattr(sys, "stdout", type("Terminal", (io.StringIO,), {"isatty": lambda self: True})())
    with pytest.raises(UsageError, match="would go to the terminal; pipe it"):
        OutgoingStream("-", SIZE_HW)


@contextmanager
def stdout_as_pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A pipe in the place of stdout; gives the end that is read."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as text:
        monkeypatch.setattr(sys, "stdout", text)
        yield reading
    os.close(reading)


def test_a_dash_sends_mpeg_ts_to_stdout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with stdout_as_pipe(monkeypatch) as reading:
        stream = OutgoingStream("-", SIZE_HW)
        content = bytearray()

        def taken() -> bool:
            while select.select([reading], [], [], 0)[0]:
                content.extend(os.read(reading, 65536))
            return stream.frames_sent >= 15

        write_until(stream, taken)
        close_in_time(stream)
        taken()
    (tmp_path / "out.ts").write_bytes(content)
    with av.open(str(tmp_path / "out.ts")) as container:
        assert container.format.name == "mpegts"
        keyframes = [frame.key_frame for frame in container.decode(video=0)]
    assert len(keyframes) == stream.frames_sent
    assert keyframes[0]


def test_closing_does_not_wait_for_a_reader_that_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    with stdout_as_pipe(monkeypatch):
        stream = OutgoingStream("-", LARGE_HW)
        write_frames(stream, 20, size_hw=LARGE_HW)  # one alone is more than a pipe holds
        close_in_time(stream)
    assert stream.frames_lost >= 10


def test_a_reader_of_stdout_that_goes_away_is_not_called_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with stdout_as_pipe(monkeypatch) as reading:
        stream = OutgoingStream("-", SIZE_HW)
        write_until(stream, lambda: stream.frames_sent >= 1)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, reading)
        os.close(null)
        write_until(stream, lambda: stream.receiver_gone)
        write_until(stream, lambda: stream.frames_lost >= 5)
        close_in_time(stream)
    assert stream.reconnects == 0


def test_a_keyframe_comes_every_second(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with stdout_as_pipe(monkeypatch) as reading:
        stream = OutgoingStream("-", SIZE_HW)
        content = bytearray()
        deadline_s = time.monotonic() + 3.3
        while time.monotonic() < deadline_s:
            write_frames(stream, 1)
            while select.select([reading], [], [], 0)[0]:
                content.extend(os.read(reading, 65536))
        close_in_time(stream)
    (tmp_path / "out.ts").write_bytes(content)
    with av.open(str(tmp_path / "out.ts")) as container:
        times_s = [frame.time or 0.0 for frame in container.decode(video=0) if frame.key_frame]
    assert 3 <= len(times_s) <= 4
    assert max(np.diff(times_s)) < 1.5


def test_closing_leaves_no_process_no_thread_and_no_open_file() -> None:
    before = threads_and_files()
    stream = OutgoingStream(f"udp://127.0.0.1:{free_port()}", SIZE_HW)
    child = stream._sender
    write_frames(stream, 5)
    stream.close()
    stream.close()
    assert child is not None
    assert child.child.wait(0) is not None
    assert threads_and_files() <= before


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtsp://me:pa:ss@h/x?channel=2", "rtsp://***@h/x?channel=2"),
        ("open rtsp://me:p@ss/w?o#rd@h:554/x failed", "open rtsp://***@h:554/x failed"),
        ("https://h/a?API_KEY=abc&b=1&Signature=d%3D#x", "https://h/a?API_KEY=***&b=1&Signature=***#x"),
        ("srt://h:1?streamid=pw&latency=20", "srt://h:1?streamid=***&latency=20"),
        ("rtmp://a@h/x and udp://b:c@i", "rtmp://***@h/x and udp://***@i"),
        ("nothing to hide: me@example.org, a=b", "nothing to hide: me@example.org, a=b"),
    ],
)
def test_secrets_are_hidden_and_the_rest_stays(text: str, shown: str) -> None:
    assert redacted(text) == shown
    assert redacted(shown) == shown


@given(st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1, max_size=20))
def test_no_password_without_spaces_gets_through(password: str) -> None:
    assert f"secret{password}" not in redacted(f"error at rtsp://me:secret{password}@host/x: refused")
