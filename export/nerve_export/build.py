"""From a plan to an installed bundle: export, compile, check against the reference, rename into place.

Every stage is exported, compiled and compared in a process of its own, so that the peak of memory is a stage's; this
process never imports PyTorch.
"""

import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from nerve_export.bundle import (
    bundle_lock,
    file_records,
    install,
    installed_manifest,
    refuse_foreign,
    staging_folder,
    write_manifest,
)
from nerve_export.graphs.sizes import Sizes, sizes_of
from nerve_export.graphs.stages import MERGED, stages_of
from nerve_export.isolation import kill_running, run_isolated
from nerve_export.parity.measures import ParityReport
from nerve_export.plan import BuildPlan, plan_key, plan_weights, tool_versions
from nerve_export.precision import PrecisionPlan, StagePrecision
from nerve_export.presets.files import PRESET_NAME
from nerve_ref.weights.files import ResolvedWeights, licences_text
from nerve_runtime.bundle.manifest import (
    BakedConstants,
    Geometry,
    Manifest,
    Method,
    StageRecord,
    Vocabulary,
    WeightRecord,
    load_manifest,
)
from nerve_runtime.bundle.spec import StageName
from nerve_runtime.errors import BundleError, NumericError, UsageError

if TYPE_CHECKING:
    from nerve_export.engines.build import EngineFacts
    from nerve_export.stage_worker import Exported

TOKENIZER_NAME = "tokenizer.json"
PARITY_NAME = "parity.json"
PRECISION_NAME = "precision.json"
LICENCES_NAME = "licences.txt"
SMALL_AT_ONCE = 2
"""Stages of the tiny models exported at a time; those of true size go one by one, so that memory is one stage's."""
WORKER = "nerve_export.stage_worker"
METHOD_DEFAULTS = ("tau", "alpha", "beta", "head_temperature", "threshold", "readout")
"""Constants that a run may change: inputs of the graphs, and which of the two read-outs is run."""
Progress = Callable[[str], None]
"""Called with a short text when a step of the build begins; text after a colon names a part of the step."""


@dataclass(frozen=True, slots=True)
class Artefact:
    """One file made by a build, for the closing lines and `--json`; `peak_rss_mb` is its own process's."""

    stage: str
    kind: str
    target: str
    path: str
    bytes: int
    seconds: float
    peak_rss_mb: float
    gmac: float


@dataclass(frozen=True, slots=True)
class BuildResult:
    """Result of a build; `artefacts` is empty when the installed bundle was up to date."""

    manifest: Manifest
    artefacts: tuple[Artefact, ...]
    parity: ParityReport | None
    kept_fp32: tuple[str, ...] = ()


def build(
    plan: BuildPlan, targets: tuple[str, ...], progress: Progress = lambda _what: None, *, force: bool = False
) -> BuildResult:
    """Build a bundle, unless the one in place was made by the same plan.

    Raises:
        NumericError: the bundle does not agree with the reference; nothing is installed.
        NerveError: anything else that stops a build, with its exit code.
    """
    progress("looking for weights")
    resolved = plan_weights(plan, progress)
    key = plan_key(plan, resolved)
    with bundle_lock(plan.out, lambda: progress(f"looking for weights: waiting for another builder of {plan.out}")):
        current = None if force else installed_manifest(plan.out, key)
        if current is not None and {engine.target for engine in current.engines} == set(targets):
            return BuildResult(current, (), None)
        refuse_foreign(plan.out)
        with staging_folder(plan.out) as folder:
            return _build_into(folder, plan, key, resolved, targets, progress)


def build_steps(plan: BuildPlan, targets: tuple[str, ...]) -> int:
    """Number of steps that `progress` is called for: weights, each graph, each engine, reference, comparison."""
    return 3 + len(stages_of(plan.params)) * (1 + len(targets))


def _build_into(
    folder: Path,
    plan: BuildPlan,
    key: str,
    resolved: ResolvedWeights | None,
    targets: tuple[str, ...],
    progress: Progress,
) -> BuildResult:
    started = time.monotonic()
    sizes = sizes_of(plan.backbones, plan.params, plan.max_classes, plan.max_batch)
    exported = _export_all(folder, plan, resolved, sizes, progress)
    _write_documents(folder, plan, resolved, exported)
    manifest = _manifest(folder, plan, key, sizes, {stage: done.record for stage, done in exported.items()}, resolved)
    artefacts = [_graph_artefact(stage, done) for stage, done in exported.items()]
    report, checking_peak_mb = _compare(folder, manifest, plan, resolved, progress)
    (folder / PARITY_NAME).write_text(json.dumps(report.as_json(), indent=1) + "\n", encoding="utf-8")
    if targets:
        from nerve_export.engines.build import build_engines

        def report_progress(what: str, _share: float) -> None:
            progress(f"compiling {what}")

        engines, made = build_engines(
            folder, manifest, targets, progress=report_progress, earlier=_previous_bundle(plan.out)
        )
        manifest = manifest.model_copy(update={"engines": tuple(engines)})
        artefacts += [_engine_artefact(fact, manifest) for fact in made]
    manifest = manifest.model_copy(update={"files": file_records(folder)})
    write_manifest(folder, manifest)
    install(folder, plan.out)
    artefacts.append(_bundle_artefact(manifest, artefacts, checking_peak_mb, time.monotonic() - started))
    kept = tuple(
        f"{stage}: {path}" for stage, done in exported.items() if done.precision for path in done.precision.keep_fp32
    )
    installed = tuple(replace(artefact, path=(plan.out / artefact.path).as_posix()) for artefact in artefacts)
    return BuildResult(manifest, installed, report, kept)


def _export_all(
    folder: Path, plan: BuildPlan, resolved: ResolvedWeights | None, sizes: Sizes, progress: Progress
) -> "dict[StageName, Exported]":
    def export(stage: StageName) -> "Exported":
        what = f"exporting stage {stage!r}"
        return run_isolated(what, f"{WORKER}:export_stage", plan, resolved, sizes, stage, folder)

    exported = {}
    with ThreadPoolExecutor(SMALL_AT_ONCE if plan.preset.is_packaged else 1) as pool:
        # The merged stage is made of the others' files, so it waits for them.
        waiting = {stage: pool.submit(export, stage) for stage in stages_of(plan.params) if stage != MERGED}
        try:
            for stage, future in waiting.items():
                progress(f"exporting {stage}")
                exported[stage] = future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            while not all(future.done() for future in waiting.values()):
                kill_running()  # until all have ended, as one may be starting
                time.sleep(0.1)
            raise
    progress(f"exporting {MERGED}")
    exported[MERGED] = export(MERGED)
    return exported


def _write_documents(
    folder: Path, plan: BuildPlan, resolved: ResolvedWeights | None, exported: "dict[StageName, Exported]"
) -> None:
    """The files beside the graphs: tokenizer, licences, a preset that no package ships, which layers stayed float32."""
    run_isolated("writing the tokenizer", f"{WORKER}:write_tokenizer", plan, resolved, folder / TOKENIZER_NAME)
    licences = (
        "random weights: no licence; labels mean nothing\n" if resolved is None else licences_text(resolved.records)
    )
    (folder / LICENCES_NAME).write_text(licences, encoding="utf-8")
    if not plan.preset.is_shipped:
        (folder / PRESET_NAME).write_text(plan.preset.toml(), encoding="utf-8")
    if plan.precision != "fp32":
        stages: dict[StageName, StagePrecision] = {
            stage: done.precision for stage, done in exported.items() if done.precision is not None
        }
        text = PrecisionPlan(precision=plan.precision, stages=stages).model_dump_json(indent=2)
        (folder / PRECISION_NAME).write_text(f"{text}\n", encoding="utf-8")


def _compare(
    folder: Path, manifest: Manifest, plan: BuildPlan, resolved: ResolvedWeights | None, progress: Progress
) -> tuple[ParityReport, float]:
    """Compare the staged bundle with the reference; also returns the greater peak of memory of the two processes.

    Raises:
        NumericError: they do not agree.
    """
    with tempfile.TemporaryDirectory(".tmp", f".{plan.out.name}.taps.", folder.parent) as taps:
        progress("running the reference")
        reference_mb = run_isolated("running the reference", f"{WORKER}:write_reference", plan, resolved, Path(taps))
        progress("comparing with the reference")
        report, comparison_mb = run_isolated(
            "comparing with the reference", f"{WORKER}:compare_with_reference", folder, manifest, Path(taps)
        )
    if not report.passed:
        worst = report.worst()
        raise NumericError(
            f"the bundle does not agree with the reference: {worst.stage}.{worst.tensor} on frame {worst.frame} has "
            f"cosine {worst.cosine}, max abs {worst.max_abs:.3g}, agreement {worst.agreement}; nothing was installed"
        )
    return report, max(reference_mb, comparison_mb)


def _previous_bundle(out: Path) -> Path | None:
    """The bundle to be replaced, if it is intact: its engines of the same key need no compiling."""
    try:
        load_manifest(out)
    except BundleError:
        return None
    return out


def _graph_artefact(stage: StageName, done: "Exported") -> Artefact:
    return Artefact(
        stage, "onnx", "ort", done.record.onnx, done.bytes, done.seconds, done.peak_rss_mb, done.record.gmac
    )


def _engine_artefact(fact: "EngineFacts", manifest: Manifest) -> Artefact:
    gmac = manifest.stages[fact.stage].gmac
    return Artefact(fact.stage, "engine", fact.target, fact.path, fact.bytes, fact.seconds, fact.peak_rss_mb, gmac)


def _bundle_artefact(
    manifest: Manifest, artefacts: list[Artefact], checking_peak_mb: float, seconds: float
) -> Artefact:
    """The bundle as one line: all bytes, the time of the whole build, the greatest peak, a cold frame's cost."""
    size = sum(record.bytes for record in manifest.files.values())
    peak_mb = max(checking_peak_mb, *(artefact.peak_rss_mb for artefact in artefacts))
    return Artefact("bundle", "bundle", "all", "", size, round(seconds, 2), peak_mb, manifest.stages["frame"].gmac)


def _manifest(
    folder: Path,
    plan: BuildPlan,
    key: str,
    sizes: Sizes,
    stages: dict[StageName, StageRecord],
    resolved: ResolvedWeights | None,
) -> Manifest:
    params = plan.params
    baked: dict[str, Any] = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(params).items()
        if name not in METHOD_DEFAULTS
    }
    return Manifest(
        format_version=1,
        preset=plan.preset.name,
        random_seed=plan.random_seed,
        opset=plan.opset,
        precision=plan.precision,
        plan_key=key,
        geometry=Geometry(
            working_hw=sizes.working_hw,
            grid_hw=sizes.grid_hw,
            pooled_keys=sizes.pooled_keys,
            heads=sizes.heads,
            text_width=sizes.text_width,
            max_classes=plan.max_classes,
            max_batch=plan.max_batch,
        ),
        method=Method(**{name: getattr(params, name) for name in METHOD_DEFAULTS}, baked=BakedConstants(**baked)),
        vocabulary=_vocabulary(folder, plan, sizes),
        stages=stages,
        weights=tuple(WeightRecord(**asdict(record)) for record in resolved.records) if resolved is not None else (),
        tool_versions=tool_versions(),
        files=file_records(folder),
    )


def usable_templates(
    tokenizer: Tokenizer, sets: Mapping[str, Sequence[str]], unknown_token: str | None
) -> dict[str, list[str]]:
    """The template sets whose every word the tokenizer knows; all of them where no word is unknown to it."""
    return {
        name: list(templates)
        for name, templates in sets.items()
        if unknown_token is None
        or not any(unknown_token in tokenizer.encode(text.format("")).tokens for text in templates)
    }


def _vocabulary(folder: Path, plan: BuildPlan, sizes: Sizes) -> Vocabulary:
    from nerve_ref.templates import TEMPLATE_SETS

    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_NAME))
    tokenizer.no_padding()
    end = tokenizer.id_to_token(tokenizer.encode("").ids[-1])
    if end is None:
        raise UsageError(f"the tokenizer of preset {plan.preset.name} ends prompts with an id without a token; mend it")
    known_words_only = type(tokenizer.model).__name__ == "WordLevel"
    unknown_token = getattr(tokenizer.model, "unk_token", None) if known_words_only else None
    return Vocabulary(
        tokenizer=TOKENIZER_NAME,
        context_length=sizes.context_length,
        end_token=end,
        unknown_token=unknown_token,
        synthetic=plan.random_seed is not None and plan.weights.tokenizer is None and not plan.preset.is_packaged,
        template_sets=usable_templates(tokenizer, TEMPLATE_SETS, unknown_token),
        default_template_set=plan.params.template_set,
    )
