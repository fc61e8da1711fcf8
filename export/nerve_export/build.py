"""From a plan to an installed bundle: export, compile, check against the reference, rename into place."""

import json
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nerve_export.bundle import (
    bundle_lock,
    file_records,
    install,
    installed_manifest,
    refuse_foreign,
    staging_folder,
    write_manifest,
)
from nerve_export.gmac import count_gmac
from nerve_export.parity import ParityReport, check_parity
from nerve_export.plan import BuildPlan, Preset, plan_key, presets, tool_versions
from nerve_export.stages import TABLE, Sizes
from nerve_runtime.errors import NumericError, UsageError
from nerve_runtime.manifest import (
    EngineRecord,
    FileRecord,
    Geometry,
    Manifest,
    Method,
    StageRecord,
    Vocabulary,
    WeightRecord,
)
from nerve_runtime.spec import StageName

if TYPE_CHECKING:
    from nerve_ref.weights import Models

TOKENIZER_NAME = "tokenizer.json"
PARITY_NAME = "parity.json"
LICENCES_NAME = "licences.txt"
NO_FILES: dict[str, FileRecord] = {}
Progress = Callable[[str], None]
"""Called with a short text whenever a new part of the build begins."""


@dataclass(frozen=True, slots=True)
class Artefact:
    """One file made by a build, for the closing lines and `--json`."""

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
    """What a build ended with: `artefacts` is empty when the installed bundle was up to date already."""

    manifest: Manifest
    artefacts: tuple[Artefact, ...]
    parity: ParityReport | None


def build(plan: BuildPlan, targets: tuple[str, ...], progress: Progress, *, force: bool = False) -> BuildResult:
    """Build a bundle, unless the one in place was made by the same plan.

    Raises:
        NumericError: the bundle does not agree with the reference; nothing is installed.
        NerveError: anything else that stops a build, with its exit code.
    """
    key = plan_key(plan)
    with bundle_lock(plan.out):
        found = None if force else installed_manifest(plan.out, key)
        if found is not None and {engine.target for engine in found.engines} == set(targets):
            return BuildResult(found, (), None)
        refuse_foreign(plan.out)
        with staging_folder(plan.out) as folder:
            return _build_into(folder, plan, key, targets, progress)


def build_steps(targets: tuple[str, ...]) -> int:
    """How often `progress` is called: loading, each graph, each engine, parity."""
    return 2 + len(TABLE) * (1 + len(targets))


def _build_into(folder: Path, plan: BuildPlan, key: str, targets: tuple[str, ...], progress: Progress) -> BuildResult:
    preset = presets()[plan.preset]
    progress("loading weights")
    models, sizes = _load(preset, plan)
    stages, artefacts = _export_all(folder, plan, models, sizes, progress)
    shutil.copyfile(preset.weights / "clip" / TOKENIZER_NAME, folder / TOKENIZER_NAME)
    (folder / LICENCES_NAME).write_text(f"weights of preset {plan.preset}: {preset.licence}\n", encoding="utf-8")
    engines = []
    for target in targets:
        for stage in stages:
            progress(f"compiling {stage} for {target}")
            record, artefact = _compile(folder, stage, stages[stage], target)
            engines.append(record)
            artefacts.append(artefact)
    manifest = _manifest(folder, plan, key, models, sizes, stages, tuple(engines), preset)
    progress("comparing with the reference")
    report = check_parity(folder, manifest, models, plan.params, preset.parity_classes)
    (folder / PARITY_NAME).write_text(json.dumps(report.as_json(), indent=1) + "\n", encoding="utf-8")
    if not report.passed:
        worst = report.worst()
        raise NumericError(
            f"the bundle does not agree with the reference: {worst.stage}.{worst.tensor} on frame {worst.frame} has "
            f"cosine {worst.cosine}, max abs {worst.max_abs:.3g}, agreement {worst.agreement}; nothing was installed"
        )
    manifest = manifest.model_copy(update={"files": file_records(folder)})
    write_manifest(folder, manifest)
    install(folder, plan.out)
    return BuildResult(manifest, tuple(_installed(artefacts, plan.out)), report)


def _load(preset: Preset, plan: BuildPlan) -> tuple["Models", Sizes]:
    import torch

    from nerve_ref.affinity import token_grid_hw
    from nerve_ref.pipeline import observe_diffusion
    from nerve_ref.weights import tiny_models

    try:
        models = tiny_models()
    except ValueError as error:
        raise UsageError(str(error)) from error
    _, heads = observe_diffusion(models, torch.zeros(*plan.params.size_hw, 3, dtype=torch.uint8), plan.params)
    sizes = Sizes(
        working_hw=plan.params.size_hw,
        grid_hw=token_grid_hw(heads),
        pooled_keys=plan.params.pooled_hw[0] * plan.params.pooled_hw[1],
        heads=sum(len(layer.q) for layer in heads),
        text_width=models.clip.config.projection_dim,
        context_length=models.clip.config.text_config.max_position_embeddings,
    )
    return models, sizes


def _export_all(
    folder: Path, plan: BuildPlan, models: "Models", sizes: Sizes, progress: Progress
) -> tuple[dict[StageName, StageRecord], list[Artefact]]:
    from nerve_export.onnx_graph import export_graph

    stages: dict[StageName, StageRecord] = {}
    artefacts = []
    for name, row in TABLE.items():
        progress(f"exporting {name}")
        started = time.monotonic()
        spec = row.spec(sizes)
        stamp = {"nerve_stage": name, "nerve_preset": plan.preset, "nerve_precision": plan.precision}
        model = export_graph(row.module(models, plan.params, sizes), spec, plan.opset, stamp)
        path = folder / f"{name}.onnx"
        path.write_bytes(model.SerializeToString(deterministic=True))
        stages[name] = StageRecord(onnx=path.name, spec=spec, gmac=round(count_gmac(model), 6))
        artefacts.append(_artefact(name, "onnx", "ort", path, folder, started, stages[name].gmac))
    return stages, artefacts


def _compile(folder: Path, stage: StageName, record: StageRecord, target: str) -> tuple[EngineRecord, Artefact]:
    from nerve_export.engine import compile_engine
    from nerve_runtime.manifest import file_sha256

    started = time.monotonic()
    onnx_path = folder / record.onnx
    engine = compile_engine(onnx_path, record.spec, target)
    path = folder / "engines" / target / f"{stage}.engine"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(engine.plan)
    engine_record = EngineRecord(
        stage=stage,
        target=target,
        path=path.relative_to(folder).as_posix(),
        onnx_sha256=file_sha256(onnx_path),
        backend_version=engine.backend_version,
        precision="fp32",
        profile=engine.profile,
        builder_options=engine.builder_options,
    )
    return engine_record, _artefact(stage, "engine", target, path, folder, started, record.gmac)


def _artefact(stage: str, kind: str, target: str, path: Path, folder: Path, started: float, gmac: float) -> Artefact:
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    seconds = round(time.monotonic() - started, 2)
    relative = path.relative_to(folder).as_posix()
    return Artefact(stage, kind, target, relative, path.stat().st_size, seconds, round(peak_mb, 1), gmac)


def _installed(artefacts: list[Artefact], out: Path) -> Iterator[Artefact]:
    for artefact in artefacts:
        yield Artefact(**{**asdict(artefact), "path": (out / artefact.path).as_posix()})


def _manifest(
    folder: Path,
    plan: BuildPlan,
    key: str,
    models: "Models",
    sizes: Sizes,
    stages: dict[StageName, StageRecord],
    engines: tuple[EngineRecord, ...],
    preset: Preset,
) -> Manifest:
    from nerve_ref.templates import TEMPLATE_SETS

    params, tokenizer = plan.params, models.tokenizer
    end = tokenizer.id_to_token(tokenizer.encode("").ids[-1])
    if end is None:
        raise UsageError(f"the tokenizer of preset {plan.preset} ends prompts with an id without a token; mend it")
    unknown = getattr(tokenizer.model, "unk_token", None) if _is_word_level(tokenizer) else None
    inputs = ("tau", "alpha", "beta", "head_temperature", "threshold")
    baked: dict[str, Any] = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(params).items()
        if name not in inputs
    }
    return Manifest(
        format_version=1,
        preset=plan.preset,
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
        ),
        method=Method(**{name: getattr(params, name) for name in inputs}, baked=baked),
        vocabulary=Vocabulary(
            tokenizer=TOKENIZER_NAME,
            context_length=sizes.context_length,
            end_token=end,
            unknown_token=unknown,
            template_sets={name: list(templates) for name, templates in TEMPLATE_SETS.items()},
            default_template_set=params.template_set,
        ),
        stages=stages,
        weights=tuple(_weights(plan, preset, models)),
        engines=engines,
        tool_versions=tool_versions(),
        files=file_records(folder),
    )


def _is_word_level(tokenizer: Any) -> bool:
    return type(tokenizer.model).__name__ == "WordLevel"


def _weights(plan: BuildPlan, preset: Preset, models: "Models") -> Iterator[WeightRecord]:
    for source in models.sources:
        for name, digest in source.sha256().items():
            if name.endswith(".safetensors"):
                where = f"nerve_ref/models/{plan.preset}/{source.folder.name}/{name}"
                yield WeightRecord(
                    role=source.role, source=where, revision="packaged", sha256=digest, licence=preset.licence
                )
