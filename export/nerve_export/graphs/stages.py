"""The table of stages: one row per graph, with its inputs, outputs and tolerance against the reference.

A letter in the axes is a size chosen at run time; a number is fixed by the build. Letters as in the method:
n prompts, r text rows, c classes, k rows of a class, H W pixels of the output, b frames of a run.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from nerve_export.graphs.sizes import Sizes
from nerve_runtime.bundle.spec import Dtype, StageName, StageSpec, TensorSpec

if TYPE_CHECKING:
    from nerve_ref.params import NerveParams
    from nerve_ref.weights.networks import Models

STAGE_NAMES: tuple[StageName, ...] = get_args(StageName)


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Least cosine and largest absolute difference of float outputs; least share of equal labels and levels."""

    cosine: float
    max_abs: float
    agreement: float = 0.995


@dataclass(frozen=True, slots=True)
class StageRow:
    """One graph.

    Attributes:
        name: the stage.
        module: makes the torch module to export; the last argument says whether the opset has an attention operation.
        spec: its inputs and outputs for given sizes.
        tolerance: per precision.
        network: the network inside, "clip" or "affinity"; None for the method's own arithmetic, always float32.
        exists: whether a variant of the method has this graph.
    """

    name: StageName
    module: "Callable[[Models | None, NerveParams, Sizes, bool], Any]"
    spec: Callable[[Sizes], StageSpec]
    tolerance: dict[str, Tolerance]
    network: str | None = None
    exists: "Callable[[NerveParams], bool]" = lambda params: True


def _tensor(name: str, dtype: Dtype, *axes: int | str) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, axes=axes)


def _float(name: str, *axes: int | str) -> TensorSpec:
    return _tensor(name, "float32", *axes)


def _scalars(*names: str) -> tuple[TensorSpec, ...]:
    return tuple(_float(name) for name in names)


def _signature(inputs: tuple[TensorSpec, ...], *outputs: TensorSpec) -> StageSpec:
    return StageSpec(inputs=inputs, outputs=outputs)


def _batched(sizes: Sizes, spec: StageSpec) -> StageSpec:
    """The signature of a stage that takes several frames in a run, where the build asks for that."""
    return spec.batched() if sizes.batched else spec


def _frame(sizes: Sizes) -> TensorSpec:
    return _tensor("frame", "uint8", 1, *sizes.working_hw, 3)


def _classes(sizes: Sizes) -> tuple[TensorSpec, ...]:
    embeddings = _float("text_embeddings", "r", sizes.text_width)
    return embeddings, _tensor("class_rows", "int64", "c", "k"), _tensor("class_mask", "bool", "c")


def _scores(name: str, sizes: Sizes) -> TensorSpec:
    return _float(name, "c", sizes.tokens)


def _affinity(sizes: Sizes, *, per_head: bool) -> TensorSpec:
    """Rows over pooled keys, or the two factors of kind `linear`."""
    tokens, heads, features = sizes.tokens, sizes.heads, sizes.linear_features
    axes: tuple[int, ...]
    if features is not None:
        axes = (2, heads, tokens, features) if per_head else (2, tokens, heads * features)
    else:
        axes = (heads, tokens, sizes.pooled_keys) if per_head else (tokens, sizes.pooled_keys)
    return _float("head_affinity" if per_head else "affinity", *axes)


def _features(s: Sizes) -> TensorSpec:
    return _float("patch_features", s.tokens, s.text_width)


def _walk_inputs(sizes: Sizes, *previous: TensorSpec) -> tuple[TensorSpec, ...]:
    local_weights = _float("local_weights", 8, *sizes.grid_hw)
    graph = (_scores("seed_scores", sizes), _affinity(sizes, per_head=False), local_weights)
    return (*graph, *previous, *_scalars("alpha", "beta"))


def _labels(sizes: Sizes, height: int | str, width: int | str) -> tuple[TensorSpec, TensorSpec]:
    return _tensor("labels", sizes.label_dtype, height, width), _tensor("confidence", "uint8", height, width)


def _text_spec(s: Sizes) -> StageSpec:
    return _signature(
        (_tensor("token_ids", "int64", "n", s.context_length),), _float("text_embeddings", "n", s.text_width)
    )


def _scores_spec(s: Sizes) -> StageSpec:
    seen = _features(s) if s.one_tower else _frame(s)
    return _batched(s, _signature((seen, *_classes(s), *_scalars("tau")), _scores("seed_scores", s)))


def _attention_spec(s: Sizes) -> StageSpec:
    features = (_features(s),) if s.one_tower else ()
    outputs = (_affinity(s, per_head=True), _float("local_weights", 8, *s.grid_hw), *features)
    return _batched(s, _signature((_frame(s),), *outputs))


def _mix_spec(s: Sizes) -> StageSpec:
    inputs = (_affinity(s, per_head=True), _scores("seed_scores", s), *_scalars("head_temperature"))
    heads = (_float("head_weights", s.heads), _float("head_entropies", s.heads))
    return _signature(inputs, _affinity(s, per_head=False), *heads)


def _walk_spec(s: Sizes, *previous: TensorSpec) -> StageSpec:
    return _signature(_walk_inputs(s, *previous), _scores("label_scores", s))


def _carry_spec(s: Sizes) -> StageSpec:
    places = (_tensor("previous_tokens", "int64", 4, s.tokens), _float("previous_weights", 4, s.tokens))
    inputs = (_scores("seed_scores", s), _scores("previous_scores", s), *places, *_scalars("keep"))
    return _signature(inputs, _scores("carried_scores", s))


def _local_spec(s: Sizes, *inputs: TensorSpec) -> StageSpec:
    return _signature(inputs or (_frame(s),), _float("local_weights", 8, *s.grid_hw))


def _local_carried_spec(s: Sizes) -> StageSpec:
    keyframe_weights = _float("keyframe_weights", 8, *s.grid_hw)
    return _local_spec(s, keyframe_weights, _tensor("origin_tokens", "int64", s.tokens))


def _walk_carried_spec(s: Sizes) -> StageSpec:
    origins = (_tensor("origin_tokens", "int64", s.tokens), _float("origin_visible", s.tokens))
    return _walk_spec(s, _scores("previous_scores", s), *origins)


def _closed(sizes: Sizes) -> tuple[TensorSpec, TensorSpec]:
    m = sizes.pooled_keys
    return _float("local_affinity", sizes.tokens, m), _float("closed_sum", m, m)


def _solve_spec(s: Sizes) -> StageSpec:
    inputs = (_affinity(s, per_head=False), _float("local_weights", 8, *s.grid_hw), *_scalars("alpha", "beta"))
    return _signature(inputs, *_closed(s))


def _walk_exact_spec(s: Sizes) -> StageSpec:
    graph = (_scores("seed_scores", s), *_closed(s), _float("local_weights", 8, *s.grid_hw))
    return _signature((*graph, *_scalars("alpha", "beta")), _scores("label_scores", s))


def _readout_spec(s: Sizes, *guide: TensorSpec) -> StageSpec:
    inputs = (_scores("label_scores", s), *guide, _tensor("size_hw", "int64", 2), *_scalars("threshold"))
    return _signature(inputs, *_labels(s, "H", "W"), _tensor("finite", "bool"))


def _frame_spec(s: Sizes) -> StageSpec:
    knobs = _scalars("tau", "alpha", "beta", "head_temperature", "threshold")
    return _batched(s, _signature((_frame(s), *_classes(s), *knobs), *_labels(s, *s.working_hw)))


def _modules() -> Any:
    from nerve_export.graphs import modules

    return modules


def _networks(sizes: Sizes) -> Any:
    """The module that has the stages with networks, for one frame or for several."""
    if not sizes.batched:
        return _modules()
    from nerve_export.graphs import modules_batched

    return modules_batched


def _video() -> Any:
    from nerve_export.graphs import modules_video

    return modules_video


def _readouts() -> Any:
    from nerve_export.graphs import modules_readout

    return modules_readout


def _fixed_readout(params: "NerveParams", s: Sizes) -> Any:
    """The read-out of the constants at working size."""
    if params.readout == "guided":
        return _readouts().FixedGuidedReadoutStage(s.grid_hw, s.working_hw, params.guide_width, s.label_dtype)
    return _readouts().FixedReadoutStage(s.grid_hw, s.working_hw, s.label_dtype)


def _is_pooled(params: "NerveParams") -> bool:
    return params.affinity == "softmax_pooled"


def _compares_colours(params: "NerveParams") -> bool:
    return params.local_features == "rgb"


def _tolerances(fp32: Tolerance, half: Tolerance) -> dict[str, Tolerance]:
    return {"fp32": fp32, "fp16": half, "bf16": half}


# fp32 graphs run the same arithmetic in another order: differences are rounding, so the bounds are tight. Max-abs is
# in the unit of the output: probabilities for scores and rows, except B and S, whose sharpened entries reach 1.
# Half precision is held by the cosine; one sharpened entry of B may move far where two keys are equally near.
# The method's own stages are float32 in every precision, so their bounds do not change.
TABLE: dict[StageName, StageRow] = {
    row.name: row
    for row in (
        StageRow(
            "text",
            lambda m, p, s, native: _modules().TextStage(m, native=native),
            _text_spec,
            _tolerances(Tolerance(0.99999, 1e-4), Tolerance(0.999, 2e-2)),
            network="clip",
        ),
        StageRow(
            "scores",
            lambda m, p, s, native: _networks(s).scores_stage(m, p, s, native=native),
            _scores_spec,
            _tolerances(Tolerance(0.9999, 1e-3), Tolerance(0.999, 0.1)),
            network="clip",
        ),
        StageRow(
            "attention",
            lambda m, p, s, native: _networks(s).attention_stage(m, p, s, native=native),
            _attention_spec,
            _tolerances(Tolerance(0.9999, 1e-2), Tolerance(0.99, 1.0)),
            network="affinity",
        ),
        StageRow(
            "mix",
            lambda m, p, s, native: _modules().MixStage(p, s.grid_hw),
            _mix_spec,
            _tolerances(Tolerance(0.9999, 1e-3), Tolerance(0.9999, 1e-3)),
        ),
        StageRow(
            "walk",
            lambda m, p, s, native: _modules().WalkStage(p, s.grid_hw, p.steps),
            _walk_spec,
            _tolerances(Tolerance(0.9999, 1e-4), Tolerance(0.9999, 1e-4)),
        ),
        StageRow(
            "walk_warm",
            lambda m, p, s, native: _modules().WalkWarmStage(p, s.grid_hw, p.warm_steps),
            lambda s: _walk_spec(s, _scores("previous_scores", s)),
            _tolerances(Tolerance(0.9999, 1e-4), Tolerance(0.9999, 1e-4)),
        ),
        # Between keyframes: what moved, near affinity of the frame itself, and the walk with both.
        StageRow(
            "carry",
            lambda m, p, s, native: _video().CarryStage(),
            _carry_spec,
            _tolerances(Tolerance(0.9999, 1e-4), Tolerance(0.9999, 1e-4)),
        ),
        StageRow(
            "local",
            lambda m, p, s, native: _video().LocalStage(p, s.grid_hw),
            _local_spec,
            _tolerances(Tolerance(0.9999, 1e-3), Tolerance(0.9999, 1e-3)),
            exists=_compares_colours,
        ),
        StageRow(
            "local_carried",
            lambda m, p, s, native: _video().LocalCarriedStage(s.grid_hw),
            _local_carried_spec,
            _tolerances(Tolerance(0.9999, 1e-5), Tolerance(0.9999, 1e-5)),
            exists=lambda params: not _compares_colours(params),
        ),
        StageRow(
            "walk_carried",
            lambda m, p, s, native: _video().WalkCarriedStage(p, s.grid_hw, p.warm_steps),
            _walk_carried_spec,
            _tolerances(Tolerance(0.9999, 1e-4), Tolerance(0.9999, 1e-4)),
        ),
        # The exact walk is a truncated iteration: its bound is that of its steps, not of rounding.
        StageRow(
            "solve",
            lambda m, p, s, native: _video().SolveStage(p, s.grid_hw),
            _solve_spec,
            _tolerances(Tolerance(0.9999, 1e-3), Tolerance(0.9999, 1e-3)),
            exists=_is_pooled,
        ),
        StageRow(
            "walk_exact",
            lambda m, p, s, native: _video().WalkExactStage(p, s.grid_hw),
            _walk_exact_spec,
            _tolerances(Tolerance(0.9999, 1e-3), Tolerance(0.9999, 1e-3)),
            exists=_is_pooled,
        ),
        StageRow(
            "readout",
            lambda m, p, s, native: _readouts().ReadoutStage(s.grid_hw, s.label_dtype),
            _readout_spec,
            _tolerances(Tolerance(0.9999, 1.0), Tolerance(0.9999, 1.0)),
        ),
        StageRow(
            "readout_guided",
            lambda m, p, s, _: _readouts().GuidedReadoutStage(s.grid_hw, s.working_hw, p.guide_width, s.label_dtype),
            lambda s: _readout_spec(s, _frame(s)),
            _tolerances(Tolerance(0.9999, 1.0), Tolerance(0.9999, 1.0)),
        ),
        # Merged from the graphs above; only its end, the read-out at working size, is exported for it.
        StageRow(
            "frame",
            lambda m, p, s, native: _fixed_readout(p, s),
            _frame_spec,
            _tolerances(Tolerance(0.9999, 1.0), Tolerance(0.9999, 1.0, agreement=0.99)),
        ),
    )
}
MERGED: StageName = "frame"
"""The stage that is made of the others' graphs."""


def stages_of(params: "NerveParams") -> tuple[StageName, ...]:
    """The graphs that a variant of the method has, in the order of the table.

    `local` compares colours, so only a variant whose neighbours are compared by colour can compute it from the frame
    alone, and the others have `local_carried`; the exact walk needs pooled keys.
    """
    return tuple(name for name, row in TABLE.items() if row.exists(params))


def fixed_readout_spec(s: Sizes, params: "NerveParams") -> StageSpec:
    """Inputs and outputs of the read-out inside the merged stage, which is that of the constants."""
    guide = (_frame(s),) if params.readout == "guided" else ()
    return _signature((_scores("label_scores", s), *guide, *_scalars("threshold")), *_labels(s, *s.working_hw))
