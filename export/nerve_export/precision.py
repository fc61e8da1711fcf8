"""Which layers stay in float32 where a graph runs in half precision: a file for people to read, edit and reuse."""

from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nerve_runtime.bundle.spec import StageName
from nerve_runtime.errors import NumericError, UsageError

Precision = Literal["fp32", "fp16", "bf16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
LARGEST_FLOAT16 = 65504.0
RANGE_LIMIT = 0.5 * LARGEST_FLOAT16
"""A layer whose output was seen beyond this in float32 is not run in float16: other frames may double it."""
LISTED = 12
"""Number of largest outputs recorded for a stage."""

ModulePath = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.]+$")]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StagePrecision(_Strict):
    """One stage: what stays in float32, and what the audit of activations saw.

    Attributes:
        keep_fp32: layers by the name of their torch module; each stands for all layers inside it too.
        frames: on how many frames the audit ran.
        largest: the greatest absolute output of the layers that come nearest to the limit; of an attention, a bound of
            the products of its queries and keys.
    """

    keep_fp32: tuple[ModulePath, ...] = ()
    frames: int = 0
    largest: dict[ModulePath, float] = {}


class PrecisionPlan(_Strict):
    """The precision of every stage's networks; the method itself (affinity, entropies, walk) is always float32.

    Attributes:
        precision: of all layers that are not kept.
        limit: absolute value beyond which a layer is kept in float32 when the precision is fp16; for the record.
        stages: by stage; a stage without networks has no entry.
    """

    precision: Precision
    limit: Annotated[float, Field(ge=RANGE_LIMIT, le=RANGE_LIMIT)] = RANGE_LIMIT
    stages: dict[StageName, StagePrecision] = {}

    def kept(self, stage: StageName) -> tuple[str, ...]:
        """The layers of a stage that stay in float32."""
        return self.stages[stage].keep_fp32 if stage in self.stages else ()


def read_precision_plan(path: Path, precision: Precision) -> PrecisionPlan:
    """Read a plan that a build wrote and a person may have edited.

    Raises:
        UsageError: the file cannot be read, is no plan, or is for another precision than the build.
    """
    try:
        plan = PrecisionPlan.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UsageError(
            f"--precision-plan {path} cannot be read: {error.strerror or error}; check the path"
        ) from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise UsageError(
            f"--precision-plan {path} is no precision plan: {where}: {first['msg']}; start from the precision.json of a bundle"
        ) from error
    if plan.precision != precision:
        raise UsageError(
            f"--precision-plan {path} is for {plan.precision}, this build is {precision}; give another plan"
        )
    return plan


def audited(
    stage: str, precision: Precision, largest: dict[str, float], frames: int, given: StagePrecision | None
) -> StagePrecision:
    """Decide from the greatest outputs seen which layers stay in float32.

    Args:
        stage: for messages.
        precision: of the build.
        largest: greatest absolute output of each layer, by module path, over all frames; inf where one overflowed.
        frames: how many frames were looked at.
        given: a person's choice, taken as it is.

    Raises:
        NumericError: a person's choice leaves a layer in fp16 that overflows or comes near it, naming the layers.
    """
    beyond = [path for path, value in largest.items() if not value <= RANGE_LIMIT] if precision == "fp16" else []
    if given is not None:
        exposed = [path for path in beyond if not is_kept(path, given.keep_fp32)]
        if exposed:
            raise NumericError(
                f"stage {stage!r}: {', '.join(f'{path} ({largest[path]:.3g})' for path in exposed[:3])} "
                f"exceed half of float16's range ({RANGE_LIMIT:.0f}) and the precision plan does not keep them in "
                "float32; add them to keep_fp32, or build without --precision-plan"
            )
    keep = given.keep_fp32 if given is not None else tuple(beyond)
    top = sorted(largest, key=lambda path: -largest[path])[:LISTED]
    return StagePrecision(keep_fp32=keep, frames=frames, largest={path: float(f"{largest[path]:.4g}") for path in top})


def is_kept(path: str, kept: tuple[str, ...]) -> bool:
    """Whether a layer is one of the kept ones or lies inside one."""
    return any(path == name or path.startswith(f"{name}.") for name in kept)
