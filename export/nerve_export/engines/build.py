"""Engines for a bundle, one process each; engines whose key is there already are taken as they are."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nerve_export.engines.compile import (
    Progress,
    builder_options,
    engine_key,
    gpu_of,
    library,
    library_of,
    memory_estimate,
    profile_of,
)
from nerve_export.engines.worker import EngineJob
from nerve_runtime import errors
from nerve_runtime.atomic import resource_errors
from nerve_runtime.backends.tensorrt.engine_records import graph_sha256, this_os_arch
from nerve_runtime.bundle.graph_check import check_graph
from nerve_runtime.bundle.ledger import Ledger
from nerve_runtime.bundle.manifest import EngineRecord, Manifest, file_sha256, load_manifest, verify_file
from nerve_runtime.bundle.spec import StageName
from nerve_runtime.errors import BundleError, CompatibilityError, NerveError, ResourceError, UsageError

KEY_LETTERS = 16
CRASHES = {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE}
LAST_LINES = 40


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What was made: `hit` when an engine of the same key was there already and nothing was compiled."""

    stage: StageName
    target: str
    path: str
    bytes: int
    seconds: float
    peak_rss_mb: float
    hit: bool


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """One engine that is wanted: its key and file, what it is made from, and what compiling it takes.

    Attributes:
        stage: of the manifest.
        target: for example "rtx-sm89".
        key: see `engine_key`.
        path: relative to the bundle.
        onnx_sha256: see `graph_sha256`.
        backend_version: of the library that is installed.
        memory_bytes: estimated peak of the compiler.
        is_there: the bundle has it already, whole.
    """

    stage: StageName
    target: str
    key: str
    path: str
    onnx_sha256: str
    backend_version: str
    memory_bytes: int
    is_there: bool


def plan_engines(
    bundle: Path, manifest: Manifest, targets: Sequence[str], stages: Iterable[StageName] | None = None
) -> list[EnginePlan]:
    """The engines wanted for targets and stages (all by default), and which of them are there already.

    Raises:
        UsageError: a stage is not in the manifest.
        CompatibilityError: the library of a target is missing.
    """
    wanted = list(manifest.stages) if stages is None else list(dict.fromkeys(stages))
    unknown = [stage for stage in wanted if stage not in manifest.stages]
    if unknown:
        raise UsageError(f"stages {unknown} are not in the bundle, only {', '.join(manifest.stages)}")
    return [_planned(bundle, manifest, target, stage) for target in targets for stage in wanted]


def _planned(bundle: Path, manifest: Manifest, target: str, stage: StageName) -> EnginePlan:
    record = manifest.stages[stage]
    backend_version = library(library_of(target)).backend_version
    graph = graph_sha256(manifest.files, record)
    key = engine_key(
        graph,
        precision=manifest.precision,
        profile=profile_of(record.spec),
        options=builder_options(record.spec),
        backend_version=backend_version,
        target=f"{target} {this_os_arch()}",
    )
    path = f"engines/{target}/{stage}-{key[:KEY_LETTERS]}.engine"
    size_bytes = sum(manifest.files[name].bytes for name in (record.onnx, *record.external_data))
    is_there = _whole_record(bundle, manifest, key) is not None
    return EnginePlan(stage, target, key, path, graph, backend_version, memory_estimate(size_bytes), is_there)


def _whole_record(bundle: Path, manifest: Manifest, key: str) -> EngineRecord | None:
    """The bundle's engine of that key, if its file is what the manifest says."""
    for record in manifest.engines:
        if record.key == key:
            try:
                verify_file(bundle, manifest, record.path)
            except BundleError:
                return None  # missing or damaged: it is built again
            return record
    return None


def build_engines(
    bundle: Path,
    manifest: Manifest,
    targets: Sequence[str],
    stages: Iterable[StageName] | None = None,
    progress: Progress | None = None,
    *,
    force: bool = False,
    earlier: Path | None = None,
    ledger: Ledger | None = None,
) -> tuple[list[EngineRecord], list[EngineFacts]]:
    """Compile engines into a bundle's folder, which may still be staged; its manifest is left to the caller.

    All graphs that are to be compiled are verified first; then every engine is compiled in a process of its own, one
    after another, and its hash is noted in the ledger as built here.

    Args:
        bundle: the folder; its `manifest.files` must list the graphs.
        manifest: of the folder, written there or not.
        targets: as given by `resolve_targets`.
        stages: all of the manifest by default.
        progress: told what is being compiled and the share of all that is done.
        force: compile even what is there already.
        earlier: folder of an older bundle, or of the one to be replaced, whose engines of the same key are copied.
        ledger: the user's own by default.

    Returns:
        One record and one fact per target and stage, in that order.

    Raises:
        BundleError: a graph is not what the manifest says.
        CompatibilityError: the library is missing, refuses the graph, or crashed.
        ResourceError: the compiler ran out of memory or was killed, or the disk is full.
    """
    ledger = ledger or Ledger()
    plans = plan_engines(bundle, manifest, targets, stages)
    sources = [(bundle, manifest)] + ([(earlier, load_manifest(earlier))] if earlier and not force else [])
    taken = [None if force else _taken(bundle, sources, plan) for plan in plans]
    for stage in dict.fromkeys(plan.stage for plan, found in zip(plans, taken, strict=True) if found is None):
        _refuse_changed_graph(bundle, manifest, stage)
    records, facts = [], []
    for number, (plan, found) in enumerate(zip(plans, taken, strict=True)):

        def report_progress(phase: str, share: float, number: int = number, plan: EnginePlan = plan) -> None:
            if progress:
                progress(f"{plan.stage} for {plan.target}: {phase}", (number + share) / len(plans))

        if found is None:
            record, fact = _compiled(bundle, manifest, plan, report_progress)
        else:
            record = found
            fact = EngineFacts(
                plan.stage, plan.target, record.path, (bundle / record.path).stat().st_size, 0.0, 0.0, True
            )
        if not fact.hit:
            about = f"{plan.stage} for {plan.target}, {plan.backend_version}"
            ledger.note(file_sha256(bundle / record.path), about)
        records.append(record)
        facts.append(fact)
    return records, facts


def _taken(bundle: Path, sources: Sequence[tuple[Path, Manifest]], plan: EnginePlan) -> EngineRecord | None:
    for folder, manifest in sources:
        record = _whole_record(folder, manifest, plan.key)
        if record is not None:
            if folder != bundle:
                with resource_errors(bundle / plan.path):
                    (bundle / plan.path).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(folder / record.path, bundle / plan.path)
            return record.model_copy(update={"path": plan.path})
    return None


def _refuse_changed_graph(bundle: Path, manifest: Manifest, name: StageName) -> None:
    """Verify a graph with its external data, and look it over, before any parser of a library sees it."""
    stage = manifest.stages[name]
    for relative in (stage.onnx, *stage.external_data):
        verify_file(bundle, manifest, relative)
    check_graph(bundle, stage.onnx, opset=manifest.opset, external_data=stage.external_data)


def _compiled(
    bundle: Path, manifest: Manifest, plan: EnginePlan, progress: Progress
) -> tuple[EngineRecord, EngineFacts]:
    stage = manifest.stages[plan.stage]
    job = EngineJob(
        onnx=str((bundle / stage.onnx).resolve()),
        spec=stage.spec.model_dump(mode="json"),
        target=plan.target,
        options=builder_options(stage.spec),
        engine=str((bundle / plan.path).resolve()),
    )
    done = run_apart(job, progress)
    record = EngineRecord(
        stage=plan.stage,
        target=plan.target,
        path=plan.path,
        key=plan.key,
        onnx_sha256=plan.onnx_sha256,
        backend_version=done["backend_version"],
        gpu=gpu_of(plan.target),
        os_arch=this_os_arch(),
        precision=manifest.precision,
        profile=done["profile"],
        builder_options=job.options,
    )
    fact = EngineFacts(
        plan.stage, plan.target, plan.path, done["bytes"], done["seconds"], done["peak_rss_mb"], hit=False
    )
    return record, fact


def run_apart(job: EngineJob, progress: Progress) -> dict[str, Any]:
    """Compile one engine in a process of its own and return the facts about it.

    Raises:
        NerveError: what the process told as its reason, or what its end by a signal means.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-m", "nerve_export.engines.worker", job.as_json()]
    pipe = subprocess.PIPE  # as its input, never written to: its end tells the worker that this process is gone
    with tempfile.TemporaryFile() as said:
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=said, env=environment, text=True) as worker:
            try:
                done = _outcome(worker.stdout or (), progress)
                worker.wait()
            except BaseException:
                worker.kill()
                raise
        if done is not None and worker.returncode == 0:
            return done
        said.seek(0)
        last_words = said.read().decode(errors="replace").splitlines()[-LAST_LINES:]
    raise _end(worker.returncode, job, last_words)


def _outcome(lines: Iterable[str], progress: Progress) -> dict[str, Any] | None:
    """Facts from the worker's reports, or None when it ended without any."""
    done: dict[str, Any] | None = None
    for report in _reports(lines):
        if "error" in report:
            raise _error_of(report)
        if "note" in report:
            progress(report["note"], 0.0)
        if "share" in report:
            progress(report["phase"], report["share"])
        done = report.get("done", done)
    return done


def _reports(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    # A line without its end was cut off by the worker's death, which is told by how it ended.
    return (json.loads(line) for line in lines if line.endswith("\n"))


def _error_of(report: dict[str, Any]) -> NerveError:
    kind = getattr(errors, report["error"], CompatibilityError)
    error: NerveError = kind(report["message"])
    return error


def _end(code: int, job: EngineJob, last_words: list[str]) -> Exception:
    graph = Path(job.onnx).name
    if code == -signal.SIGKILL:
        return ResourceError(
            f"the compiler of {graph} for {job.target} was killed, probably out of memory; close other programs, add swap, "
            "or compile one stage at a time with --stage"
        )
    if code < 0 and -code in CRASHES:
        return CompatibilityError(
            f"the compiler of {graph} for {job.target} crashed ({signal.Signals(-code).name}), nothing was kept; copy the "
            "bundle again, or build it with --opset 20, or use another version of the library"
        )
    if code < 0:
        return ResourceError(f"the compiler of {graph} for {job.target} was ended by {signal.Signals(-code).name}")
    return RuntimeError("\n".join([f"the compiler of {graph} for {job.target} ended with code {code}:", *last_words]))
