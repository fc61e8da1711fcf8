"""One supervised child process: messages with limits, and an end for certain."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nerve_stream import child as child_module
from nerve_stream.child import Child, Connection, MessageError
from tests.data.processes import own_children, threads_and_files

TARGETS = "tests.data.child_targets"
START_S = 30.0  # for a Python that starts while all others are busy


@contextmanager
def started(target: str) -> Iterator[Child]:
    child = Child(f"{TARGETS}:{target}")
    try:
        yield child
    finally:
        child.close(0)


@contextmanager
def pair() -> Iterator[tuple[Connection, Connection]]:
    left, right = (Connection(end) for end in socket.socketpair())
    yield left, right
    left.close()
    right.close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "TERMINATE_TIMEOUT_S", 0.3)


@given(st.lists(st.binary(max_size=100), max_size=8))
def test_a_message_arrives_as_it_was_sent(parts: list[bytes]) -> None:
    with pair() as (left, right):
        left.send(*parts)
        assert [part.tobytes() for part in right.receive(1)] == parts


def test_pixels_larger_than_the_socket_holds_go_there_and_back() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, 720 * 1280 * 3).astype(np.uint8)
    with started("echo") as child:
        for _ in range(3):
            child.connection.send(b"header", pixels.data, b"")
            header, returned, empty = child.connection.receive(START_S)
            assert (header.tobytes(), empty.size) == (b"header", 0)
            np.testing.assert_array_equal(returned, pixels)
            assert returned.flags.writeable


def test_a_child_that_stops_within_a_message_is_noticed_in_time_and_killed(quick: None) -> None:
    with started("stop_within_a_message") as child:
        child.connection.send(b"go", timeout_s=START_S)
        deadline_s = time.monotonic() + START_S
        while psutil.Process(child.pid).status() != psutil.STATUS_STOPPED and time.monotonic() < deadline_s:
            time.sleep(0.01)
        with pytest.raises(TimeoutError, match=r"nothing moved for 0\.3 s"):
            child.connection.receive(0.3)
        pid = child.pid
    assert not psutil.pid_exists(pid)


def test_a_child_that_takes_nothing_is_noticed_in_time() -> None:
    with started("send_without_end") as child, pytest.raises(TimeoutError):  # it never receives
        child.connection.send(bytes(10_000_000), timeout_s=0.3)


def test_a_child_that_hangs_deaf_to_sigterm_is_killed_and_leaves_nothing(quick: None) -> None:
    before = own_children(), threads_and_files()
    child = Child(f"{TARGETS}:hang")
    assert child.connection.receive(START_S)[0].tobytes() == b"hanging"
    began_s = time.monotonic()
    child.close()
    child.close()
    assert 1 <= time.monotonic() - began_s < 3
    assert child.wait(0) == -signal.SIGKILL
    assert own_children() == before[0]
    assert threads_and_files() <= before[1]


def test_closing_from_another_thread_ends_a_receive_that_waits() -> None:
    with started("echo") as child:
        ended: list[type[BaseException]] = []

        def receive() -> None:
            try:
                child.connection.receive()
            except ConnectionError as error:
                ended.append(type(error))

        child.connection.send(b"are you there?")  # one that is still being started would be terminated
        child.connection.receive(START_S)
        receiver = threading.Thread(target=receive)
        receiver.start()
        child.close()
        receiver.join(5)
        assert (ended, child.wait(0)) == ([ConnectionResetError], 0)


def test_a_child_that_is_killed_while_it_sends_ends_the_receive() -> None:
    with started("send_without_end") as child:
        child.connection.receive(START_S)
        os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(ConnectionError):  # it may have sent a few more
            all(iter(lambda: child.connection.receive(START_S), None))
        assert child.ending() == "was killed by signal SIGKILL"


def test_signals_while_it_sends_stop_nothing() -> None:
    with started("send_without_end") as child:
        child.connection.receive(START_S)
        for _ in range(50):
            for number in (signal.SIGINT, signal.SIGSTOP, signal.SIGCONT):
                os.kill(child.pid, number)
            assert child.connection.receive(START_S)[0].size == 1_000_000


def test_the_error_it_printed_is_in_its_ending_without_the_password() -> None:
    with started("print_and_fail") as child:
        with pytest.raises(ConnectionError):
            child.connection.receive(START_S)
        ending = child.ending()
    assert ending.startswith("ended with exit code 1: Traceback (most recent call last):\n")
    assert ending.endswith("\nValueError: cannot open rtsp://***@host/live")
    with started("print_and_crash") as child:
        with pytest.raises(ConnectionError):
            child.connection.receive(START_S)
        assert child.ending() == "was killed by signal SIGABRT: free(): invalid pointer"
    with started("exit_with_7") as child:
        assert child.wait(START_S) == 7
        assert child.ending() == "ended with exit code 7"


def test_a_password_in_a_line_that_is_cut_is_not_shown() -> None:
    line = b"rtsp://me:" + b"secret" * 1000 + b"@host failed"
    tail = (line + b"\nlast line\n")[-child_module.STDERR_TAIL_BYTES :]
    assert child_module._error_printed(tail) == "last line"
    assert "secret" not in child_module._error_printed(line[-child_module.STDERR_TAIL_BYTES :])


def test_what_is_no_message_is_refused_before_memory_is_taken() -> None:
    with started("babble") as child, pytest.raises(MessageError, match="parts, expected at most 64"):
        child.connection.receive(START_S)
    with pair() as (left, right):
        left._socket.send((1).to_bytes(4, "little") + (1 << 40).to_bytes(8, "little"))
        with pytest.raises(MessageError, match="1099511627776 bytes, expected at most"):
            right.receive(1)


def test_a_child_has_the_module_path_and_nothing_heavy_in_a_session_of_its_own() -> None:
    with started("list_modules") as child:
        modules, path, session = (part.tobytes().decode() for part in child.connection.receive(START_S))
    assert {"cv2", "av", "onnxruntime", "pydantic", "multiprocessing"}.isdisjoint(modules.split())
    assert (path, int(session)) == (str(sys.path), child.pid)


PARENT = """
import sys, threading, time
from nerve_stream.child import Child
child = Child("tests.data.child_targets:echo")
child.connection.send(b"x")
child.connection.receive()
print(child.pid, flush=True)
time.sleep(600)
"""


def test_it_dies_with_its_parent_however_that_dies() -> None:
    root = Path(__file__).resolve().parents[3]
    path = os.pathsep.join([str(root), str(root / "runtime")])
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}
    )
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.communicate()
    deadline_s = time.monotonic() + 5
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_a_python_that_is_not_there_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    before = threads_and_files()
    monkeypatch.setattr(sys, "executable", "/does/not/exist")
    with pytest.raises(OSError, match="No such file"):
        Child(f"{TARGETS}:echo")
    assert threads_and_files() <= before
