"""The bar for the prompts of a long class list."""

import pickle
import sys
import time
from io import StringIO

import pytest

from nerve_stream.cli.progress import EmbeddingBar


class Terminal(StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_the_bar_is_drawn_on_a_terminal_once_two_seconds_have_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    for stream, expected in ((Terminal(), True), (StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", stream)
        bar = pickle.loads(pickle.dumps(EmbeddingBar()))
        bar(0, 600)
        now[0] += 1.9
        bar(256, 600)
        assert stream.getvalue() == ""
        now[0] += 0.2
        bar(512, 600)
        bar(600, 600)
        shown = stream.getvalue()
        assert ("] 512 of 600\rembedding prompts [" in shown and shown.endswith("] 600 of 600\n")) == expected
        bar(0, 600)
        bar(600, 600)
        assert stream.getvalue() == shown
