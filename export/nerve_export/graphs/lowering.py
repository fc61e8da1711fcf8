"""Half precision in a network, layer by layer, with float32 islands, and the audit that finds them.

Precision is in the graph, never in a builder's flags: every layer casts its inputs to its own type, norms compute in
float32, and the sum of a float32 and a half tensor is float32 until the next half layer.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nerve_export.precision import Precision, is_kept
from nerve_runtime.errors import NumericError, UsageError

KEY_OF_QUERY = {"to_q": "to_k", "q_proj": "k_proj"}
NORMS = (nn.GroupNorm, nn.LayerNorm)
HEADS = ("heads", "num_heads", "num_attention_heads")
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def attend(query: Tensor, key: Tensor, value: Tensor, *, native: bool, mask: Tensor | None = None) -> Tensor:
    """softmax(Q K^T / sqrt d + mask) V over (..., tokens, d).

    One call where the opset has the operation (`native`) or all is float32 anyway; otherwise products and a softmax, the
    logits in float32. Inside the one operation precision is the library's own: TensorRT-RTX 1.7 refuses graphs that ask
    for a float32 softmax by the attribute `softmax_precision`.
    """
    if native or query.dtype == torch.float32:
        mask = None if mask is None else mask.to(query.dtype)
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return probabilities(query, key, mask).to(value.dtype) @ value


def probabilities(query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(Q K^T / sqrt d + mask) in float32 for inputs of any type: an island."""
    logits = query.float() * query.shape[-1] ** -0.5 @ key.float().transpose(-1, -2)
    return torch.softmax(logits if mask is None else logits + mask, dim=-1)


def lower(network: nn.Module, precision: Precision, keep_fp32: tuple[str, ...] = ()) -> None:
    """Give every layer of a network its type, in place; fp32 leaves it as it is.

    Norms, and the layers that are kept (by module path, with all inside them), hold float32 weights and compute in
    float32; the result of a norm is cast back. Buffers keep their type, but those that a module names in
    `lowered_buffers`.

    Raises:
        UsageError: a path to keep is no layer of this network.
        NumericError: a weight is beyond the range of the precision.
    """
    paths = dict(network.named_modules())
    unknown = [path for path in keep_fp32 if path not in paths]
    if unknown:
        raise UsageError(
            f"keep_fp32 names {unknown[0]!r}, which is no layer; layers are named as in {list(paths)[1:4]}"
        )
    if precision == "fp32":
        return
    half = DTYPES[precision]
    for path, module in paths.items():
        kept, norm = is_kept(path, keep_fp32), isinstance(module, NORMS)
        dtype = torch.float32 if kept or norm else half
        if precision == "bf16" and type(module).__name__ == "Upsample2D":
            module.register_forward_pre_hook(_casting(torch.float32), with_kwargs=True)  # no bf16 Resize in TensorRT
        elif _convert_weights(module, dtype, path):
            module.register_forward_pre_hook(_casting(dtype), with_kwargs=True)
        if norm and not kept:
            module.register_forward_hook(lambda _module, _given, made: made.to(half))


def _convert_weights(module: nn.Module, dtype: torch.dtype, path: str) -> bool:
    """Convert the weights of a module, not of modules inside it; returns whether it has any."""
    weights = list(module.parameters(recurse=False))
    for weight in weights:
        converted = weight.data.to(dtype)
        if not converted.isfinite().all():
            raise NumericError(
                f"a weight of {path} is {float(weight.data.abs().amax()):.3g}, beyond {dtype}; name {path} under keep_fp32 "
                "in a precision plan"
            )
        weight.data = converted
    named: tuple[str, ...] = getattr(module, "lowered_buffers", ())
    for name in named:
        setattr(module, name, getattr(module, name).to(dtype))
    return bool(weights or named)


def _casting(dtype: torch.dtype) -> Callable[..., tuple[tuple[Any, ...], dict[str, Any]]]:
    """A hook that casts the floating tensors a layer is called with."""

    def cast(given: Any) -> Any:
        return given.to(dtype) if isinstance(given, Tensor) and given.is_floating_point() else given

    def hook(
        _module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return tuple(map(cast, arguments)), {name: cast(value) for name, value in named.items()}

    return hook


@contextmanager
def watched_ranges(network: nn.Module) -> Iterator[dict[str, float]]:
    """Record the greatest absolute number at every module of a float32 network while it runs; inf where not finite.

    Of a module the outputs count, of a layer with weights also the inputs: both would be rounded. The input of a norm counts
    for the module around it, which made the sum. Of an attention the logits count too, which no module returns: the
    greatest length of a head's query times that of a key bounds every product of the two. They are added at the end.
    """
    largest: dict[str, float] = {}
    lengths: dict[str, float] = {}
    modules = dict(network.named_modules())
    handles = []

    def watch(path: str) -> Callable[..., None]:
        parent, _, name = path.rpartition(".")
        heads = _heads(modules[parent]) if name in (*KEY_OF_QUERY, *KEY_OF_QUERY.values()) else 0
        reader = (parent or path) if isinstance(modules[path], NORMS) else path
        reads = any(True for _ in modules[path].parameters(recurse=False))

        def hook(_module: nn.Module, given: Any, made: Any) -> None:
            if reads:
                for tensor in filter(_has_range, given):
                    _keep_greatest(largest, reader, tensor.detach().abs().amax())
            for tensor in made if isinstance(made, tuple | list) else (made,):
                if _has_range(tensor):
                    _keep_greatest(largest, path, tensor.detach().abs().amax())
                    if heads:
                        rows = tensor.detach().unflatten(-1, (heads, -1))
                        _keep_greatest(lengths, path, rows.norm(dim=-1).amax())

        return hook

    try:
        for path, module in modules.items():
            if path:
                handles.append(module.register_forward_hook(watch(path)))
        yield largest
    finally:
        for handle in handles:
            handle.remove()
    for path, length in lengths.items():
        parent, _, name = path.rpartition(".")
        if name in KEY_OF_QUERY:
            other = lengths.get(f"{parent}.{KEY_OF_QUERY[name]}", 0.0)
            largest[parent] = max(largest.get(parent, 0.0), length * other)


def _has_range(tensor: Any) -> bool:
    return isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.numel() > 0


def _heads(attention: nn.Module) -> int:
    """Number of heads of an attention of diffusers, CLIP or DINOv2; 0 for other modules."""
    return next((int(getattr(attention, name)) for name in HEADS if hasattr(attention, name)), 0)


def _keep_greatest(greatest: dict[str, float], path: str, found: Tensor) -> None:
    value = float(found)
    greatest[path] = max(greatest.get(path, 0.0), value if value == value else float("inf"))
