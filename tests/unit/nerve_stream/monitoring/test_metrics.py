"""Prometheus text over HTTP, and a server that leaves nothing behind."""

import socket
import threading
import urllib.request

import pytest
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from nerve_runtime.errors import ResourceError, UsageError
from nerve_stream.monitoring.counters import SourceCounts
from nerve_stream.monitoring.health import Health
from nerve_stream.monitoring.metrics import MetricsServer
from nerve_stream.pipeline import LocalWorker, StreamJob, run_streams
from tests.data.processes import threads_and_files
from tests.data.stream_doubles import DoubleSegmenter, numbered
from tests.unit.nerve_stream.monitoring.test_health import FakeWorker, observed


def asked(port: int) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    assert "secret" not in text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_are_the_numbers_of_health() -> None:
    health = Health()
    health.begin([observed()], FakeWorker())
    with MetricsServer(0, health) as server:
        metrics = asked(server.port)
    door = ("source", "door")
    outcomes = {"done": 6, "superseded": 2, "failed": 1, "stopped": 0, "paused": 0}
    for outcome, number in outcomes.items():
        assert metrics["nerve_frames_total", (("outcome", outcome), door)] == number
    assert metrics["nerve_frames_in_total", (door,)] == 10
    assert metrics["nerve_frames_in_flight", (door,)] == 1
    assert metrics["nerve_ready", ()] == 1
    assert metrics["nerve_worker_restarts_total", ()] == 2
    assert metrics["nerve_reconnects_total", (door,)] == 3
    assert metrics["nerve_frames_lost_at_source_total", (door,)] == 7
    assert metrics["nerve_source_up", (door,)] == 0
    assert metrics["nerve_source_state", (door, ("state", "reconnecting"))] == 1
    assert metrics["nerve_source_state", (door, ("state", "streaming"))] == 0
    assert metrics["nerve_resident_memory_bytes", ()] > 1e6


def test_stages_and_ages_are_seconds() -> None:
    health = Health()
    with LocalWorker(DoubleSegmenter()) as worker, MetricsServer(0, health) as server:
        run_streams(
            [StreamJob("clip", numbered(9), lambda frame, result: None)], worker, stop=threading.Event(), health=health
        )
        metrics = asked(server.port)
    assert metrics["nerve_stage_seconds", (("quantile", "0.5"), ("stage", "total"))] == pytest.approx(0.002)
    assert 0 < metrics["nerve_frame_age_seconds", (("quantile", "0.99"), ("source", "clip"))] < 5
    assert metrics["nerve_frames_total", (("outcome", "done"), ("source", "clip"))] == 9


def test_names_with_quotes_and_lines_cannot_forge_metrics() -> None:
    health = Health()
    name = 'a"} 1\nnerve_ready 0\n#'
    health.begin([observed(name=name, counts=lambda: SourceCounts(1, 1))], FakeWorker())
    with MetricsServer(0, health) as server:
        metrics = asked(server.port)
    assert metrics["nerve_ready", ()] == 1
    assert metrics["nerve_frames_in_total", (("source", name),)] == 1


def test_a_port_in_use_is_named_and_one_out_of_range_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ResourceError, match=f"port {port} of 127.0.0.1: it is in use; choose another"):
            MetricsServer(port, Health())
    with pytest.raises(UsageError, match="metrics port is 65536, expected 0"):
        MetricsServer(65536, Health())
    with pytest.raises(ResourceError, match=r"of 192\.0\.2\.1: .*; choose another"):
        MetricsServer(0, Health(), host="192.0.2.1")


def test_the_server_is_not_in_the_registry_of_the_whole_program_and_leaves_nothing_behind() -> None:
    before = threads_and_files()
    server = MetricsServer(0, Health())
    asked(server.port)
    server.close()
    server.close()
    assert threads_and_files() <= before
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", server.port), timeout=1)
    assert not [family for family in REGISTRY.collect() if family.name.startswith("nerve")]
