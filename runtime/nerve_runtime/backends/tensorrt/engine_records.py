"""Which engine of a bundle fits this machine, decided from the manifest alone, before a byte of an engine is read."""

import hashlib
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nerve_runtime.backends.tensorrt.library import RTX_CAPABILITIES, Library
from nerve_runtime.bundle.manifest import EngineRecord, FileRecord, Manifest, StageRecord
from nerve_runtime.bundle.spec import StageName
from nerve_runtime.errors import BundleError, CompatibilityError


def this_os_arch() -> str:
    """Operating system and processor of this machine, for example "linux-x86_64"."""
    return f"{platform.system().lower()}-{platform.machine().lower()}"


def graph_sha256(files: Mapping[str, FileRecord], stage: StageRecord) -> str:
    """One hash for a graph and its external data: that of the file, or of all their hashes in the record's order."""
    digests = [files[path].sha256 for path in (stage.onnx, *stage.external_data)]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Machine:
    """What engines are bound to: a library with its version, a GPU's compute capability, and a system."""

    library: Library
    gpu: str
    os_arch: str


def fitting_engine(bundle: Path, manifest: Manifest, stage: StageName, machine: Machine) -> EngineRecord:
    """The engine of a stage that was made for this machine and from the graph that is in the bundle now.

    Raises:
        BundleError: the bundle has no such stage.
        CompatibilityError: there is none; says what the nearest is bound to, what is here, and how to build one.
    """
    if stage not in manifest.stages:
        raise BundleError(f"the bundle has no stage {stage!r}, only {', '.join(manifest.stages)}; rebuild it")
    family = machine.library.backend_version.partition(" ")[0]
    candidates = [
        record
        for record in manifest.engines
        if record.stage == stage and record.backend_version.partition(" ")[0] == family
    ]
    graph = graph_sha256(manifest.files, manifest.stages[stage])
    demands = (
        ("compute capability", machine.gpu, [record.gpu for record in candidates]),
        ("system", machine.os_arch, [record.os_arch for record in candidates]),
        ("version", machine.library.backend_version, [record.backend_version for record in candidates]),
        ("graph", graph, [record.onnx_sha256 for record in candidates]),
    )
    left = list(range(len(candidates)))
    for demand, here, theirs in demands:
        kept = [index for index in left if theirs[index] == here]
        if not kept:
            others = sorted({theirs[index] for index in left})
            raise CompatibilityError(_misfit(bundle, stage, machine, demand, here, others))
        left = kept
    return candidates[left[-1]]


def _misfit(bundle: Path, stage: StageName, machine: Machine, demand: str, here: str, others: list[str]) -> str:
    library, gpu = machine.library, machine.gpu
    if library.compiles_for_absent_gpus and gpu not in RTX_CAPABILITIES:
        return (
            f"{library.label} has no target for this GPU ({gpu}), only {', '.join(RTX_CAPABILITIES)}; "
            f'use TensorRT: nerve-build engines {bundle} --target tensorrt, then backend="tensorrt"'
        )
    command = f"nerve-build engines {bundle} --target {library.target_option(gpu)}"
    if not others:
        return f"the bundle has no {library.label} engine of stage {stage!r}; build it with: {command}"
    if demand == "graph":
        return (
            f"the engine of stage {stage!r} was made from another graph than the bundle holds; build it with: {command}"
        )
    return (
        f"the engines of stage {stage!r} are for {demand} {', '.join(others)}, this machine has {here}; "
        f"build one for it with: {command}"
    )
