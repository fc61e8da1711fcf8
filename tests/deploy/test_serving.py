"""Compose and Prometheus: files that the tools accept, and metrics that somebody exports."""

import re
from pathlib import Path
from typing import Any

import pytest

import nerve_stream.monitoring.metrics as metrics_module
from tests.contracts.checkout import ROOT
from tests.deploy.tools import DEPLOY, module, program, run

COMPOSE, ALERTS = DEPLOY / "compose.yaml", DEPLOY / "alerts.yml"
GIVEN = {"MODELS": "/srv/models"}
# Of Triton's user guide, page "Metrics": those that a rule may ask for.
TRITON_METRICS = {
    "nv_inference_request_success",
    "nv_inference_request_failure",
    "nv_inference_queue_duration_us",
    "nv_inference_pending_request_count",
}


def _interpolated(text: str) -> str:
    """The text with variables replaced as `docker compose` does it."""

    def value(found: re.Match[str]) -> str:
        name, mark, default = found.groups()
        return GIVEN[name] if mark == "?" else GIVEN.get(name, default)

    return re.sub(r"\$\{(\w+):([-?])([^}]*)\}", value, text)


def _services() -> dict[str, Any]:
    services: dict[str, Any] = module("yaml").safe_load(_interpolated(COMPOSE.read_text()))["services"]
    return services


def _own_metrics() -> set[str]:
    """The names under which nerve-segment exports, by the library's rule for counters."""
    text = Path(metrics_module.__file__).read_text()
    found = re.findall(r"(_gauge|_counter|GaugeMetricFamily|CounterMetricFamily)\(\s*\"(nerve_\w+)\"", text)
    return {f"{name}_total" if "ounter" in kind else name for kind, name in found}


def test_alerts_ask_for_metrics_that_are_exported() -> None:
    text = ALERTS.read_text()
    assert _own_metrics() >= {"nerve_ready", "nerve_frames_total"}
    assert set(re.findall(r"\bnerve_\w+", text)) - _own_metrics() == set()
    assert set(re.findall(r"\bnv_\w+", text)) == TRITON_METRICS


def test_every_service_is_closed_limited_and_started_again() -> None:
    services = _services()
    assert set(services) == {"prometheus", "segment", "triton"}
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["restart"] == "unless-stopped", name
        assert service["stop_grace_period"].endswith("s"), name
        assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory", "pids"}, name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
        assert "privileged" not in service, name
    assert services["triton"]["volumes"] == ["/srv/models:/models:ro"]
    assert services["triton"]["healthcheck"]["test"][-1].endswith("/v2/health/ready")


def test_files_and_images_that_compose_names_are_here() -> None:
    for name, service in _services().items():
        if "build" in service:
            assert (ROOT / service["build"]["dockerfile"]).is_file(), name
        else:
            assert re.fullmatch(r"[\w./-]+:v?\d[\w.-]*", service["image"]), name
    for mounted in _services()["prometheus"]["volumes"]:
        source = mounted.split(":")[0]
        assert not source.startswith(".") or (DEPLOY / source).is_file(), mounted


@pytest.mark.slow
def test_compose_follows_its_specification() -> None:
    compose = module("compose_spec").PyCompose.from_yaml(_interpolated(COMPOSE.read_text()))
    compose.validate()
    assert set(compose.services or {}) == set(_services())


@pytest.mark.slow
def test_what_the_specification_does_not_know_is_refused() -> None:
    text = _interpolated(COMPOSE.read_text()).replace("restart:", "restarts:", 1)
    with pytest.raises(ValueError, match="restarts"):
        module("compose_spec").PyCompose.from_yaml(text)


@pytest.mark.slow
def test_prometheus_accepts_its_configuration_and_the_rules() -> None:
    promtool = program("promtool")
    ended = run(promtool, "check", "config", DEPLOY / "prometheus.yml")
    assert ended.returncode == 0, ended.stdout
    assert "10 rules found" in ended.stdout


@pytest.mark.slow
def test_alerts_fire_when_they_should_and_are_quiet_otherwise() -> None:
    ended = run(program("promtool"), "test", "rules", Path(__file__).with_name("alerts_test.yml"))
    assert ended.returncode == 0, ended.stdout


@pytest.mark.slow
def test_an_alert_that_never_fires_is_found(tmp_path: Path) -> None:
    broken = ALERTS.read_text().replace("nerve_ready == 0", "nerve_ready == 2")
    (tmp_path / "alerts.yml").write_text(broken)
    cases = Path(__file__).with_name("alerts_test.yml").read_text()
    (tmp_path / "cases.yml").write_text(cases.replace("../../deploy/alerts.yml", "alerts.yml"))
    ended = run(program("promtool"), "test", "rules", tmp_path / "cases.yml")
    assert ended.returncode != 0
    assert "SegmentNotReady" in ended.stdout
