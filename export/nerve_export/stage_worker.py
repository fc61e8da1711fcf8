"""Functions that run in child processes: the export of one stage, the reference, the comparison. Imports PyTorch."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from nerve_export.graphs.export import export_graph, write_graph
from nerve_export.graphs.gmac import count_gmac
from nerve_export.graphs.lowering import lower, watched_ranges
from nerve_export.graphs.merge import merged_graph
from nerve_export.graphs.modules import NetworkStage, TextStage
from nerve_export.graphs.modules_batched import merged_part
from nerve_export.graphs.sizes import Sizes
from nerve_export.graphs.stages import MERGED, TABLE, fixed_readout_spec
from nerve_export.isolation import peak_rss_mb
from nerve_export.parity.compare import compare_bundle
from nerve_export.parity.frames import FRAMES, parity_frames
from nerve_export.parity.measures import ParityReport
from nerve_export.parity.reference import reference_taps
from nerve_export.plan import BuildPlan
from nerve_export.plan_models import open_network, plan_models
from nerve_export.precision import StagePrecision, audited, read_precision_plan
from nerve_ref.text import parse_classes
from nerve_ref.weights.files import ResolvedWeights
from nerve_ref.weights.networks import Models
from nerve_runtime.bundle.manifest import Manifest, StageRecord
from nerve_runtime.bundle.spec import BATCHED_STAGES, StageName, StageSpec
from nerve_runtime.errors import UsageError

MERGED_PARTS: tuple[StageName, ...] = ("attention", "scores", "mix", "walk")
AUDIT_FRAMES_TINY, AUDIT_FRAMES = 4, 1


@dataclass(frozen=True, slots=True)
class Exported:
    """One exported stage: its record, precision, size, and the time and memory it took."""

    record: StageRecord
    precision: StagePrecision | None
    bytes: int
    seconds: float
    peak_rss_mb: float


def export_stage(
    plan: BuildPlan, resolved: ResolvedWeights | None, sizes: Sizes, stage: StageName, folder: Path
) -> Exported:
    """Export one stage into a folder that holds the stages before it in the table.

    Raises:
        NumericError: a precision plan leaves a layer in half precision whose numbers do not fit.
        NerveError: anything else that stops an export.
    """
    started = time.monotonic()
    row, path = TABLE[stage], folder / f"{stage}.onnx"
    stamp = {"nerve_stage": stage, "nerve_preset": plan.preset.name, "nerve_precision": plan.precision}
    precision = None
    if stage == MERGED:
        model, external = _merge(plan, sizes, stamp, folder)
    else:
        models = plan_models(plan, resolved) if row.network else None
        if models is not None and row.network is not None:
            open_network(models, row.network)
        module = row.module(models, plan.params, sizes, plan.opset >= 23)
        if isinstance(module, NetworkStage) and models is not None and plan.precision != "fp32":
            precision = _to_half_precision(module, plan, stage, models)
        model, external = export_graph(module, row.spec(sizes), plan.opset, stamp, path)
    record = StageRecord(onnx=path.name, external_data=external, spec=row.spec(sizes), gmac=round(count_gmac(model), 6))
    files = [folder / name for name in external if stage != MERGED]
    size = sum(file.stat().st_size for file in (path, *files))
    return Exported(record, precision, size, round(time.monotonic() - started, 2), peak_rss_mb())


def _merge(
    plan: BuildPlan, sizes: Sizes, stamp: dict[str, str], folder: Path
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The single-graph form, of the graphs that lie in the folder; large weights stay in the files of their stages."""
    path = folder / f"{MERGED}.onnx"
    parts = [(name, _merged_part(plan, sizes, name, folder)) for name in MERGED_PARTS]
    end = _export_for_merge(plan, sizes, MERGED, fixed_readout_spec(sizes, plan.params), folder)
    model = merged_graph([*parts, ("readout", end)], TABLE[MERGED].spec(sizes))
    write_graph(model, stamp, path)
    locations = [
        entry.value for tensor in model.graph.initializer for entry in tensor.external_data if entry.key == "location"
    ]
    return model, tuple(dict.fromkeys(locations))


def _merged_part(plan: BuildPlan, sizes: Sizes, stage: StageName, folder: Path) -> onnx.ModelProto:
    """The graph of a stage as the merged one needs it: as it lies in the folder, or where that takes one frame, for b."""
    if sizes.batched and stage not in BATCHED_STAGES:
        return _export_for_merge(plan, sizes, stage, TABLE[stage].spec(sizes), folder)
    return onnx.load(str(folder / f"{stage}.onnx"), load_external_data=False)


def _export_for_merge(
    plan: BuildPlan, sizes: Sizes, stage: StageName, spec: StageSpec, folder: Path
) -> onnx.ModelProto:
    """A graph that no file of the bundle holds, of the stage's module and this signature of one frame."""
    if sizes.batched:
        module, spec = merged_part(stage, plan.params, sizes), spec.batched()
    else:
        module = TABLE[stage].module(None, plan.params, sizes, plan.opset >= 23)
    path = folder / f"{stage}_merged.onnx"
    model, _ = export_graph(module, spec, plan.opset, {}, path)
    path.unlink()
    return model


def _to_half_precision(module: NetworkStage, plan: BuildPlan, stage: StageName, models: Models) -> StagePrecision:
    """Audit a stage's network in float32, then convert it to half precision."""
    choices = read_precision_plan(plan.precision_plan, plan.precision) if plan.precision_plan else None
    chosen = None if choices is None else choices.stages.get(stage, StagePrecision())
    inputs = _audit_inputs(module, plan, models) if plan.precision == "fp16" else []
    with torch.no_grad(), watched_ranges(module.network) as largest:
        for example in inputs:
            module.network(example)
    result = audited(stage, plan.precision, largest, len(inputs), chosen)
    lower(module.network, plan.precision, result.keep_fp32)
    return result


def _audit_inputs(module: NetworkStage, plan: BuildPlan, models: Models) -> list[torch.Tensor]:
    if isinstance(module, TextStage):
        names = parse_classes(plan.preset.parity_classes).names
        return [torch.tensor([encoding.ids for encoding in models.tokenizer.encode_batch(list(names))])]
    return [torch.from_numpy(frame)[None] for frame in audit_frames(plan)]


def audit_frames(plan: BuildPlan) -> list[NDArray[np.uint8]]:
    """The frames, uint8 (H,W,3) RGB, for the audit of activations: the user's pictures, or seeded ones.

    Raises:
        UsageError: the folder holds no picture that can be read.
    """
    if plan.audit_frames is None:
        count = AUDIT_FRAMES_TINY if plan.preset.is_packaged else AUDIT_FRAMES
        return parity_frames(plan.params.size_hw, count)
    from nerve_runtime.opencv import cv2, opencv_path

    height, width = plan.params.size_hw
    read = (cv2.imread(opencv_path(path), cv2.IMREAD_COLOR) for path in sorted(plan.audit_frames.iterdir()))
    frames = [
        np.asarray(cv2.resize(bgr, (width, height))[..., ::-1].copy(), np.uint8) for bgr in read if bgr is not None
    ]
    if not frames:
        raise UsageError(
            f"--audit-frames {plan.audit_frames} holds no picture that OpenCV can read; give PNG or JPEG files"
        )
    return frames


def write_tokenizer(plan: BuildPlan, resolved: ResolvedWeights | None, path: Path) -> None:
    """Write the tokenizer of the plan's CLIP as the bundle's tokenizer.json."""
    plan_models(plan, resolved).tokenizer.save(str(path))


def write_reference(plan: BuildPlan, resolved: ResolvedWeights | None, folder: Path) -> float:
    """Run the reference on parity frames and write its taps: fewer frames where one takes half a minute.

    Returns:
        Peak memory of this process in MB, as the other functions here do.
    """
    frames = FRAMES if plan.preset.is_packaged else 1
    models, classes = plan_models(plan, resolved), plan.preset.parity_classes
    reference_taps(models, plan.params, classes, frames, folder, plan.max_batch)
    return peak_rss_mb()


def compare_with_reference(bundle: Path, manifest: Manifest, taps: Path) -> tuple[ParityReport, float]:
    """Compare a staged bundle with the reference's taps, on ONNX Runtime.

    Its processor has no convolution in bf16: of such a bundle only the method's own stages, float32, are compared.
    """
    method = [stage for stage in manifest.stages if TABLE[stage].network is None and stage != MERGED]
    stages = method if manifest.precision == "bf16" else None
    return compare_bundle(bundle, manifest, taps, stages=stages), peak_rss_mb()
