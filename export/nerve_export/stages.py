"""THE TABLE: one row per graph, with its doors and how closely it must agree with the reference.

A letter in the axes is a size chosen at run time; a number is fixed by the build. Letters as in the method:
n prompts, r text rows, c classes, k rows of a class, H W pixels of the output.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from nerve_runtime.spec import Dtype, StageName, StageSpec, TensorSpec

if TYPE_CHECKING:
    from nerve_ref.params import NerveParams
    from nerve_ref.weights import Models

STAGE_NAMES: tuple[StageName, ...] = get_args(StageName)
EXAMPLE_SIZES = {"n": 3, "r": 7, "c": 5, "k": 2, "H": 96, "W": 160}
"""Sizes of the free axes while tracing: all different, none 0 or 1, which the exporter would take for constants."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes that a build fixes: frame (H,W), token grid (h,w), m pooled keys, t heads, d text width, l context."""

    working_hw: tuple[int, int]
    grid_hw: tuple[int, int]
    pooled_keys: int
    heads: int
    text_width: int
    context_length: int


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Least cosine and largest absolute difference of float outputs; least share of equal uint8 outputs."""

    cosine: float
    max_abs: float
    agreement: float = 0.995


@dataclass(frozen=True, slots=True)
class StageRow:
    """One graph.

    Attributes:
        name: the stage.
        module: makes the torch module to export.
        spec: its doors for given sizes.
        tolerance: per precision.
    """

    name: StageName
    module: "Callable[[Models, NerveParams, Sizes], Any]"
    spec: Callable[[Sizes], StageSpec]
    tolerance: dict[str, Tolerance]


def _tensor(name: str, dtype: Dtype, *axes: int | str) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, axes=axes)


def _float(name: str, *axes: int | str) -> TensorSpec:
    return _tensor(name, "float32", *axes)


def _scalars(*names: str) -> tuple[TensorSpec, ...]:
    return tuple(_float(name) for name in names)


def _doors(inputs: tuple[TensorSpec, ...], *outputs: TensorSpec) -> StageSpec:
    return StageSpec(inputs=inputs, outputs=outputs)


def _frame(sizes: Sizes) -> TensorSpec:
    return _tensor("frame", "uint8", 1, *sizes.working_hw, 3)


def _classes(sizes: Sizes) -> tuple[TensorSpec, ...]:
    embeddings = _float("text_embeddings", "r", sizes.text_width)
    return embeddings, _tensor("class_rows", "int64", "c", "k"), _tensor("class_mask", "bool", "c")


def _scores(name: str, sizes: Sizes) -> TensorSpec:
    return _float(name, "c", sizes.grid_hw[0] * sizes.grid_hw[1])


def _affinity(sizes: Sizes, *, per_head: bool) -> TensorSpec:
    axes = (sizes.grid_hw[0] * sizes.grid_hw[1], sizes.pooled_keys)
    return _float("head_affinity", sizes.heads, *axes) if per_head else _float("affinity", *axes)


def _walk_inputs(sizes: Sizes, *previous: TensorSpec) -> tuple[TensorSpec, ...]:
    local_weights = _float("local_weights", 8, *sizes.grid_hw)
    graph = (_scores("seed_scores", sizes), _affinity(sizes, per_head=False), local_weights)
    return (*graph, *previous, *_scalars("alpha", "beta"))


def _labels(height: int | str, width: int | str) -> tuple[TensorSpec, TensorSpec]:
    return _tensor("labels", "uint8", height, width), _tensor("confidence", "uint8", height, width)


def _text_spec(s: Sizes) -> StageSpec:
    return _doors((_tensor("token_ids", "int64", "n", s.context_length),), _float("text_embeddings", "n", s.text_width))


def _scores_spec(s: Sizes) -> StageSpec:
    return _doors((_frame(s), *_classes(s), *_scalars("tau")), _scores("seed_scores", s))


def _attention_spec(s: Sizes) -> StageSpec:
    return _doors((_frame(s),), _affinity(s, per_head=True), _float("local_weights", 8, *s.grid_hw))


def _mix_spec(s: Sizes) -> StageSpec:
    inputs = (_affinity(s, per_head=True), _scores("seed_scores", s), *_scalars("head_temperature"))
    heads = (_float("head_weights", s.heads), _float("head_entropies", s.heads))
    return _doors(inputs, _affinity(s, per_head=False), *heads)


def _walk_spec(s: Sizes) -> StageSpec:
    return _doors(_walk_inputs(s), _scores("label_scores", s))


def _walk_warm_spec(s: Sizes) -> StageSpec:
    return _doors(_walk_inputs(s, _scores("previous_scores", s)), _scores("label_scores", s))


def _readout_spec(s: Sizes) -> StageSpec:
    size_hw = _tensor("size_hw", "int64", 2)
    return _doors((_scores("label_scores", s), size_hw, *_scalars("threshold")), *_labels("H", "W"))


def _frame_spec(s: Sizes) -> StageSpec:
    knobs = _scalars("tau", "alpha", "beta", "head_temperature", "threshold")
    return _doors((_frame(s), *_classes(s), *knobs), *_labels(*s.working_hw))


def _modules() -> Any:
    from nerve_export import modules

    return modules


# fp32 graphs run the same arithmetic in another order: differences are rounding, so the bounds are tight. Max-abs is
# in the unit of the output: probabilities for scores and rows, except B and S, whose sharpened entries reach 1.
TABLE: dict[StageName, StageRow] = {
    row.name: row
    for row in (
        StageRow("text", lambda m, p, s: _modules().TextStage(m), _text_spec, {"fp32": Tolerance(0.99999, 1e-4)}),
        StageRow(
            "scores",
            lambda m, p, s: _modules().ScoresStage(m, p, s.grid_hw),
            _scores_spec,
            {"fp32": Tolerance(0.9999, 1e-3)},
        ),
        StageRow(
            "attention",
            lambda m, p, s: _modules().AttentionStage(m, p, s.grid_hw),
            _attention_spec,
            {"fp32": Tolerance(0.9999, 1e-2)},
        ),
        StageRow(
            "mix",
            lambda m, p, s: _modules().MixStage(p, s.grid_hw),
            _mix_spec,
            {"fp32": Tolerance(0.9999, 1e-3)},
        ),
        StageRow(
            "walk",
            lambda m, p, s: _modules().WalkStage(p, s.grid_hw, p.steps),
            _walk_spec,
            {"fp32": Tolerance(0.9999, 1e-4)},
        ),
        StageRow(
            "walk_warm",
            lambda m, p, s: _modules().WalkWarmStage(p, s.grid_hw, p.warm_steps),
            _walk_warm_spec,
            {"fp32": Tolerance(0.9999, 1e-4)},
        ),
        StageRow(
            "readout",
            lambda m, p, s: _modules().ReadoutStage(s.grid_hw),
            _readout_spec,
            {"fp32": Tolerance(0.9999, 1.0)},
        ),
        StageRow(
            "frame",
            lambda m, p, s: _modules().FrameStage(m, p, s.grid_hw),
            _frame_spec,
            {"fp32": Tolerance(0.9999, 1.0)},
        ),
    )
}
