"""Servers of inputs that go silent: the input fails by name, and the others are done."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from nerve_runtime import HungError, SourceError
from nerve_stream.scaleout.inputs import find_inputs
from nerve_stream.scaleout.job import Job, JobInput, Places
from nerve_stream.scaleout.processes import run_on_processes
from nerve_stream.scaleout.storage import remote_path, source_errors
from nerve_stream.scaleout.worker import TRANSPORT_FIRST, JobWorker
from tests.data.clips import write_clip
from tests.data.job_inputs import job_for, write_picture

fsspec = pytest.importorskip("fsspec", reason="not installed: fsspec, of the extra ray")
pytest.importorskip("aiohttp", reason="not installed: aiohttp, which fsspec needs for http")
LIMIT_S = 0.6
TEST_LIMIT_S = 20.0
"""After which a silent server ends a connection, so that the test fails rather than hangs."""
NOT_SENT = "clip.mp4 is not sent any more; its server or the network hangs"


class _Handler(SimpleHTTPRequestHandler):
    """Sends files; of those in `stalled/` a half, as in `cut/`, where it hangs up then; in `slow/` a tenth at a time,
    in `deaf/` nothing, not even a header."""

    protocol_version = "HTTP/1.1"
    done: threading.Event

    def do_HEAD(self) -> None:
        if "/deaf/" in self.path:
            self.done.wait(TEST_LIMIT_S)
        super().do_HEAD()

    def do_GET(self) -> None:
        if "/deaf/" in self.path:
            self.done.wait(TEST_LIMIT_S)
        super().do_GET()

    def copyfile(self, source: Any, outputfile: Any) -> None:
        content = source.read()
        if "/slow/" in self.path:
            for part in range(11):
                outputfile.write(content[part * (len(content) // 10) :][: len(content) // 10])
                time.sleep(LIMIT_S / 5)
            return
        stalled, cut = "/stalled/" in self.path, "/cut/" in self.path
        outputfile.write(content[: len(content) // 2] if stalled or cut else content)
        if stalled:
            self.done.wait(TEST_LIMIT_S)
        self.close_connection = self.close_connection or stalled or cut

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A server on this machine, and a folder for each of its ways to send."""
    for folder in ("stalled", "cut", "slow", "deaf", "good"):
        (tmp_path / "served" / folder).mkdir(parents=True)
        write_clip(tmp_path / "served" / folder / "clip.mp4", 3)
    handler = type("_Handler", (_Handler,), {"done": threading.Event()})

    def handle(*args: Any) -> SimpleHTTPRequestHandler:
        return handler(*args, directory=str(tmp_path / "served"))

    with _quiet_server(handle) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        handler.done.set()  # type: ignore[attr-defined]  # of the class above
        http.shutdown()


@contextmanager
def _quiet_server(handle: Callable[..., Any]) -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handle) as http:
        http.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that hang up are meant
        yield http


def _video(url: str) -> JobInput:
    return JobInput(url, url.rpartition("://")[2].replace(":", "_").removesuffix(".mp4"), picture=False, size_bytes=0)


def _job(tmp_path: Path) -> Job:
    job, _ = job_for(write_picture(tmp_path / "any.png"), tmp_path / "out", open_limit_s=LIMIT_S)
    return job


def _dies(code: int) -> None:
    raise AssertionError(f"the process would have ended with code {code}")


def test_a_connection_that_is_cut_fails_its_input_by_name(server: str, tmp_path: Path) -> None:
    failed = JobWorker(_job(tmp_path), die=_dies).run(_video(f"{server}/cut/clip.mp4"))
    assert (failed.status, failed.exit_code) == ("failed", SourceError.exit_code)
    assert f"source {server}/cut/clip.mp4 cannot be read: ClientPayloadError" in str(failed.error)


@pytest.mark.parametrize("way", ["stalled", "deaf"])
def test_row_29_a_silent_http_server_fails_its_input_by_name_and_the_worker_goes_on(
    server: str, tmp_path: Path, way: str
) -> None:
    worker = JobWorker(_job(tmp_path), die=_dies)
    started_s = time.monotonic()
    failed = worker.run(_video(f"{server}/{way}/clip.mp4"))
    assert time.monotonic() - started_s < TEST_LIMIT_S / 2
    assert (failed.status, failed.exit_code) == ("failed", 8)
    assert failed.error == f"source {server}/{way}/{NOT_SENT}"
    done = worker.run(_video(f"{server}/good/clip.mp4"))
    worker.close()
    assert (done.status, done.frames) == ("done", 3)


def test_a_slow_server_has_all_the_time_that_it_takes(server: str, tmp_path: Path) -> None:
    worker = JobWorker(_job(tmp_path), die=_dies)
    outcome = worker.run(_video(f"{server}/slow/clip.mp4"))
    worker.close()
    assert (outcome.status, outcome.frames) == ("done", 3)
    assert outcome.seconds > 2 * LIMIT_S


def test_row_29_the_job_goes_on_when_a_server_falls_silent(server: str, tmp_path: Path) -> None:
    places = Places(masks=str(tmp_path / "out" / "masks"), jsonl=str(tmp_path / "out" / "lines"))
    inputs = find_inputs([f"{server}/stalled/clip.mp4", f"{server}/good/clip.mp4"], places)
    outcomes = list(run_on_processes(_job(tmp_path), [inputs], 1, threading.Event()))
    assert [(outcome.status, outcome.exit_code) for outcome in outcomes] == [("failed", 8), ("done", 0)]


def test_a_server_that_does_not_answer_a_listing_is_named() -> None:
    with pytest.raises(HungError, match=r"source http://door/in is not sent any more"), source_errors("http://door/in"):
        raise fsspec.exceptions.FSTimeoutError


def test_what_a_user_has_configured_for_http_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fsspec.config.conf, "http", {"client_kwargs": {"trust_env": True}})
    settings = remote_path("http://127.0.0.1/a.mp4", 7.0).system.client_kwargs
    assert settings["trust_env"]
    assert (settings["timeout"].sock_read, settings["timeout"].sock_connect, settings["timeout"].total) == (7, 7, None)


class _Trickle(fsspec.AbstractFileSystem):  # type: ignore[name-defined]  # of a module that may be missing
    """A file system without limits of its own: it sends `parts` bytes, one every third of the limit, then falls silent."""

    protocol = "trickle"
    cachable = False
    deaf = False
    parts: tuple[bytes, ...] = ()
    ends = False
    silent: threading.Event

    def info(self, path: str, **_: object) -> dict[str, object]:
        if self.deaf:
            self.silent.wait(TEST_LIMIT_S)
            raise OSError("the process would have ended")
        return {"name": path, "size": sum(map(len, self.parts)), "type": "file"}

    def get_file(self, _path: str, copy: str, **_named: object) -> None:
        with Path(copy).open("wb", buffering=0) as stream:
            for part in self.parts:
                stream.write(part)
                time.sleep(LIMIT_S * TRANSPORT_FIRST / 3)
        if not self.ends:
            self.silent.wait(TEST_LIMIT_S)
            raise OSError("the process would have ended")


@pytest.fixture
def trickle() -> type[_Trickle]:
    """The file system of trickle://."""
    fresh = type("_Trickle", (_Trickle,), {"silent": threading.Event()})
    fsspec.register_implementation("trickle", fresh, clobber=True)
    return fresh


@pytest.mark.parametrize("deaf", [True, False])
def test_row_29_where_the_transport_has_no_limit_the_process_ends_and_the_next_one_knows(
    tmp_path: Path, trickle: type[_Trickle], deaf: bool
) -> None:
    trickle.deaf = deaf
    codes: list[int] = []
    died = threading.Event()

    def die(code: int) -> None:
        codes.append(code)
        died.set()

    job, item = _job(tmp_path), _video("trickle://server/clip.mp4")
    hanging = threading.Thread(target=JobWorker(job, die=die).run, args=(item,))
    hanging.start()
    assert died.wait(TEST_LIMIT_S / 2)
    next_one = JobWorker(job, die=_dies).run(item)
    trickle.silent.set()
    hanging.join()
    assert codes == [8]
    assert (next_one.status, next_one.exit_code) == ("failed", 8)
    assert next_one.error == f"source trickle://server/{NOT_SENT}"


def test_bytes_that_still_come_keep_a_process_alive(tmp_path: Path, trickle: type[_Trickle]) -> None:
    content = write_clip(tmp_path / "clip.mp4", 2).read_bytes()
    fifth = len(content) // 5
    trickle.parts, trickle.ends = tuple(content[at : at + fifth] for at in range(0, len(content), fifth)), True
    job = replace(_job(tmp_path), open_limit_s=LIMIT_S)
    worker = JobWorker(job, die=_dies)
    outcome = worker.run(_video("trickle://server/clip.mp4"))
    worker.close()
    assert (outcome.status, outcome.frames) == ("done", 2)
    assert outcome.seconds > LIMIT_S * TRANSPORT_FIRST
