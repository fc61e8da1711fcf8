"""The model card of a bundle, README.md on the hub, made of its manifest and of the comparison in parity.json."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nerve_runtime.bundle.manifest import Manifest
from nerve_runtime.errors import BundleError

TEMPLATE = "model_card.md"
PARITY_NAME = "parity.json"
OWN_LICENCE = "apache-2.0"
"""Of a bundle with random weights: its graphs are made by this project alone."""
PASSED_ON = frozenset({"apache-2.0", "bsd-3-clause", "creativeml-openrail-m", "mit", "openrail++"})
"""Licences, as the hub writes them, that let weights be passed on; some with restrictions that travel with them."""
HUB_SOURCE = re.compile(r"hub:([^@]+)@")


@dataclass(frozen=True, slots=True)
class StageParity:
    """How far a stage is from the reference at worst, over its taps: least cosine or share of equal labels."""

    stage: str
    taps: int
    cosine: float | None
    agreement: float | None
    max_abs: float


@dataclass(frozen=True, slots=True)
class Parity:
    """What parity.json says."""

    passed: bool
    backend: str
    stages: tuple[StageParity, ...]

    @property
    def taps(self) -> int:
        """How many tensors were compared."""
        return sum(stage.taps for stage in self.stages)


def card(bundle: Path, manifest: Manifest, repository: str, revision: str) -> str:
    """The model card, with its front matter.

    Args:
        bundle: folder of the bundle, whose files are verified.
        manifest: of the bundle, without engines.
        repository: owner/name on the hub.
        revision: the branch that it is sent to.

    Raises:
        BundleError: parity.json is no record of a comparison.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__),
        autoescape=False,  # Markdown
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    licences = hub_licences(manifest)
    return environment.get_template(TEMPLATE).render(
        manifest=manifest,
        repository=repository,
        revision=revision,
        licence=licences[0] if len(licences) == 1 and licences[0] in PASSED_ON else "other",
        base_models=base_models(manifest),
        not_passed_on=not_passed_on(manifest),
        parity=read_parity(bundle, manifest),
        total_bytes=sum(record.bytes for record in manifest.files.values()),
        is_tiny=any(record.source.startswith("packaged:") for record in manifest.weights),
        has_licences="licences.txt" in manifest.files,
    )


def hub_licences(manifest: Manifest) -> tuple[str, ...]:
    """The licences of the weights, each once, in lower case as the hub writes them."""
    return tuple(dict.fromkeys(record.licence.lower() for record in manifest.weights)) or (OWN_LICENCE,)


def not_passed_on(manifest: Manifest) -> tuple[str, ...]:
    """What is to be told of weights whose licence is not known to let them be passed on, a sentence each."""
    return tuple(
        f"{record.role} ({record.source}) has the licence {record.licence!r}, which is not known to let you pass it on"
        for record in manifest.weights
        if record.licence.lower() not in PASSED_ON
    )


def base_models(manifest: Manifest) -> tuple[str, ...]:
    """The repositories on the hub that the weights came from, each once."""
    found = (HUB_SOURCE.match(record.source) for record in manifest.weights)
    return tuple(dict.fromkeys(match[1] for match in found if match))


def read_parity(bundle: Path, manifest: Manifest) -> Parity | None:
    """What parity.json says; None for a bundle without one.

    Raises:
        BundleError: it is no record of a comparison.
    """
    if PARITY_NAME not in manifest.files:
        return None
    try:
        content = json.loads((bundle / PARITY_NAME).read_bytes())
        stages = dict.fromkeys(tap["stage"] for tap in content["taps"])
        worst = (_worst(stage, (tap for tap in content["taps"] if tap["stage"] == stage)) for stage in stages)
        return Parity(bool(content["passed"]), str(content["backend"]), tuple(worst))
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{bundle / PARITY_NAME} is no record of a comparison; build the bundle again") from error


def _worst(stage: str, taps: Iterable[dict[str, Any]]) -> StageParity:
    listed = list(taps)
    least = {
        name: min((tap[name] for tap in listed if tap[name] is not None), default=None)
        for name in ("cosine", "agreement")
    }
    return StageParity(stage, len(listed), least["cosine"], least["agreement"], max(tap["max_abs"] for tap in listed))
