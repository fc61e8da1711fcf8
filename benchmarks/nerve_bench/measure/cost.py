"""What a bundle costs, counted and not timed: multiply-accumulates, parameters and bytes of each stage.

Two sources, which a test compares. Of a bundle's graphs: `graph_cost`. Of stages that are not on disk, such as a preset
at another size: `program_gmac`, from the traced program without its dead code, with networks whose weights were never
written, so that 900 million parameters take no memory.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

from nerve_bench.measure.method_stages import CLASSES, HEAD_WIDTH, TOKEN_PX, Form, Problem, method_stages
from nerve_export.graphs.gmac import COST_CLASSES, count_gmac
from nerve_export.graphs.stages import TABLE, sizes_of
from nerve_export.plan import make_plan
from nerve_ref.providers.provider import StableDiffusion
from nerve_ref.weights.architectures import Backbones, network_config
from nerve_ref.weights.networks import Models
from nerve_ref.weights.random import synthetic_tokenizer
from nerve_runtime.bundle.manifest import load_manifest, verify_file
from nerve_runtime.bundle.spec import StageName, StageSpec, TensorSpec
from nerve_runtime.errors import CompatibilityError, UsageError

if TYPE_CHECKING:
    import onnx

SIZES_PX = (256, 384, 512, 768)
PRESETS = ("sd21", "sd21-fast", "edge")
NETWORK_STAGES: tuple[StageName, ...] = ("scores", "attention")
METHOD_PARTS = ("structure", "mix", "walk")
FIXED_CELLS = 16
SCHEDULE_STEPS = 1000
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


def program_gmac(module: nn.Module, inputs: Sequence[Tensor]) -> float:
    """Giga multiply-accumulates of a module, from its traced program; what no output needs is not counted.

    Raises:
        CompatibilityError: the program has a product that is not known here.
    """
    with torch.no_grad():
        graph = torch.export.export(module.eval(), tuple(inputs)).graph_module.graph
    needed = _needed(graph)
    total = 0
    for node in graph.nodes:
        if node.op == "call_function" and node in needed:
            name = str(node.target)
            counter = COUNTERS.get(name)
            if counter is not None:
                total += counter(_size_of(node), *(_size_of(given) for given in node.args[:3]))
            elif any(word in name for word in PRODUCT_WORDS):
                raise CompatibilityError(f"the program has {name}, a product that is not counted; teach cost.py")
    return total / 1e9


def _needed(graph: Any) -> set[Any]:
    """The nodes that an output depends on; torch keeps dead ones alive for the checks that it writes beside them."""
    waiting = [node for node in graph.nodes if node.op == "output"]
    needed = set()
    while waiting:
        node = waiting.pop()
        if node not in needed:
            needed.add(node)
            waiting.extend(node.all_input_nodes)
    return needed


def _size_of(node: Any) -> Sequence[int]:
    value = node.meta.get("val") if isinstance(node, torch.fx.Node) else None
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def _attention(out: Sequence[int], q: Sequence[int], k: Sequence[int], v: Sequence[int]) -> int:
    return math.prod(q[:-1]) * k[-2] * (q[-1] + v[-1])


def _product(out: Sequence[int], left: Sequence[int], *_others: Sequence[int]) -> int:
    return math.prod(out) * left[-1]


COUNTERS: dict[str, Callable[..., int]] = {
    "aten.conv2d.default": lambda out, maps, weight, *bias: math.prod(out) * math.prod(weight[1:]),
    "aten.conv2d.padding": lambda out, maps, weight, *bias: math.prod(out) * math.prod(weight[1:]),
    "aten.linear.default": _product,
    "aten.matmul.default": _product,
    "aten.mm.default": _product,
    "aten.bmm.default": _product,
    "aten.scaled_dot_product_attention.default": _attention,
}
PRODUCT_WORDS = ("conv", "mm", "matmul", "linear.", "einsum", "dot", "bilinear.default")


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
        part: program_gmac(module, [torch.empty(_sizes(tensor.axes)) for tensor in specs[part].inputs])
        for part, module in zip(METHOD_PARTS, modules, strict=True)
    }


def _sizes(axes: Sequence[int | str]) -> list[int]:
    return [COST_CLASSES[axis] if isinstance(axis, str) else axis for axis in axes]


def _kept_bytes(form: Form, problem: Problem) -> int:
    """Bytes of the head affinities, the largest tensor of a keyframe."""
    (affinity, _) = method_specs(form, problem)["structure"].outputs
    return 4 * math.prod(_sizes(affinity.axes))


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
    models, sizes = hollow_models(plan.backbones), sizes_of(plan.backbones, plan.params)
    gmac = {}
    for stage in (*NETWORK_STAGES, "mix", "walk"):
        module = TABLE[stage].module(models, plan.params, sizes, False)
        inputs = [
            torch.empty(_sizes(tensor.axes), dtype=getattr(torch, tensor.dtype))
            for tensor in TABLE[stage].spec(sizes).inputs
        ]
        gmac[stage] = round(program_gmac(module, inputs), 3)
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


def hollow_models(backbones: Backbones) -> Models:
    """Networks of the named architectures whose weights were never written: to count with, not to run."""
    name = backbones.affinity

    def provider() -> StableDiffusion:
        vae = network_config(backbones.vae or name, "vae")
        kind = AutoencoderTiny if "encoder_block_out_channels" in vae else AutoencoderKL
        unet = _hollow(lambda: UNet2DConditionModel.from_config(network_config(name, "unet")))
        tokens = network_config(name, "text_encoder")["max_position_embeddings"]
        return StableDiffusion(
            vae=_hollow(lambda: kind.from_config(vae)),
            unet=unet,
            alphas_cumprod=torch.linspace(1, 0, SCHEDULE_STEPS),
            context=torch.zeros(1, tokens, unet.config.cross_attention_dim),
        )

    clip = _hollow(lambda: CLIPModel(CLIPConfig(**network_config(backbones.clip, "clip"))))
    return Models.ready(clip=clip, tokenizer=synthetic_tokenizer(), provider=provider())


def _hollow(build: Callable[[], nn.Module]) -> Any:
    with torch.device("meta"):
        model = build()
    # Memory that nobody writes to is not there: the operating system hands pages out at the first write.
    return model.to_empty(device="cpu").eval().requires_grad_(False)


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
