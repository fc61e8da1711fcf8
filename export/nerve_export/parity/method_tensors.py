"""Tensors of the reference under the names and in the shapes that the stages give them."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nerve_runtime.errors import UsageError

if TYPE_CHECKING:
    from nerve_ref.affinity import Affinity, LayeredAffinity, MixedAffinity
    from nerve_ref.params import NerveParams
    from nerve_ref.pipeline import Intermediates
    from nerve_ref.text import TextBank

SCALARS = ("tau", "alpha", "beta", "head_temperature")


def caller_inputs(frame: NDArray[np.uint8], bank: "TextBank", params: "NerveParams") -> dict[str, NDArray[Any]]:
    """The inputs that a caller of the bundle gives."""
    return {
        "frame": frame[None],
        "text_embeddings": bank.embeddings.numpy(),
        "class_rows": bank.class_rows.numpy(),
        "class_mask": bank.class_mask.numpy(),
        "size_hw": np.array(params.size_hw, np.int64),
        "threshold": np.array(_threshold(bank, params), np.float32),
        **{name: np.array(getattr(params, name), np.float32) for name in SCALARS},
    }


def _threshold(bank: "TextBank", params: "NerveParams") -> float:
    return params.threshold if bank.has_background else 0.0


def label_margin(
    frame: NDArray[np.uint8], reference: "Intermediates", bank: "TextBank", params: "NerveParams"
) -> NDArray[Any]:
    """Margin of each label, float32 (H,W): probability above the second best, or distance to the threshold."""
    import torch

    from nerve_ref.pipeline import pixel_scores

    scores = pixel_scores(reference.P, as_torch(frame), reference.grid_hw, params.size_hw, params)
    best, second = scores.topk(2, dim=0).values
    margin = best - second
    if bank.has_background:
        margin = torch.minimum(margin, (best - _threshold(bank, params)).abs())
    return margin.numpy()


def affinity_tensors(affinity: "Affinity", mixed: "MixedAffinity") -> dict[str, Any]:
    """B and S under the names that the stages give them; of `linear` both factors, rows first, columns second.

    Pooled: B (t,p,m), S (p,m). Linear: (2,t,p,e) and (2,p,t*e), the features of all heads side by side.
    """
    from nerve_ref.affinity import LayeredAffinity, MixedLayers, MixedPooled, PooledAffinity

    if isinstance(affinity, PooledAffinity) and isinstance(mixed, MixedPooled):
        return {"head_affinity": affinity.B, "affinity": mixed.S}
    if isinstance(affinity, LayeredAffinity) and isinstance(mixed, MixedLayers):
        return {"head_affinity": _factors(affinity, 0), "affinity": _factors(mixed.layers, 2)[:, 0]}
    raise UsageError(f"the affinity is a {type(affinity).__name__}, expected the kind softmax_pooled or linear")


def _factors(affinity: "LayeredAffinity", along: int) -> Any:
    """Rows and columns of all layers, stacked: layers follow each other along an axis of (n,p,e)."""
    import torch

    from nerve_ref.affinity import LinearLayer

    layers = [layer for layer in affinity.layers if isinstance(layer, LinearLayer)]
    if len(layers) < len(affinity.layers):
        raise UsageError("a dense affinity has no graph to compare with, expected the kind softmax_pooled or linear")
    rows, columns = [layer.rows for layer in layers], [layer.columns for layer in layers]
    return torch.stack([torch.cat(rows, along), torch.cat(columns, along)])


def as_torch(array: NDArray[Any]) -> Any:
    """A copy of an array as a tensor."""
    import torch

    return torch.from_numpy(np.array(array))
