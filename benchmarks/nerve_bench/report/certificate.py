"""What a certificate holds, as JSON and as one page."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

from nerve_bench.measure.openvino import openvino_version
from nerve_export.engines.compile import gpu_capability
from nerve_export.parity.report import machine, page_templates
from nerve_runtime.atomic import write_bytes_whole
from nerve_runtime.bundle.manifest import MANIFEST_NAME, file_sha256

State = Literal["passed", "failed", "measured", "not run"]
"""A figure that nothing is held against is measured; it cannot fail."""
CERTIFICATE_NAME, PAGE_NAME = "certificate.json", "certificate.html"


@dataclass(frozen=True, slots=True)
class Finding:
    """One part of a certificate: `what` is a sentence for people, `figures` are JSON values."""

    part: str
    state: State
    what: str
    figures: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Its JSON line."""
        return {"bench": "certify", "part": self.part, "state": self.state, "what": self.what, **self.figures}


def write_certificate(bundle: Path, findings: Sequence[Finding], out: Path) -> tuple[Path, Path]:
    """Write the JSON file and the HTML page, which needs nothing else; returns their paths.

    Raises:
        ResourceError: a file cannot be written.
    """
    libraries = {"openvino": openvino_version()} if find_spec("openvino") else {}
    here = machine()
    facts = {
        "bundle": bundle.resolve().name,
        "SHA-256 of its manifest": file_sha256(bundle / MANIFEST_NAME),
        "made": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "GPU": gpu_capability() or "none",
        "machine": here["compared on"],
        "installed": ", ".join([here["compared with"], *(f"{name} {version}" for name, version in libraries.items())]),
    }
    lines = [{k: v for k, v in finding.as_json().items() if k != "bench"} for finding in findings]
    text = json.dumps({**facts, "passed": passed(findings), "findings": lines}, indent=1)
    write_bytes_whole(out / CERTIFICATE_NAME, f"{text}\n".encode())
    write_bytes_whole(out / PAGE_NAME, certificate_page(facts, findings).encode("utf-8", "replace"))
    return out / CERTIFICATE_NAME, out / PAGE_NAME


def passed(findings: Sequence[Finding]) -> bool:
    """Whether all that could run passed."""
    return all(finding.state != "failed" for finding in findings)


def certificate_page(facts: dict[str, Any], findings: Sequence[Finding]) -> str:
    """The certificate as one HTML page."""
    counts = {state: sum(finding.state == state for finding in findings) for state in get_args(State)}
    return (
        page_templates(__package__)
        .get_template("certificate.html")
        .render(
            facts=facts,
            findings=findings,
            summary=", ".join(f"{count} {state}" for state, count in counts.items()),
            random_weights=any(finding.figures.get("random_weights") for finding in findings),
        )
    )
