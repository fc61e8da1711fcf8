"""Real streams on loopback through the real decoder process: rows 27, 28, 46 and 48 of the fault table."""

import itertools
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import ffmpeg
import numpy as np
import psutil
import pytest

from nerve_runtime.errors import SourceError, UsageError
from nerve_runtime.frames import Frame
from nerve_stream.sources.addresses import ALLOWED_PROTOCOLS, is_address, parse_address
from nerve_stream.sources.decoding import process as decoder
from nerve_stream.sources.opening import open_frames
from nerve_stream.sources.options import LiveOptions
from tests.contracts.checkout import ROOT
from tests.data.http_camera import http_camera
from tests.data.media import make_video
from tests.data.rtsp_server import number_of
from tests.flaps import FPS, Server, free_port, run_flaps, seconds_until

H264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p")
SECRET = "hunter2"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(free_port()) as running:
        yield running


def decoded(frames: Iterator[Frame], count: int) -> list[Frame]:
    return list(itertools.islice(frames, count))


def test_an_rtsp_camera_gives_its_frames_in_order_at_its_own_times(server: Server) -> None:
    with open_frames(server.url) as source:
        assert (source.live, source.size_hw, source.fps, source.count) == (True, (120, 160), Fraction(FPS), None)
        assert "secret" not in source.name
        frames = decoded(iter(source), 20)
    numbers = [number_of(frame.rgb) for frame in frames]
    assert np.diff(numbers).tolist() == np.diff([frame.index for frame in frames]).tolist()
    times_s = [float(frame.time_s - frames[1].time_s) for frame in frames[1:]]
    np.testing.assert_allclose(times_s, (np.array(numbers[1:]) - numbers[1]) / FPS, atol=1e-3)
    assert all(frame.arrived_ns <= time.monotonic_ns() for frame in frames)


def test_every_third_frame_of_a_camera(server: Server) -> None:
    with open_frames(server.url, every=3) as source:
        frames = decoded(iter(source), 5)
    assert {frame.index % 3 for frame in frames} == {0}
    numbers = [number_of(frame.rgb) for frame in frames]
    assert np.diff(numbers).tolist() == np.diff([frame.index for frame in frames]).tolist()


def test_row_48_who_did_not_read_for_a_while_finds_new_frames_and_no_backlog(server: Server) -> None:
    with open_frames(server.url) as source:
        frames = iter(source)
        before = decoded(frames, 5)[-1]
        time.sleep(1.5)
        after, ages_s = [], []
        for frame in itertools.islice(frames, 6):
            after.append(frame)
            ages_s.append((time.monotonic_ns() - frame.arrived_ns) / 1e9)
    assert after[3].index - before.index > FPS  # what waited was left out
    assert after[3].arrived_ns - before.arrived_ns > 1.3e9
    assert min(ages_s[3:]) < 0.5  # all of a backlog would be older; a busy machine may let one wait


READ_AND_TELL = """
import sys
from nerve_stream import open_frames
source = open_frames(sys.argv[1])
for frame in source:
    print(source._decoder.pid, flush=True)
"""


def reading_process(url: str) -> Any:
    """A `python -` process that reads the source and prints its decoder's process id for each frame."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "runtime"), str(ROOT)])}
    command = [sys.executable, "-", url]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True)
    assert process.stdin is not None
    with process.stdin as program:
        program.write(READ_AND_TELL)
    process.stdin = None
    return process


def test_the_decoder_ends_within_2_s_when_its_parent_is_killed(server: Server) -> None:
    parent = reading_process(server.url)
    child = psutil.Process(int(parent.stdout.readline()))
    assert "secret" not in " ".join(child.cmdline())
    parent.kill()
    parent.communicate()
    # Nobody may be there to reap an orphan; ended it is all the same.
    assert seconds_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE) < 2


def test_ctrl_c_is_left_to_the_parent(server: Server) -> None:
    with open_frames(server.url) as source:
        frames = iter(source)
        pid = source._decoder.pid  # type: ignore[attr-defined]
        os.kill(pid, signal.SIGINT)
        decoded(frames, 10)
        assert (source._decoder.pid, source.reconnects) == (pid, 0)  # type: ignore[attr-defined]


@pytest.mark.slow
def test_row_48_a_suspended_reader_goes_on_where_the_camera_is(server: Server) -> None:
    parent = reading_process(server.url)
    pid = parent.stdout.readline()
    parent.send_signal(signal.SIGSTOP)
    time.sleep(4)  # longer than all timeouts of a source that is read
    parent.send_signal(signal.SIGCONT)
    told = {parent.stdout.readline() for _ in range(30)}
    parent.kill()
    parent.communicate()
    assert told == {pid}  # the same decoder all the time: nothing was taken for lost


@pytest.mark.slow
def test_rows_27_and_28_a_camera_is_killed_and_frozen_and_comes_back_each_time() -> None:
    events: list[dict[str, object]] = []
    assert run_flaps(5, 1, events.append), json.dumps(events, indent=1)
    assert [event["held"] for event in events] == [True] * 7


def test_row_46_credentials_are_nowhere(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    url = f"rtsp://me:{SECRET}@127.0.0.1:{free_port()}/live?token={SECRET}"
    with caplog.at_level(logging.DEBUG), pytest.raises(SourceError, match="Connection refused") as refused:
        open_frames(url)
    assert f"rtsp://***@127.0.0.1:{url.split(':')[3][:5].strip('/')}" in str(refused.value)
    everything = f"{refused.value} {refused.value.__cause__} {caplog.text} {''.join(capfd.readouterr())}"
    assert SECRET not in everything
    assert SECRET not in repr(parse_address(url, LiveOptions()))


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://host/clip.mp4",
        "concat://a|b",
        "subfile://a",
        "data://text",
        "pipe://0",
        "rtp://host:1",
    ],
)
def test_row_46_other_schemes_are_refused_by_name(url: str) -> None:
    scheme = url.partition("://")[0]
    with pytest.raises(SourceError, match=f"has the scheme '{scheme}', expected one of rtsp, rtsps, rtmp, http"):
        open_frames(url)


def test_row_46_what_ffmpeg_would_take_for_a_protocol_is_only_a_missing_file() -> None:
    for source in ("concat:a.ts|b.ts", "subfile,,start,0,end,9,,:clip.mp4", "file:clip.mp4"):
        with pytest.raises(SourceError, match="does not exist"):
            open_frames(source)


@pytest.mark.parametrize("url", ["rtsp://", "http:///path", "rtsp://host/a b", "tcp://?listen=1", "http://host/\n"])
def test_a_url_without_a_host_or_with_spaces_is_refused(url: str) -> None:
    with pytest.raises(SourceError, match="is no URL: it names no host, or holds spaces"):
        open_frames(url)


def test_no_server_may_lead_to_a_file() -> None:
    allowed = {protocol for protocols in ALLOWED_PROTOCOLS.values() for protocol in protocols.split(",")}
    assert allowed == {"rtmp", "http", "https", "tcp", "tls", "udp", "rtp", "srtp", "srt"}


def test_a_url_that_went_through_pathlib_is_still_one() -> None:
    assert is_address(str(Path("rtsp://user:secret@host/live")))
    assert parse_address("rtsp:/user:secret@host/live", LiveOptions()).url == "rtsp://user:secret@host/live"
    assert not is_address("folder/rtsp/clip.mp4")


def test_an_mjpeg_stream_over_http_is_timed_by_its_arrival(tmp_path: Path) -> None:
    with http_camera(tmp_path) as host, open_frames(f"http://{host}/live") as source:
        reading = iter(source)
        frames = decoded(reading, 12)
        assert (source.size_hw, source.state) == ((48, 64), "streaming")
    numbers = [number_of(frame.rgb) for frame in frames]
    assert np.diff(numbers).tolist() == np.diff([frame.index for frame in frames]).tolist()
    passed_s = (frames[-1].arrived_ns - frames[0].arrived_ns) / 1e9
    assert float(frames[-1].time_s) == pytest.approx(passed_s, abs=0.05)  # FFmpeg would count 25 a second


def test_a_video_file_over_http_is_read_to_its_end_without_loss(tmp_path: Path) -> None:
    clip = make_video(tmp_path / "clip.mp4", *H264, "-bf", "2", "-movflags", "+faststart")
    with http_camera(tmp_path) as host:
        source = open_frames(f"http://{host}/clip.mp4")
        frames = list(source)
    local = list(open_frames(clip))
    assert [frame.index for frame in frames] == [frame.index for frame in local]
    assert [frame.time_s for frame in frames] == [frame.time_s for frame in local]
    assert all((far.rgb == near.rgb).all() for far, near in zip(frames, local, strict=True))
    assert (source.state, source.lost, source.reconnects) == ("ended", 0, 0)


def test_a_raw_video_over_http_ends_too(tmp_path: Path) -> None:
    clip = make_video(tmp_path / "clip.ts", *H264)
    with http_camera(tmp_path) as host:
        frames = list(open_frames(f"http://{host}/clip.ts"))
    assert len(frames) == len(list(open_frames(clip))) == 20


@pytest.mark.parametrize("target", ["file", "concat:file", "subfile,,start,0,end,999999,,:file"])
def test_row_46_a_redirect_to_a_file_is_refused(tmp_path: Path, target: str) -> None:
    clip = make_video(tmp_path / "clip.ts", *H264)
    away = target.replace("file", f"file://{clip}")
    with http_camera(tmp_path) as host, pytest.raises(SourceError, match=r"is refused: it is a playlist|cannot be"):
        open_frames(f"http://{host}/leave?{away}")


def test_a_redirect_to_another_web_address_is_followed(tmp_path: Path) -> None:
    make_video(tmp_path / "clip.ts", *H264)
    with http_camera(tmp_path) as host, open_frames(f"http://{host}/leave?http://{host}/live") as source:
        assert len(decoded(iter(source), 3)) == 3


def test_row_46_a_playlist_that_names_a_file_is_refused(tmp_path: Path) -> None:
    clip = make_video(tmp_path / "clip.ts", *H264)
    (tmp_path / "list.m3u8").write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{clip}\n#EXT-X-ENDLIST\n"
    )
    with http_camera(tmp_path) as host, pytest.raises(SourceError, match="is refused: it is a playlist"):
        open_frames(f"http://{host}/list.m3u8")


def test_a_stream_over_udp_is_read(tmp_path: Path) -> None:
    port = free_port()
    command = [ffmpeg.FFMPEG_PATH, "-v", "error", "-nostdin", "-re", "-f", "lavfi", "-i", "testsrc2=s=64x48:r=10"]
    command += [*H264, "-g", "5", "-tune", "zerolatency", "-f", "mpegts", f"udp://127.0.0.1:{port}?pkt_size=1316"]
    sender = subprocess.Popen(command)
    try:
        with open_frames(f"udp://127.0.0.1:{port}") as source:
            frames = decoded(iter(source), 5)
    finally:
        sender.kill()
        sender.wait()
    assert [frame.rgb.shape for frame in frames] == [(48, 64, 3)] * 5
    assert all(earlier.time_s < later.time_s for earlier, later in itertools.pairwise(frames))


@pytest.fixture
def fake_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder, "TARGET", "tests.data.fake_camera:decode")


@pytest.mark.usefixtures("fake_camera")
def test_a_camera_is_live_and_is_reached_again_when_it_was_unplugged() -> None:
    with open_frames("0") as source:
        assert (source.name, source.live, source.fps, source.count) == ("camera 0", True, Fraction(30), None)
        frames = decoded(iter(source), 3)
        assert frames[0].time_s == 0
        assert source.last_error in {None, "camera 0 gives no more frames; check its cable"}
    assert frames[0].rgb[0, 0].tolist() == [220, 20, 20]
    assert all(earlier.time_s < later.time_s for earlier, later in itertools.pairwise(frames))


@pytest.mark.usefixtures("fake_camera")
def test_a_camera_that_gives_nothing_is_refused() -> None:
    with pytest.raises(SourceError, match="camera 1 gives no more frames"):
        open_frames(1)
    with pytest.raises(SourceError, match="camera 2 cannot be opened"):
        open_frames("/dev/video2")
    with pytest.raises(UsageError, match="camera 0 is live and has no start"):
        open_frames(0, start_s=3)
