"""What is shown of a download: bars on a terminal, lines elsewhere, and how to go on after Ctrl-C."""

import io
from collections.abc import Iterator

import pytest
from rich.console import Console

from nerve_export.weights.progress import DownloadBars

GB = 1_000_000_000


@pytest.fixture
def shown() -> io.StringIO:
    return io.StringIO()


def bars_on(shown: io.StringIO, seconds: Iterator[float], *, terminal: bool = False) -> DownloadBars:
    console = Console(file=shown, force_terminal=terminal, width=200, markup=False, highlight=False, soft_wrap=True)
    return DownloadBars(console, lambda: next(seconds))


def clock(*seconds: float) -> Iterator[float]:
    yield from seconds
    while True:
        yield seconds[-1]


def test_a_line_says_how_far_the_file_and_all_are_how_fast_and_how_long_still(shown: io.StringIO) -> None:
    with bars_on(shown, clock(0, 0, 0, 10)) as bars:
        bars.expect(5 * GB, 1 * GB)
        bars.begin("owner/name/unet.safetensors", 3 * GB, 1 * GB)
        bars.update(GB)
    assert shown.getvalue() == (
        "owner/name/unet.safetensors: 2.00 GB of 3.00 GB, 100.0 MB/s; all files: 2.00 GB of 5.00 GB, about 30 s left\n"
    )


def test_lines_come_every_ten_seconds_and_when_a_file_is_whole(shown: io.StringIO) -> None:
    with bars_on(shown, clock(0, 0, 0, 4, 8, 11, 11, 11, 12)) as bars:
        bars.expect(4 * GB, 0)
        bars.begin("a", 4 * GB, 0)
        for _ in range(3):
            bars.update(GB)
        assert shown.getvalue().count("\n") == 1
        bars.update(GB)
        bars.end()
    assert shown.getvalue().splitlines()[-1] == "a: 4.00 GB of 4.00 GB, 333.3 MB/s; all files: 4.00 GB of 4.00 GB"


def test_a_file_that_is_fetched_anew_is_not_counted_twice(shown: io.StringIO) -> None:
    with bars_on(shown, clock(0, 1)) as bars:
        bars.expect(2 * GB, 0)
        for _ in range(2):
            bars.begin("a", 2 * GB, 0)
            bars.update(2 * GB)
            bars.end()
    assert {line.partition("; ")[2] for line in shown.getvalue().splitlines()} == {"all files: 2.00 GB of 2.00 GB"}


def test_small_files_are_not_told_of(shown: io.StringIO) -> None:
    with bars_on(shown, clock(0, 1)) as bars:
        bars.begin("config.json", 500, 0)
        bars.update(500)
        bars.end()
    assert shown.getvalue() == ""


def test_a_terminal_gets_a_bar_for_the_file_and_one_for_all(shown: io.StringIO) -> None:
    with bars_on(shown, clock(0, 1), terminal=True) as bars:
        bars.expect(5 * GB, 1 * GB)
        bars.begin("owner/name/unet.safetensors", 3 * GB, 0)
        bars.update(GB)
    last = shown.getvalue()
    assert "all files" in last
    assert "2.0/5.0 GB" in last
    assert "1.0/3.0 GB" in last


def test_an_interrupted_download_says_how_to_go_on(shown: io.StringIO) -> None:
    bars = bars_on(shown, clock(0))
    bars.expect(GB, 0)
    with pytest.raises(KeyboardInterrupt), bars:
        raise KeyboardInterrupt
    assert shown.getvalue() == "stopped; what came is kept, and the same command goes on from there\n"
