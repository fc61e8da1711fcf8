"""What a bundle costs, counted and not timed: multiply-accumulates, parameters and bytes of each stage.

Two sources, which a test compares. Of a bundle's graphs: `graph_cost`. Of stages that are not on disk, such as a preset
at another size: `program_cost`, from the traced program without its dead code, with networks whose weights were never
written, so that 900 million parameters take no memory.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nerve_bench.measure.method_stages import CLASSES, HEAD_WIDTH, TOKEN_PX, Form, Problem, method_stages
from nerve_export.graphs.gmac import COST_CLASSES, count_gmac
from nerve_export.graphs.program import fixed_axes, program_cost, stage_costs
from nerve_export.graphs.sizes import sizes_of
from nerve_export.plan import make_plan
from nerve_runtime.bundle.manifest import load_manifest, verify_file
from nerve_runtime.bundle.spec import StageName, StageSpec, TensorSpec
from nerve_runtime.errors import UsageError

if TYPE_CHECKING:
    import onnx

SIZES_PX = (256, 384, 512, 768)
PRESETS = ("sd21", "sd21-fast", "edge")
NETWORK_STAGES: tuple[StageName, ...] = ("scores", "attention")
METHOD_PARTS = ("structure", "mix", "walk")
FIXED_CELLS = 16
Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True, slots=True)
class GraphCost:
    """One graph at 21 classes.

    Attributes:
        gmac: giga multiply-accumulates of convolutions, products and attention.
        parameters: numbers that the graph keeps, constants of the method included.
        weight_bytes: their bytes.
        activation_bytes: all that the nodes write, once each.
        peak_activation_bytes: the most that is alive at a time when nodes run in the graph's order and share nothing.
        largest_activation_bytes: the largest tensor that a node writes.
        nodes: how many there are.
        unknown_tensors: how many tensors have a size that the graph does not tell; they count as nothing.
    """

    gmac: float
    parameters: int
    weight_bytes: int
    activation_bytes: int
    peak_activation_bytes: int
    largest_activation_bytes: int
    nodes: int
    unknown_tensors: int


def graph_cost(model: "onnx.ModelProto", sizes: Mapping[str, int] = COST_CLASSES) -> GraphCost:
    """Cost of a graph, whose weights may lie in other files; free axes are taken at `sizes`."""
    import onnx

    weights = [(math.prod(w.dims), onnx.helper.tensor_dtype_to_np_dtype(w.data_type)) for w in model.graph.initializer]
    written, unknown = _written_bytes(model, sizes)
    return GraphCost(
        gmac=round(count_gmac(model, sizes), 6),
        parameters=sum(count for count, _ in weights),
        weight_bytes=sum(count * dtype.itemsize for count, dtype in weights),
        activation_bytes=sum(written.values()),
        peak_activation_bytes=_peak_bytes(model, written),
        largest_activation_bytes=max(written.values(), default=0),
        nodes=len(model.graph.node),
        unknown_tensors=unknown,
    )


def _written_bytes(model: "onnx.ModelProto", sizes: Mapping[str, int]) -> tuple[dict[str, int], int]:
    """Bytes of each tensor that a node writes, and how many of them have no known size."""
    import onnx

    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    # Symbols are sizes of the vocabulary and the picture; what else is symbolic follows from them.
    for value in (*fixed.graph.input, *fixed.graph.output, *fixed.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in sizes:
                dim.dim_value = sizes[dim.dim_param]
            elif dim.dim_param:
                dim.Clear()
    graph = onnx.shape_inference.infer_shapes(fixed, data_prop=True).graph
    known = {value.name: value.type.tensor_type for value in (*graph.value_info, *graph.output)}
    names = [name for node in graph.node for name in node.output if name]
    written, unknown = {}, 0
    for name in names:
        kind = known.get(name)
        dims = None if kind is None else [dim.dim_value for dim in kind.shape.dim]
        if kind is None or dims is None or 0 in dims:
            unknown += 1
            continue
        written[name] = math.prod(dims) * onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).itemsize
    return written, unknown


def _peak_bytes(model: "onnx.ModelProto", written: Mapping[str, int]) -> int:
    last = {name: index for index, node in enumerate(model.graph.node) for name in node.input}
    last |= {value.name: len(model.graph.node) for value in model.graph.output}
    alive = peak = 0
    for index, node in enumerate(model.graph.node):
        alive += sum(written.get(name, 0) for name in node.output)
        peak = max(peak, alive)
        done = {name for name in (*node.input, *node.output) if last.get(name, index) == index}
        alive -= sum(written.get(name, 0) for name in done)
    return peak


def bundle_costs(bundle: Path) -> Iterator[dict[str, Any]]:
    """One record for each stage of a bundle, and one for its files.

    Raises:
        BundleError: it is no bundle, or a graph is not what its manifest says.
    """
    import onnx

    manifest = load_manifest(bundle)
    common = {"bundle": bundle.resolve().name, "preset": manifest.preset, "precision": manifest.precision}
    geometry = {"size_hw": manifest.geometry.working_hw, "grid_hw": manifest.geometry.grid_hw, "classes": CLASSES}
    for stage, record in manifest.stages.items():
        model = onnx.load(str(verify_file(bundle, manifest, record.onnx)), load_external_data=False)
        yield {"bench": "cost", **common, "stage": stage, **asdict(graph_cost(model)), **geometry}
    size = sum(record.bytes for record in manifest.files.values())
    yield {"bench": "cost_bundle", **common, "bytes": size, "files": len(manifest.files), **geometry}


def method_costs(sizes_px: Sequence[int], progress: Callable[..., Any]) -> Iterator[dict[str, Any]]:
    """GMAC of the method's own parts: dense, pooled with 16 x 16 keys, pooled with cells of 4 x 4 tokens, and linear.

    Presets keep the size of a cell, so their keys grow with the picture and their cost with its square; with a fixed
    number of keys it is linear in the tokens.
    """
    for side_px in progress(sizes_px, "counting the method's own part"):
        side = side_px // TOKEN_PX
        for form, keys, cells in _cases(side):
            parts = part_gmac(form, Problem(side, cells))
            yield {
                "bench": "cost_method",
                "form": form,
                "keys": keys,
                "side_px": side_px,
                "tokens": side * side,
                "pooled_keys": cells * cells if form == "pooled" else None,
                **{f"{part}_gmac": round(gmac, 6) for part, gmac in parts.items()},
                "gmac": round(sum(parts.values()), 6),
                "kept_bytes": _kept_bytes(form, Problem(side, cells)),
                "classes": CLASSES,
            }


def _cases(side: int) -> list[tuple[Form, str, int]]:
    return [
        ("dense", "all", FIXED_CELLS),
        ("pooled", "fixed", FIXED_CELLS),
        ("pooled", "growing", side // 4),
        ("linear", "none", FIXED_CELLS),
    ]


def part_gmac(form: Form, problem: Problem) -> dict[str, float]:
    """GMAC of the three parts of a form at a size."""
    stages, specs = method_stages(form, problem), method_specs(form, problem)
    modules = (stages.structure, stages.mix, stages.walk)
    return {
        part: program_cost(module, [torch.empty(fixed_axes(tensor.axes)) for tensor in specs[part].inputs]).gmac
        for part, module in zip(METHOD_PARTS, modules, strict=True)
    }


def _kept_bytes(form: Form, problem: Problem) -> int:
    """Bytes of the head affinities, the largest tensor of a keyframe."""
    (affinity, _) = method_specs(form, problem)["structure"].outputs
    return 4 * math.prod(fixed_axes(affinity.axes))


def method_specs(form: Form, problem: Problem) -> dict[str, StageSpec]:
    """The inputs and outputs of the three parts of a form."""
    tokens, heads = problem.tokens, problem.heads
    keys = problem.cells**2 if form == "pooled" else tokens
    features = 2 * HEAD_WIDTH + 1

    def tensor(name: str, *axes: int | str) -> TensorSpec:
        return TensorSpec(name=name, dtype="float32", axes=axes)

    per_head = tensor("head_affinity", *((2, heads, tokens, features) if form == "linear" else (heads, tokens, keys)))
    mixed = tensor("affinity", *((2, tokens, heads * features) if form == "linear" else (tokens, keys)))
    looks = tuple(tensor(letter, heads, tokens, HEAD_WIDTH) for letter in "qk")
    seeds, W = tensor("seed_scores", "c", tokens), tensor("local_weights", 8, *problem.grid_hw)
    weights = tensor("head_weights", heads), tensor("head_entropies", heads)
    return {
        "structure": StageSpec(inputs=looks, outputs=(per_head, W)),
        "mix": StageSpec(inputs=(per_head, seeds, tensor("head_temperature")), outputs=(mixed, *weights)),
        "walk": StageSpec(
            inputs=(seeds, mixed, W, tensor("alpha"), tensor("beta")), outputs=(tensor("label_scores", "c", tokens),)
        ),
    }


def preset_costs(
    presets: Sequence[str], sizes_px: Sequence[int], progress: Callable[..., Any]
) -> Iterator[dict[str, Any]]:
    """GMAC of the networks' stages and of a cold frame for presets at square sizes.

    Raises:
        UsageError: a preset has no Stable Diffusion, or a size is no multiple of 64.
    """
    unknown = [name for name in presets if name not in PRESETS]
    if unknown:
        raise UsageError(f"--preset names {', '.join(unknown)}, expected of: {', '.join(PRESETS)}")
    cases = [(preset, side_px) for preset in presets for side_px in sizes_px]
    for preset, side_px in progress(cases, "counting presets"):
        yield _preset_cost(preset, side_px)


def _preset_cost(preset: str, side_px: int) -> dict[str, Any]:
    plan = make_plan(preset, size_hw=(side_px, side_px), random_seed=0)
    sizes = sizes_of(plan.backbones, plan.params, plan.max_classes)
    costs = stage_costs(plan.backbones, plan.params, (*NETWORK_STAGES, "mix", "walk"))
    gmac = {stage: round(cost.gmac, 3) for stage, cost in costs.items()}
    return {
        "bench": "cost_preset",
        "preset": preset,
        "side_px": side_px,
        "tokens": sizes.tokens,
        "pooled_keys": sizes.pooled_keys,
        **{f"{stage}_gmac": count for stage, count in gmac.items()},
        "gmac": round(sum(gmac.values()), 2),
        "classes": CLASSES,
    }


def gmac_exponents(records: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Slope of log GMAC over log tokens, of the whole and of the walk alone, for each form of `method_costs`."""
    for form, keys in dict.fromkeys((record["form"], record["keys"]) for record in records):
        own = [record for record in records if (record["form"], record["keys"]) == (form, keys)]
        tokens = np.log([r["tokens"] for r in own])
        slopes = {
            field: float(np.polyfit(tokens, np.log([r[name] for r in own]), 1)[0])
            for field, name in (("exponent", "gmac"), ("walk_exponent", "walk_gmac"))
        }
        yield {"bench": "cost_exponent", "form": form, "keys": keys, **{k: round(v, 3) for k, v in slopes.items()}}
