"""What the worker's process says and hears, here in a thread of the test so that its lines can be followed."""

import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from nerve_stream.pipeline import worker_child
from nerve_stream.pipeline.messages import Message, MessageReader, error_from, frame_header, result_from, send_message
from tests.data.stream_doubles import OPENER, blank, options_for


class Talk:
    """The parent's side of a child that runs in a thread."""

    def __init__(self) -> None:
        child_reads, self.write_fd = os.pipe()
        self.read_fd, child_writes = os.pipe()
        self.codes: list[int] = []
        arguments = [str(child_reads), str(child_writes)]
        self._fds = [child_reads, child_writes, self.read_fd]
        self.thread = threading.Thread(target=lambda: self.codes.append(worker_child.main(arguments)))
        self.reader = MessageReader(self.read_fd)
        self.thread.start()

    def open(self, opener: str = OPENER, **faults: Any) -> Message:
        options = options_for(**faults).as_json()
        send_message(self.write_fd, {"kind": "open", "options": options, "opener": opener, "overlap": True})
        return self.heard()

    def heard(self) -> Message:
        message = self.reader.next(5)
        assert message is not None
        return message

    def frame(self, index: int) -> None:
        frame = blank(index)
        header = {"kind": "frame", "number": 10 + index, "video": "a", **frame_header(frame)}
        send_message(self.write_fd, header, (frame.rgb,))

    def end(self) -> int:
        os.close(self.write_fd)
        self.thread.join(5)
        for descriptor in self._fds:
            os.close(descriptor)
        return self.codes[0]


@pytest.fixture
def talk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Talk]:
    monkeypatch.setattr(worker_child, "_exit_with_parent", lambda read_fd: None)  # it would end the test with the pipe
    talk = Talk()
    yield talk
    if not talk.codes:
        talk.end()


def kinds_until_settled(talk: Talk) -> Message:
    while (message := talk.heard()).kind == "room":
        pass
    return message


def test_it_asks_for_a_frame_and_answers_with_its_result(talk: Talk) -> None:
    opened = talk.open(fail_at=1)
    assert (opened.kind, opened.header["backend"], opened.header["class_names"]) == ("opened", "a double", ["a", "b"])
    assert talk.heard().kind == "room"
    talk.frame(0)
    done = kinds_until_settled(talk)
    assert (done.kind, done.header["number"], done.header["ready"]) == ("result", 10, True)
    assert result_from(done).index == 0
    send_message(talk.write_fd, {"kind": "forget", "video": "a"})
    talk.frame(1)
    failed = kinds_until_settled(talk)
    assert (failed.kind, str(error_from(failed.header))) == ("failed", "frame 1 failed on purpose")
    assert talk.end() == 0


def test_it_says_why_it_cannot_open(talk: Talk) -> None:
    refused = talk.open(refuse="BundleError")
    assert (refused.kind, refused.header["error"]) == ("refused", "BundleError")
    assert talk.end() == 0


def test_a_bug_while_opening_or_segmenting_comes_with_its_traceback(talk: Talk) -> None:
    bug = talk.open(opener="nowhere:at_all")
    assert (bug.kind, "number" in bug.header) == ("bug", False)
    assert "No module named 'nowhere'" in bug.header["traceback"]
    assert talk.end() == 1


def test_a_bug_in_a_frame_is_told_with_its_number(talk: Talk) -> None:
    talk.open(bug_at=2)
    assert talk.heard().kind == "room"
    talk.frame(2)
    bug = kinds_until_settled(talk)
    assert (bug.kind, bug.header["number"]) == ("bug", 12)
    assert "a bug at frame 2" in bug.header["traceback"]
    assert talk.end() == 0


def test_it_ends_with_the_pipe_before_anything_was_asked(talk: Talk) -> None:
    assert talk.end() == 0
