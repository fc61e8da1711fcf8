"""The sizes that a build fixes, by arithmetic on the configurations of the networks."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nerve_runtime.bundle.spec import BATCH_AXIS
from nerve_runtime.errors import UsageError
from nerve_runtime.labels import CLASSES_LIMIT_8_BIT, LabelDtype

if TYPE_CHECKING:
    from nerve_ref.params import NerveParams
    from nerve_ref.weights.architectures import Backbones

EXAMPLE_SIZES = {"n": 3, "r": 7, "c": 5, "k": 2, "H": 96, "W": 160, BATCH_AXIS: 4}
"""Sizes of the free axes while tracing: all different, none 0 or 1, which the exporter would take for constants."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes that a build fixes: frame (H,W), token grid (h,w), m pooled keys, t heads, d text width, l context.

    `linear_features` is e, the features of one head of affinity `linear`; None for `softmax_pooled`. `one_tower`: CLIP's
    own tower gives affinity and patch features in one run, a token a patch. `max_batch`: most frames in a run of the
    graphs that share one.
    """

    working_hw: tuple[int, int]
    grid_hw: tuple[int, int]
    pooled_keys: int
    heads: int
    text_width: int
    context_length: int
    linear_features: int | None = None
    label_dtype: LabelDtype = "uint8"
    one_tower: bool = False
    max_batch: int = 1

    @property
    def batched(self) -> bool:
        """Whether the graphs of `BATCHED_STAGES` take several frames in a run."""
        return self.max_batch > 1

    @property
    def tokens(self) -> int:
        """Number of tokens p = h * w."""
        return self.grid_hw[0] * self.grid_hw[1]


def sizes_of(
    backbones: "Backbones", params: "NerveParams", max_classes: int = CLASSES_LIMIT_8_BIT, max_batch: int = 1
) -> Sizes:
    """The sizes of a variant for up to so many classes and frames a run, by arithmetic on its configuration.

    Opens no network.

    Raises:
        UsageError: a layer does not exist, the affinity has no graph, or grids and cells do not divide each other.
    """
    from nerve_ref.weights.architectures import context_length, is_own_clip, layer_shapes, text_width

    if params.affinity not in ("softmax_pooled", "linear"):
        raise UsageError(f"affinity {params.affinity!r} has no graph, expected softmax_pooled or linear")
    try:
        layers = layer_shapes(backbones, params)
    except ValueError as error:
        raise UsageError(str(error)) from error
    grid_hw = max((layer.grid_hw for layer in layers), key=lambda hw: hw[0] * hw[1])
    if any(side % tokens for side, tokens in zip(params.size_hw, grid_hw, strict=True)):
        raise UsageError(
            f"size_hw is {params.size_hw}, expected multiples of the {grid_hw} tokens of {backbones.affinity}"
        )
    linear = params.affinity == "linear"
    if not linear and any(tokens % cells for tokens, cells in zip(grid_hw, params.pooled_hw, strict=True)):
        raise UsageError(f"pooled_hw is {params.pooled_hw}, expected cells that divide the {grid_hw} tokens")
    if linear and len({(layer.width, layer.grid_hw) for layer in layers}) > 1:
        raise UsageError(
            "affinity 'linear' has graphs only for layers of one head width and one grid; name such layers"
        )
    for layer in () if linear else layers:
        cells = tuple(min(side, cell) for side, cell in zip(layer.grid_hw, params.pooled_hw, strict=True))
        if any(side % cell for side, cell in zip(layer.grid_hw + params.pooled_hw, cells * 2, strict=True)):
            raise UsageError(
                f"layer {layer.name} has a grid of {layer.grid_hw}, which {params.pooled_hw} pooled cells do not divide; "
                "choose another --size, such as one with the sides' ratio of the preset"
            )
    return Sizes(
        working_hw=params.size_hw,
        grid_hw=grid_hw,
        pooled_keys=params.pooled_hw[0] * params.pooled_hw[1],
        heads=sum(layer.heads for layer in layers),
        text_width=text_width(backbones.clip),
        context_length=context_length(backbones.clip),
        linear_features=2 * layers[0].width + 1 if linear else None,
        one_tower=is_own_clip(backbones),
        label_dtype="uint8" if max_classes <= CLASSES_LIMIT_8_BIT else "uint16",
        max_batch=max_batch,
    )
