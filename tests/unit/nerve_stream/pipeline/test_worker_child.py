"""What the worker's process says and hears, here in a thread of the test so that its lines can be followed."""

import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from nerve_runtime.errors import BundleError
from nerve_stream.child import Connection
from nerve_stream.pipeline import worker_child
from nerve_stream.pipeline.messages import (
    ForgetRequest,
    FrameRequest,
    NotOpened,
    Opened,
    OpenRequest,
    Outcome,
    Room,
    receive_message,
    send_message,
)
from tests.data.stream_doubles import blank, open_double


class Talk:
    """The parent's side of a child that runs in a thread."""

    def __init__(self) -> None:
        self.socket, childs_end = socket.socketpair()
        self.connection = Connection(self.socket)
        self.codes: list[int] = []
        child = Connection(childs_end)
        self.thread = threading.Thread(target=lambda: self.codes.append(worker_child.main(child)))
        self.thread.start()

    def open(self, opener: Callable[[], Any] = open_double, **faults: Any) -> Any:
        self.send(OpenRequest(partial(opener, **faults), overlap=True))
        return self.heard()

    def send(self, message: object) -> None:
        send_message(self.connection, message)

    def heard(self) -> Any:
        return receive_message(self.connection)

    def outcome(self) -> Outcome:
        while isinstance(message := self.heard(), Room):
            pass
        assert isinstance(message, Outcome)
        return message

    def end(self) -> int:
        self.socket.shutdown(socket.SHUT_WR)  # a child that cannot send ends its process, which is the test's
        self.thread.join(5)
        self.connection.close()
        return self.codes[0]


@pytest.fixture
def talk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Talk]:
    monkeypatch.setattr(worker_child, "_exit_with_parent", lambda: None)  # it would end the test
    talk = Talk()
    yield talk
    if not talk.codes:
        talk.end()


def test_it_asks_for_a_frame_and_answers_with_its_result(talk: Talk) -> None:
    assert talk.open(fail_at=1) == Opened("a double", ("a", "b"))
    assert talk.heard() == Room()
    talk.send(FrameRequest(10, "a", blank(0)))
    done = talk.outcome()
    assert (done.number, done.ready, getattr(done.result, "index", None)) == (10, True, 0)
    talk.send(ForgetRequest("a"))
    talk.send(FrameRequest(11, "a", blank(1)))
    failed = talk.outcome()
    assert (failed.number, str(failed.result)) == (11, "frame 1 failed on purpose")
    assert talk.end() == 0


def test_it_says_why_it_cannot_open(talk: Talk) -> None:
    refused = talk.open(refuse="BundleError")
    assert isinstance(refused, NotOpened)
    assert type(refused.error) is BundleError
    assert talk.end() == 0


def broken() -> None:
    """Has a bug."""
    raise ValueError("a bug in opening")


def test_a_bug_while_opening_comes_with_its_traceback(talk: Talk) -> None:
    bug = talk.open(broken)
    assert isinstance(bug, NotOpened)
    assert isinstance(bug.error, RuntimeError)
    assert "ValueError: a bug in opening" in str(bug.error)
    assert talk.end() == 1


def test_a_bug_in_a_frame_is_told_with_its_number(talk: Talk) -> None:
    talk.open(bug_at=2)
    assert talk.heard() == Room()
    talk.send(FrameRequest(12, "a", blank(2)))
    bug = talk.outcome()
    assert (bug.number, type(bug.result)) == (12, RuntimeError)
    assert "a bug at frame 2" in str(bug.result)
    assert talk.end() == 0


def test_it_ends_with_the_connection_before_anything_was_asked(talk: Talk) -> None:
    assert talk.end() == 0
