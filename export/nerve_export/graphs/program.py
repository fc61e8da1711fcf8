"""What stages cost before anything is built, counted from traced programs of networks whose weights were never written."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nerve_export.graphs.gmac import COST_CLASSES
from nerve_export.graphs.sizes import sizes_of
from nerve_export.graphs.stages import TABLE
from nerve_ref.params import NerveParams
from nerve_ref.providers.provider import AffinityProvider, Clip, Dino, StableDiffusion
from nerve_ref.weights.architectures import Backbones, context_tokens, is_dino, is_own_clip, network_config, vae_network
from nerve_ref.weights.builders import autoencoder_around, clip_around, dino_around, unet_around
from nerve_ref.weights.networks import Models
from nerve_ref.weights.random import synthetic_tokenizer
from nerve_runtime.bundle.spec import StageName
from nerve_runtime.errors import CompatibilityError, UsageError

COSTLY_STAGES: tuple[StageName, ...] = ("text", "scores", "attention", "mix", "walk")
"""The stages of a cold frame, and the one that embeds a vocabulary; the others cost less than these and hold no network."""
SCHEDULE_STEPS = 1000
BYTES_FP32 = 4


@dataclass(frozen=True, slots=True)
class ProgramCost:
    """What one run of a program takes.

    Attributes:
        gmac: giga multiply-accumulates of convolutions, products and attention.
        weight_bytes: of the parameters and constants that an output needs, as float32 programs keep them.
    """

    gmac: float
    weight_bytes: int


def stage_costs(
    backbones: Backbones, params: NerveParams, stages: Sequence[StageName] = COSTLY_STAGES
) -> dict[StageName, ProgramCost]:
    """Cost of stages at 21 classes, without their weights; seconds for networks of true size.

    Raises:
        UsageError: the networks cannot be exported with these constants.
        CompatibilityError: a program has a product that is not known here.
    """
    models, sizes = hollow_models(backbones), sizes_of(backbones, params)
    costs = {}
    for stage in stages:
        module = TABLE[stage].module(models, params, sizes, False)
        inputs = [
            torch.zeros(fixed_axes(tensor.axes), dtype=getattr(torch, tensor.dtype))
            for tensor in TABLE[stage].spec(sizes).inputs
        ]
        costs[stage] = program_cost(module, inputs)
    return costs


def fixed_axes(axes: Sequence[int | str]) -> list[int]:
    """Sizes of a tensor's axes, free ones at 21 classes."""
    return [COST_CLASSES[axis] if isinstance(axis, str) else axis for axis in axes]


def program_cost(module: nn.Module, inputs: Sequence[Tensor]) -> ProgramCost:
    """Cost of a module, from its traced program; what no output needs is not counted.

    Raises:
        CompatibilityError: the program has a product that is not known here.
    """
    with torch.no_grad():
        program = torch.export.export(module.eval(), tuple(inputs))
    graph, signature = program.graph_module.graph, program.graph_signature
    needed = _needed(graph)
    kept: Mapping[str, str] = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    total, weights = 0, {}
    for node in graph.nodes:
        if node not in needed:
            continue
        if node.op == "placeholder" and node.name in kept:
            weights[kept[node.name]] = node.meta["val"].numel() * node.meta["val"].element_size()
        elif node.op == "call_function":
            total += _products(node)
    return ProgramCost(total / 1e9, sum(weights.values()))


def _products(node: Any) -> int:
    name = str(node.target)
    if name in COUNTERS:
        return COUNTERS[name](_size_of(node), *(_size_of(given) for given in node.args[:3]))
    if any(word in name for word in PRODUCT_WORDS):
        raise CompatibilityError(f"the program has {name}, a product that is not counted; teach program.py")
    return 0


def hollow_models(backbones: Backbones) -> Models:
    """Networks of the named architectures whose weights were never written: to count with, not to run.

    Raises:
        UsageError: a configuration makes no network.
    """
    try:
        return _hollow_models(backbones)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _hollow_models(backbones: Backbones) -> Models:
    clip = _hollow(lambda: clip_around(network_config(backbones.clip, "clip")))
    return Models.ready(clip=clip, tokenizer=synthetic_tokenizer(), provider=_hollow_provider(backbones))


def _hollow_provider(backbones: Backbones) -> AffinityProvider:
    network = backbones.affinity
    if is_own_clip(backbones):
        return Clip(_hollow(lambda: clip_around(network_config(backbones.clip, "clip"))))
    if is_dino(backbones):
        return Dino(_hollow(lambda: dino_around(network_config(network, "dinov2"))))
    unet = _hollow(lambda: unet_around(network_config(network, "unet")))
    return StableDiffusion(
        vae=_hollow(lambda: autoencoder_around(network_config(vae_network(backbones), "vae"))),
        unet=unet,
        alphas_cumprod=torch.linspace(1, 0, SCHEDULE_STEPS),
        context=torch.zeros(1, context_tokens(network), unet.config.cross_attention_dim),
    )


def _hollow(build: Callable[[], nn.Module]) -> Any:
    with torch.device("meta"):
        model = build()
    # Memory that nobody writes to is not there: the operating system hands pages out at the first write.
    return model.to_empty(device="cpu").eval().requires_grad_(False)


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
