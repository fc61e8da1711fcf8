"""The status line and the status file: whole at every moment, quiet where nobody watches, and never the end of a run."""

import io
import json
import logging
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from nerve_runtime.errors import ResourceError
from nerve_stream.monitoring.counters import SourceCounts
from nerve_stream.monitoring.health import Health
from nerve_stream.monitoring.status import StatusReporter, status_lines, write_status
from tests.data.waiting import wait_for
from tests.unit.nerve_stream.monitoring.test_health import FakeWorker, observed


def health_of(*names: str, live: bool = True) -> Health:
    health = Health()
    health.begin([observed(name=name, **({} if live else {"frames": object()})) for name in names], FakeWorker())
    return health


def test_a_line_tells_the_state_the_counts_and_the_worker() -> None:
    lines = status_lines(health_of("door", "yard").snapshot())
    assert lines[0] == "door: reconnecting, 0.0 fps, age 0/0 ms, 10 in, 6 done, 3 dropped, 3 reconnects"
    assert lines[1].startswith("yard: ")
    assert lines[2].startswith("ready, no frame yet, ")
    assert lines[2].endswith("MiB, 2 worker restarts")


def test_on_a_pipe_lines_come_seldom_and_only_while_a_live_source_runs() -> None:
    for live, expected in ((True, 2), (False, 0)):
        out = io.StringIO()
        reporter = StatusReporter(
            health_of("[bold]door", live=live), console=Console(file=out, width=40), interval_s=5.0
        )
        for _ in range(4):  # twenty seconds
            reporter._update()
        assert out.getvalue().count("[bold]door: ") == expected


def test_on_a_terminal_the_line_is_redrawn() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=200)
    with StatusReporter(health_of("[red]door"), console=console, interval_s=0.02):
        assert wait_for(lambda: out.getvalue().count("[red]door: reconnecting") >= 2)


def test_the_file_is_whole_whenever_it_is_read_and_final_at_the_end(tmp_path: Path) -> None:
    path, counts = tmp_path / "status.json", [SourceCounts(1, 0, in_flight=1)]
    health = Health()
    health.begin([observed(counts=lambda: counts[0])], FakeWorker())
    with StatusReporter(health, json_path=path, lines=False, interval_s=0.01):
        assert json.loads(path.read_text())["sources"][0]["counts"]["done"] == 0
        for _ in range(50):
            assert json.loads(path.read_text())["ready"] is True
            time.sleep(0.002)
        counts[0] = SourceCounts(1, 1)
    assert json.loads(path.read_text())["sources"][0]["counts"]["done"] == 1
    assert [one.name for one in tmp_path.iterdir()] == ["status.json"]
    assert not [thread for thread in threading.enumerate() if thread.name == "nerve-status"]


def test_a_file_that_cannot_be_written_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ResourceError, match="cannot write"),
        StatusReporter(Health(), json_path=tmp_path / "file" / "status.json", lines=False),
    ):
        pass


def test_a_disk_that_fills_up_later_is_logged_once_and_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        attempts.append(path)
        raise ResourceError("cannot write status.json: no space")

    attempts: list[Path] = []

    with (
        caplog.at_level(logging.WARNING),
        StatusReporter(health_of("door"), json_path=tmp_path / "status.json", lines=False, interval_s=0.01),
    ):
        monkeypatch.setattr("nerve_stream.monitoring.status.write_bytes_whole", full)
        assert wait_for(lambda: len(attempts) > 5)
    assert [record.getMessage() for record in caplog.records] == ["cannot write status.json: no space"]


def test_a_status_file_replaces_the_one_before(tmp_path: Path) -> None:
    for name in ("door", "yard"):
        write_status(tmp_path / "status.json", health_of(name).snapshot())
    assert json.loads((tmp_path / "status.json").read_text())["sources"][0]["name"] == "yard"
