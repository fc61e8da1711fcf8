"""Engines for a bundle, each compiled in a process of its own; those whose key is there already are kept."""

import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nerve_export.engines.compile import (
    CLASS_SLOTS,
    BuilderOptions,
    ProgressCallback,
    builder_options,
    compile_engine,
    engine_key,
    gpu_of,
    library,
    library_of,
    memory_estimate,
    profile_of,
    resolve_targets,
)
from nerve_export.engines.ledger import note_engine
from nerve_export.engines.timing_cache import read_timings, timing_cache_path, write_timings
from nerve_export.isolation import peak_rss_mb, run_isolated
from nerve_runtime.atomic import resource_errors, write_bytes_whole
from nerve_runtime.backends.tensorrt.engine_records import graph_sha256, this_os_arch
from nerve_runtime.bundle.graph_check import check_graph
from nerve_runtime.bundle.ledger import Ledger
from nerve_runtime.bundle.manifest import EngineRecord, Manifest, file_sha256, load_manifest, verify_file
from nerve_runtime.bundle.spec import StageName, StageSpec
from nerve_runtime.errors import BundleError, CompatibilityError, UsageError
from nerve_runtime.labels import CLASSES_LIMIT_8_BIT

KEY_LETTERS = 16
LEAST_STEP = 0.005
"""Progress is reported when the share done has grown by this much."""
NO_WIDE_LABELS = f"TensorRT has no 16-bit labels, and its engines take {CLASS_SLOTS} classes at most"


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """One engine of a build; `hit` when one of the same key was there already and nothing was compiled."""

    stage: StageName
    target: str
    path: str
    bytes: int
    seconds: float
    peak_rss_mb: float
    hit: bool


@dataclass(frozen=True, slots=True)
class CompiledFile:
    """What the process that compiled an engine sends back."""

    backend_version: str
    profile: dict[str, list[list[int]]]
    bytes: int
    seconds: float
    peak_rss_mb: float


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """One engine to build: its key and file, its graph, and the memory that compiling takes.

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


def targets_for_classes(target: str, max_classes: int) -> tuple[tuple[str, ...], str]:
    """Which engines to build for `--target` of a bundle for so many classes, and one sentence why.

    Args:
        target: as of `resolve_targets`; "auto" is none where labels have 16 bit.
        max_classes: of the bundle.

    Raises:
        UsageError: as `resolve_targets`.
        CompatibilityError: likewise, or labels have 16 bit and engines are asked for.
    """
    if target == "auto" and max_classes > CLASSES_LIMIT_8_BIT:
        return (), f"graphs for ONNX Runtime only: {NO_WIDE_LABELS}"
    targets, why = resolve_targets(target)
    if targets:
        refuse_wide_labels(max_classes)
    return targets, why


def refuse_wide_labels(max_classes: int) -> None:
    """Refuse engines of a bundle whose labels have 16 bit.

    Raises:
        CompatibilityError: the bundle takes more than 254 classes.
    """
    if max_classes > CLASSES_LIMIT_8_BIT:
        raise CompatibilityError(
            f"no engines can be compiled of a bundle for {max_classes} classes: {NO_WIDE_LABELS}; use --target ort, or "
            f"build the bundle with --max-classes {CLASSES_LIMIT_8_BIT} or fewer"
        )


def plan_engines(
    bundle: Path, manifest: Manifest, targets: Sequence[str], stages: Iterable[StageName] | None = None
) -> list[EnginePlan]:
    """The engines for targets and stages (all by default), and which of them are there already.

    Raises:
        UsageError: a stage is not in the manifest.
        CompatibilityError: the library of a target is missing, or the bundle's labels have 16 bit.
    """
    if targets:
        refuse_wide_labels(manifest.geometry.max_classes)
    chosen = list(manifest.stages) if stages is None else list(dict.fromkeys(stages))
    unknown = [stage for stage in chosen if stage not in manifest.stages]
    if unknown:
        raise UsageError(f"stages {unknown} are not in the bundle, only {', '.join(manifest.stages)}")
    return [_plan_engine(bundle, manifest, target, stage) for target in targets for stage in chosen]


def _plan_engine(bundle: Path, manifest: Manifest, target: str, stage: StageName) -> EnginePlan:
    record = manifest.stages[stage]
    backend_version = library(library_of(target)).backend_version
    graph = graph_sha256(manifest.files, record)
    key = engine_key(
        graph,
        precision=manifest.precision,
        profile=profile_of(record.spec, manifest.geometry.max_batch),
        options=builder_options(record.spec, manifest.geometry.max_batch),
        backend_version=backend_version,
        target=f"{target} {this_os_arch()}",
    )
    path = f"engines/{target}/{stage}-{key[:KEY_LETTERS]}.engine"
    size_bytes = sum(manifest.files[name].bytes for name in (record.onnx, *record.external_data))
    is_there = _intact_record(bundle, manifest, key) is not None
    return EnginePlan(stage, target, key, path, graph, backend_version, memory_estimate(size_bytes), is_there)


def _intact_record(bundle: Path, manifest: Manifest, key: str) -> EngineRecord | None:
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
    progress: ProgressCallback | None = None,
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
        progress: called with what is being compiled and the share of all that is done.
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
    existing = [None if force else _copy_existing(bundle, sources, plan) for plan in plans]
    for stage in dict.fromkeys(plan.stage for plan, record in zip(plans, existing, strict=True) if record is None):
        _refuse_changed_graph(bundle, manifest, stage)
    records, facts = [], []
    for number, (plan, record) in enumerate(zip(plans, existing, strict=True)):

        def report_progress(phase: str, share: float, number: int = number, plan: EnginePlan = plan) -> None:
            if progress:
                progress(f"{plan.stage} for {plan.target}: {phase}", (number + share) / len(plans))

        if record is None:
            record, fact = _compile(bundle, manifest, plan, report_progress)
            about = f"{plan.stage} for {plan.target}, {plan.backend_version}"
            note_engine(ledger, file_sha256(bundle / record.path), about)
        else:
            size = (bundle / record.path).stat().st_size
            fact = EngineFacts(plan.stage, plan.target, record.path, size, 0.0, 0.0, hit=True)
        records.append(record)
        facts.append(fact)
    return records, facts


def _copy_existing(bundle: Path, sources: Sequence[tuple[Path, Manifest]], plan: EnginePlan) -> EngineRecord | None:
    for folder, manifest in sources:
        record = _intact_record(folder, manifest, plan.key)
        if record is not None:
            if folder != bundle:
                with resource_errors(bundle / plan.path):
                    (bundle / plan.path).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(folder / record.path, bundle / plan.path)
            return record.model_copy(update={"path": plan.path})
    return None


def _refuse_changed_graph(bundle: Path, manifest: Manifest, name: StageName) -> None:
    """Verify and check a graph with its external data before any library parses it."""
    stage = manifest.stages[name]
    for relative in (stage.onnx, *stage.external_data):
        verify_file(bundle, manifest, relative)
    check_graph(bundle, stage.onnx, opset=manifest.opset, external_data=stage.external_data)


def _compile(
    bundle: Path, manifest: Manifest, plan: EnginePlan, progress: ProgressCallback
) -> tuple[EngineRecord, EngineFacts]:
    stage = manifest.stages[plan.stage]
    max_batch = manifest.geometry.max_batch
    options = builder_options(stage.spec, max_batch)
    done: CompiledFile = run_isolated(
        f"the compiler of {stage.onnx} for {plan.target}",
        compile_to_file,
        (bundle / stage.onnx).resolve(),
        stage.spec,
        plan.target,
        options,
        (bundle / plan.path).resolve(),
        max_batch,
        progress=progress,
        fresh=True,
        if_killed="close other programs, add swap, or compile one stage at a time with --stage",
        if_crashed="copy the bundle again, or build it with --opset 20, or use another version of the library",
    )
    record = EngineRecord(
        stage=plan.stage,
        target=plan.target,
        path=plan.path,
        key=plan.key,
        onnx_sha256=plan.onnx_sha256,
        backend_version=done.backend_version,
        gpu=gpu_of(plan.target),
        os_arch=this_os_arch(),
        precision=manifest.precision,
        profile=done.profile,
        builder_options=options,
    )
    fact = EngineFacts(plan.stage, plan.target, plan.path, done.bytes, done.seconds, done.peak_rss_mb, hit=False)
    return record, fact


def compile_to_file(
    onnx: Path,
    spec: StageSpec,
    target: str,
    options: BuilderOptions,
    engine_path: Path,
    max_batch: int,
    *,
    progress: ProgressCallback,
) -> CompiledFile:
    """Compile one engine and write it whole; runs in a process of its own, whose memory is one engine's.

    Raises:
        NerveError: as `compile_engine`, or the engine cannot be written.
    """
    started = time.monotonic()
    opened = library(library_of(target))
    timings_path, timings = timing_cache_path(opened.backend_version, target), None
    if not opened.compiles_for_absent_gpus:
        timings, note = read_timings(timings_path)
        if note:
            progress(note, 0.0)
    last_share = -1.0

    def report_steps(phase: str, share: float) -> None:
        nonlocal last_share
        if share >= last_share + LEAST_STEP:
            last_share = share
            progress(phase, share)

    engine = compile_engine(
        onnx, spec, target, timing_cache=timings, progress=report_steps, options=options, max_batch=max_batch
    )
    write_bytes_whole(engine_path, engine.plan)
    if engine.timing_cache is not None:
        note = write_timings(timings_path, engine.timing_cache)
        if note:
            progress(note, 1.0)
    seconds = round(time.monotonic() - started, 2)
    return CompiledFile(engine.backend_version, engine.profile, len(engine.plan), seconds, peak_rss_mb())
