"""Load and soak: 4 sources x 25 fps, ten times too many frames, and a minute in which nothing may grow."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests import load, soak

pytestmark = pytest.mark.slow


def printed(main: Callable[[list[str]], int], words: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    code = main(words.split())
    record: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert code == (0 if record["ok"] else 1)
    return record


def test_four_sources_of_25_fps_are_served_fairly_and_in_time(capsys: pytest.CaptureFixture[str]) -> None:
    record = printed(load.main, "--seconds 20", capsys)
    assert record["problems"] == []
    assert record["samples"] > 100
    assert record["frames_in"] == record["done"] + record["dropped"]


def test_row_31_ten_times_too_many_frames_neither_age_nor_pile_up(capsys: pytest.CaptureFixture[str]) -> None:
    record = printed(load.main, "--seconds 10 --overload 10", capsys)
    assert record["problems"] == []
    assert record["dropped"] > 5 * record["done"]


def test_nothing_grows_in_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(soak.main, "--seconds 60", capsys)["problems"] == []


def test_nothing_grows_with_the_worker_in_a_process_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(soak.main, "--seconds 15 --process --sources 1", capsys)["problems"] == []


def test_the_control_that_leaks_is_caught(capsys: pytest.CaptureFixture[str]) -> None:
    # 8 KiB of 400 frames a second; a machine that manages 60 of them still leaks more than the limit after warm-up.
    record = printed(soak.main, "--seconds 30 --leak-bytes-per-frame 8192", capsys)
    assert [problem[:14] for problem in record["problems"]] == ["memory grew by"], record
    assert record["growth_mib"] < record["leaked_mib"]
