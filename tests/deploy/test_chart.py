"""The Helm chart: rendered by Helm's own library, and valid for Kubernetes."""

import re
from typing import Any

import pytest

from tests.contracts.checkout import settings
from tests.deploy.tools import DEPLOY, module

CHART = DEPLOY / "helm" / "nerve-triton"
ALL = {
    "autoscaling": {"enabled": True},
    "podMonitor": {"enabled": True},
    "networkPolicy": {
        "monitoring": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
    },
    "models": {"path": "tiny"},
    "image": {"digest": "sha256:" + "0" * 64, "pullSecrets": ["registry"]},
    "args": ["--log-verbose=1"],
    "nodeSelector": {"gpu": "true"},
    "affinity": {"podAntiAffinity": {}},
}
# Of the Prometheus operator, so no schema of Kubernetes knows it.
CUSTOM = {"PodMonitor"}
# The least that Chart.yaml asks for, as far back as the schemas go, and the newest.
VERSIONS = ("1.27.0", None)


def _rendered(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The objects of a release, by kind."""
    yaml = module("yaml")
    with module("helm_python").Chart.load(CHART) as chart:
        files = chart.render(values=values, name="demo", namespace="vision")
    documents = [yaml.safe_load(text) for name, text in files.items() if name.endswith(".yaml")]
    return {document["kind"]: document for document in documents if document}


def test_the_chart_is_of_this_release() -> None:
    text = (CHART / "Chart.yaml").read_text()
    assert re.findall(r'appVersion: "(\S+)"', text) == [settings()["project"]["version"]]


@pytest.mark.slow
def test_helm_finds_no_fault() -> None:
    found = module("helm_python.chart").lint(CHART)
    assert found["errors"] == []
    assert [message["error"] for message in found["messages"]] == ["icon is recommended"]


@pytest.mark.slow
@pytest.mark.parametrize("values", [{}, ALL], ids=["defaults", "all"])
@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_accepts_every_object(values: dict[str, Any], version: str | None) -> None:
    kubernetes = module("kubernetes_validate")
    objects = _rendered(values)
    assert {"Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy"} <= objects.keys()
    assert ({"HorizontalPodAutoscaler", "PodMonitor"} <= objects.keys()) == bool(values)
    for kind, each in objects.items():
        if kind not in CUSTOM:
            kubernetes.validate(each, version or kubernetes.latest_version(), strict=True)


@pytest.mark.slow
def test_kubernetes_refuses_a_field_that_it_does_not_know() -> None:
    kubernetes = module("kubernetes_validate")
    deployment = _rendered({})["Deployment"]
    deployment["spec"]["replica"] = 1
    with pytest.raises(kubernetes.ValidationError):
        kubernetes.validate(deployment, kubernetes.latest_version(), strict=True)


@pytest.mark.slow
def test_a_pod_may_do_little_and_says_how_it_is() -> None:
    pod = _rendered({})["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    probes = {name: container[name]["httpGet"]["path"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert probes == {
        "startupProbe": "/v2/health/ready",
        "readinessProbe": "/v2/health/ready",
        "livenessProbe": "/v2/health/live",
    }
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert next(mount for mount in container["volumeMounts"] if mount["name"] == "models")["readOnly"] is True
    exit_timeout = int(next(word for word in container["args"] if "exit-timeout" in word).split("=")[1])
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > exit_timeout + pause


@pytest.mark.slow
def test_every_object_finds_the_pods() -> None:
    objects = _rendered(ALL)
    labels = objects["Deployment"]["spec"]["template"]["metadata"]["labels"]
    selectors = {
        "Deployment": objects["Deployment"]["spec"]["selector"]["matchLabels"],
        "Service": objects["Service"]["spec"]["selector"],
        "PodDisruptionBudget": objects["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        "NetworkPolicy": objects["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
        "PodMonitor": objects["PodMonitor"]["spec"]["selector"]["matchLabels"],
    }
    assert {kind: selector for kind, selector in selectors.items() if selector != labels} == {}
    target = objects["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", objects["Deployment"]["metadata"]["name"])
    ports = {port["name"] for port in objects["Deployment"]["spec"]["template"]["spec"]["containers"][0]["ports"]}
    allowed = {port["port"] for rule in objects["NetworkPolicy"]["spec"]["ingress"] for port in rule["ports"]}
    assert allowed == ports == {"http", "grpc", "metrics"}
    # What scales is what the autoscaler counts, so the deployment does not fix it.
    assert "replicas" not in objects["Deployment"]["spec"]


@pytest.mark.slow
def test_a_digest_takes_the_place_of_the_tag() -> None:
    images = [
        _rendered(values)["Deployment"]["spec"]["template"]["spec"]["containers"][0]["image"]
        for values in ({}, {"image": {"tag": "7"}}, ALL)
    ]
    version = settings()["project"]["version"]
    assert images == [f"nerve-triton:{version}", "nerve-triton:7", f"nerve-triton@{ALL['image']['digest']}"]  # type: ignore[index]  # of `image`


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"replica": 2}, "replica"),
        ({"models": {"claim": ""}}, "models.claim"),
        ({"resources": {"limits": {"nvidia.com/gpu": None}}}, "nvidia.com/gpu"),
        ({"image": {"digest": "sha256:12"}}, "digest"),
        ({"replicas": "two"}, "replicas"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(values: dict[str, Any], named: str) -> None:
    error = module("helm_python").HelmError
    with pytest.raises(error, match="values don't meet the specifications") as refused:
        _rendered(values)
    assert named in str(refused.value).replace("/", ".").replace("nvidia.com.gpu", "nvidia.com/gpu")
