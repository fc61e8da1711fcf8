"""How two tensors are compared, and the report of all comparisons of a bundle."""

import math
import re
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nerve_export.graphs.stages import TABLE, Tolerance
from nerve_runtime.bundle.spec import StageName
from nerve_runtime.labels import cast_labels

CHAIN = "chain"
STAGE_ORDER: tuple[StageName, ...] = tuple(TABLE)
METHOD_ORDER = (
    "text_embeddings",
    "latent",
    "q",
    "features",
    "patch_features",
    "seed_scores",
    "head_affinity",
    "local_weights",
    "head_entropies",
    "head_weights",
    "affinity",
    "local_affinity",
    "closed_sum",
    "carried_scores",
    "label_scores",
    "labels",
    "confidence",
    "finite",
)
"""Tensors in the order in which the method makes them; "q" stands for the queries and keys of all layers."""
HEADS = re.compile(r"([qk])(\d+)")


@dataclass(frozen=True, slots=True)
class Tap:
    """One comparison.

    Attributes:
        stage: the graph, or "chain".
        tensor: the tensor, by the method's name.
        frame: index of the frame.
        cosine: of float tensors.
        max_abs: largest absolute difference.
        agreement: share of equal elements, of integer tensors.
        passed: whether it is within the tolerance.
        p99_abs: absolute difference that 99 % of the elements do not exceed.
        not_finite: NaN and infinite elements of the bundle's tensor.
        undecided: share of pixels left out because the reference's two best classes are nearly equal.
        cosine_floor: least cosine that passes.
        max_abs_limit: largest difference that passes.
        agreement_floor: least agreement that passes.
    """

    stage: str
    tensor: str
    frame: int
    cosine: float | None
    max_abs: float
    agreement: float | None
    passed: bool
    p99_abs: float = 0.0
    not_finite: int = 0
    undecided: float = 0.0
    cosine_floor: float | None = None
    max_abs_limit: float | None = None
    agreement_floor: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values; NaN and infinity become None, as JSON has neither."""
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(self).items()
        }


@dataclass(frozen=True, slots=True)
class ParityReport:
    """All comparisons of one bundle on one back end."""

    backend: str
    taps: tuple[Tap, ...]

    @property
    def passed(self) -> bool:
        """Whether every tap passed."""
        return all(tap.passed for tap in self.taps)

    def in_method_order(self) -> tuple[Tap, ...]:
        """The taps in the order in which the method makes their tensors, the chain of all stages last."""
        return tuple(sorted(self.taps, key=_place))

    def first_broken(self) -> Tap | None:
        """The first tap that fails, in the order of the method: what comes before it is sound."""
        return next((tap for tap in self.in_method_order() if not tap.passed), None)

    def worst(self) -> Tap:
        """The first tap that broke, or else the output of a stage with the largest difference."""
        outputs = [tap for tap in self.taps if tap.tensor in METHOD_ORDER and tap.tensor not in ("latent", "features")]
        return self.first_broken() or max(outputs or self.taps, key=lambda tap: tap.max_abs)

    def as_json(self) -> dict[str, Any]:
        """Plain values for `parity.json`."""
        broken = self.first_broken()
        return {
            "backend": self.backend,
            "passed": self.passed,
            "first_broken": None if broken is None else f"{broken.stage}.{broken.tensor}",
            "taps": [tap.as_json() for tap in self.taps],
        }


def _place(tap: Tap) -> tuple[int, int, int, int, str]:
    """Where a tap comes in the method: by tensor, Q and K layer by layer, then by stage and frame; the chain last."""
    if tap.stage == CHAIN:
        return len(METHOD_ORDER), 0, 0, tap.frame, tap.tensor
    match = HEADS.fullmatch(tap.tensor)
    name, layer = ("q", int(match[2])) if match else (tap.tensor, 0)
    place = METHOD_ORDER.index(name) if name in METHOD_ORDER else len(METHOD_ORDER) - 1
    stage = [*map(str, STAGE_ORDER), tap.stage].index(tap.stage)
    letter = "qk".index(match[1]) if match else 0
    return place, layer, letter, stage, f"{tap.frame:06d}{tap.tensor}"


def compared(
    stage: str,
    tensor: str,
    frame: int,
    expected: NDArray[Any],
    actual: NDArray[Any],
    tolerance: Tolerance,
    undecided: NDArray[np.bool_] | None = None,
    slack: int = 1,
) -> Tap:
    """Compare two arrays of one shape under a tolerance.

    A value that is not finite, or another shape, fails.

    Args:
        stage: for the tap.
        tensor: likewise.
        frame: likewise.
        expected: what the reference has.
        actual: what the bundle has.
        tolerance: of floats the least cosine and the largest difference, of labels, levels and bool the least agreement.
        undecided: pixels that do not count.
        slack: levels of 255 by which a confidence may differ and still agree.
    """
    if expected.shape != actual.shape:
        return Tap(stage, tensor, frame, None, float("inf"), 0.0, passed=False)
    if actual.dtype in (np.uint8, np.uint16, np.bool_):
        if actual.dtype == np.uint16:
            expected = cast_labels(expected, actual.dtype)  # no label is 255 in the reference
        return _compared_levels(
            stage, tensor, frame, expected, actual, tolerance, undecided, slack if tensor == "confidence" else 0
        )
    wide, narrow = expected.astype(np.float64).ravel(), actual.astype(np.float64).ravel()
    finite = np.isfinite(narrow)
    differences = np.abs(wide[finite] - narrow[finite])
    not_finite = int(narrow.size - finite.sum())
    max_abs = float(differences.max(initial=0.0)) if not not_finite else float("inf")
    cosine = float(wide[finite] @ narrow[finite]) / max(
        float(np.linalg.norm(wide) * np.linalg.norm(narrow[finite])), 1e-30
    )
    return Tap(
        stage=stage,
        tensor=tensor,
        frame=frame,
        cosine=cosine,
        max_abs=max_abs,
        agreement=None,
        passed=not not_finite and cosine >= tolerance.cosine and max_abs <= tolerance.max_abs,
        p99_abs=_p99(differences),
        not_finite=not_finite,
        cosine_floor=tolerance.cosine,
        max_abs_limit=tolerance.max_abs,
    )


def _compared_levels(
    stage: str,
    tensor: str,
    frame: int,
    expected: NDArray[Any],
    actual: NDArray[Any],
    tolerance: Tolerance,
    undecided: NDArray[np.bool_] | None,
    slack: int,
) -> Tap:
    counted = np.ones(expected.shape, bool) if undecided is None else ~undecided
    differences = np.abs(expected.astype(np.int64) - actual.astype(np.int64))
    # Where no pixel counts, nothing was seen to disagree.
    agreement = float((differences[counted] <= slack).mean()) if counted.any() else 1.0
    return Tap(
        stage=stage,
        tensor=tensor,
        frame=frame,
        cosine=None,
        max_abs=float(differences.max(initial=0)),
        agreement=agreement,
        passed=agreement >= tolerance.agreement,
        p99_abs=_p99(differences),
        undecided=float(1 - counted.mean()),
        agreement_floor=tolerance.agreement,
    )


def compared_inner(
    stage: str, tensor: str, frame: int, expected: NDArray[Any], actual: NDArray[Any], tolerance: Tolerance
) -> Tap:
    """Compare a tensor within a graph: axes may be merged or of size 1, differences are relative to its largest value.

    Queries and features have no unit, so the tolerance, which is one of probabilities, is scaled.
    """
    same_width = bool(expected.shape and actual.shape) and expected.shape[-1] == actual.shape[-1]
    if expected.size == actual.size and same_width:
        actual = actual.reshape(expected.shape)
    scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
    scaled = Tolerance(tolerance.cosine, tolerance.max_abs * scale, tolerance.agreement)
    return compared(stage, tensor, frame, expected, actual, scaled)


def _p99(differences: NDArray[Any]) -> float:
    return float(np.quantile(differences, 0.99)) if differences.size else 0.0
