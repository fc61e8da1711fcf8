"""The health of a run for Prometheus, over HTTP."""

import errno
import threading
from collections.abc import Iterator
from types import TracebackType
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from nerve_runtime import ResourceError, UsageError
from nerve_stream.monitoring.counters import Percentiles
from nerve_stream.monitoring.health import SOURCE_STATES, Health, HealthSnapshot, SourceHealth

PORT_LIMIT = 65535
MS_PER_S = 1000.0
JOIN_TIMEOUT_S = 5.0


class HealthCollector(Collector):
    """Turns the current health into metrics each time Prometheus asks."""

    def __init__(self, health: Health) -> None:
        self._health = health

    def collect(self) -> Iterator[Metric]:
        """All metrics; `source` is the source's name, which holds no credentials."""
        snapshot = self._health.snapshot()
        yield _gauge("nerve_ready", "1 while frames can be expected to come out well", float(snapshot.ready))
        yield _counter("nerve_worker_restarts", "Times the worker was started again", snapshot.worker_restarts)
        yield _gauge("nerve_uptime_seconds", "Seconds since the start", snapshot.uptime_s)
        yield from _source_metrics(snapshot.sources)
        yield _stage_metric(snapshot)
        yield from _process_metrics(snapshot)


def _gauge(name: str, description: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, description, value=value)


def _counter(name: str, description: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(name, description, value=value)


def _source_metrics(sources: tuple[SourceHealth, ...]) -> Iterator[Metric]:
    frames = CounterMetricFamily("nerve_frames", "Frames by what became of them", labels=["source", "outcome"])
    arrived = CounterMetricFamily("nerve_frames_in", "Frames that came in", labels=["source"])
    invalid = CounterMetricFamily("nerve_frames_invalid", "Results without finite scores", labels=["source"])
    keyframes = CounterMetricFamily("nerve_keyframes", "Frames with attention of their own", labels=["source"])
    in_flight = GaugeMetricFamily("nerve_frames_in_flight", "Frames on their way", labels=["source"])
    fps = GaugeMetricFamily("nerve_fps", "Results written a second, last 5 s", labels=["source"])
    age = GaugeMetricFamily(
        "nerve_frame_age_seconds", "From arrival to written, last 60 s", labels=["source", "quantile"]
    )
    up = GaugeMetricFamily("nerve_source_up", "1 while the source delivers frames", labels=["source"])
    state = GaugeMetricFamily("nerve_source_state", "1 for the state the source is in", labels=["source", "state"])
    silence = GaugeMetricFamily("nerve_source_silence_seconds", "Seconds since the last frame", labels=["source"])
    reconnects = CounterMetricFamily("nerve_reconnects", "Times the source came back", labels=["source"])
    lost = CounterMetricFamily("nerve_frames_lost_at_source", "Replaced before they were taken", labels=["source"])
    for source in sources:
        name, counts = source.name, source.counts
        frames.add_metric([name, "done"], counts.done)
        for reason, number in counts.dropped_by_reason.items():
            frames.add_metric([name, reason], number)
        arrived.add_metric([name], counts.frames_in)
        invalid.add_metric([name], source.invalid)
        keyframes.add_metric([name], source.keyframes)
        in_flight.add_metric([name], counts.in_flight)
        fps.add_metric([name], source.fps)
        _add_percentiles(age, [name], source.age)
        up.add_metric([name], float(source.state == "streaming"))
        for possible in SOURCE_STATES:
            state.add_metric([name, possible], float(source.state == possible))
        if source.since_frame_s is not None:
            silence.add_metric([name], source.since_frame_s)
        reconnects.add_metric([name], source.reconnects)
        lost.add_metric([name], source.lost_at_source)
    yield from (frames, arrived, invalid, keyframes, in_flight, fps, age, up, state, silence, reconnects, lost)


def _add_percentiles(metric: GaugeMetricFamily, labels: list[str], percentiles: Percentiles) -> None:
    if percentiles.runs == 0:
        return
    for quantile, value_ms in (("0.5", percentiles.p50_ms), ("0.9", percentiles.p90_ms), ("0.99", percentiles.p99_ms)):
        metric.add_metric([*labels, quantile], value_ms / MS_PER_S)


def _stage_metric(snapshot: HealthSnapshot) -> Metric:
    metric = GaugeMetricFamily("nerve_stage_seconds", "Time of a stage, latest runs", labels=["stage", "quantile"])
    for stage, percentiles in snapshot.stages.items():
        _add_percentiles(metric, [stage], percentiles)
    return metric


def _process_metrics(snapshot: HealthSnapshot) -> Iterator[Metric]:
    process = snapshot.process
    yield _gauge("nerve_resident_memory_bytes", "Resident memory of this process", process.rss_bytes)
    yield _gauge("nerve_children_resident_memory_bytes", "Of its child processes together", process.children_rss_bytes)
    yield _gauge("nerve_open_files", "Open file descriptors", process.open_files)
    yield _gauge("nerve_threads", "Threads of this process", process.threads)


class MetricsServer:
    """Answers Prometheus on `http://host:port/metrics` until it is closed; a context manager.

    Args:
        port: 1 to 65535, or 0 for any free one.
        health: of the run.
        host: address to listen on; by default only this machine can connect.

    Raises:
        UsageError: the port is out of its range.
        ResourceError: the port is in use, or may not be used.

    Attributes:
        port: the one it listens on.
    """

    def __init__(self, port: int, health: Health, host: str = "127.0.0.1") -> None:
        if not 0 <= port <= PORT_LIMIT:
            raise UsageError(f"metrics port is {port}, expected 0 (any free one) to {PORT_LIMIT}")
        registry = CollectorRegistry(auto_describe=False)
        registry.register(HealthCollector(health))
        try:
            server, self._thread = start_http_server(port, addr=host, registry=registry)
        except (OSError, OverflowError) as error:
            raise _cannot_listen(host, port, error) from error
        self._server: WSGIServer = server
        self._closing = threading.Lock()
        self._closed = False
        self.port: int = server.server_port

    def close(self) -> None:
        """End the thread and close the socket; closing twice is fine."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self._server.shutdown()
            self._server.server_close()
            self._thread.join(JOIN_TIMEOUT_S)

    def __enter__(self) -> "MetricsServer":
        """Return the server itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the server."""
        self.close()


def _cannot_listen(host: str, port: int, error: Exception) -> ResourceError:
    in_use = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
    reason = "it is in use" if in_use else str(error)
    return ResourceError(f"cannot give metrics on port {port} of {host}: {reason}; choose another with --metrics-port")
