"""What a client and the model `nerve` of a Triton server say to each other: names of tensors, options, errors."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

import nerve_runtime
from nerve_runtime import Constants, NerveError, Readout, Temporal, UsageError

MODEL = "nerve"
FRAME, CLASSES, OPTIONS, INDEX, TIME_S = "frame", "classes", "options", "index", "time_s"
"""Inputs: uint8 (1, H, W, 3) RGB; words (1, c); JSON (1, 1); int64 (1, 1); float64 (1, 1). All may be left out."""
START, END, READY, SEQUENCE = "START", "END", "READY", "CORRID"
"""Inputs that Triton fills from the flags of a request."""
LABELS, CONFIDENCE, CLASS_NAMES, FACTS = "labels", "confidence", "class_names", "facts"
"""Outputs: (1, H, W) both, words (1, c), and JSON (1, 1) with the fields of `Facts`."""
KEYFRAME, INVALID = "keyframe", "invalid"
"""More outputs, bool (1, 1), for clients that read no JSON; `index` is one too."""
START_IS_MISSING = "must specify the START flag"
"""What Triton says, and the model too, to a request of a sequence that it does not know, or forgot."""
FORGOTTEN = f"this sequence is not known, or was idle too long; its first request {START_IS_MISSING} and bring classes"


class Options(BaseModel):
    """What the first request of a sequence may say, as JSON; with later classes only `background`.

    Attributes:
        background: words for everything else.
        temporal: how frames help each other; each frame by itself where it is left out.
        constants: of the method, instead of the bundle's defaults.
        readout: "bilinear" or "guided"; the bundle's default where it is left out.
        templates: the name of a template set, or templates with `{}`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    background: str | list[str] = ()  # type: ignore[assignment]  # pydantic does not validate defaults
    temporal: Temporal | None = None
    constants: Constants | None = None
    readout: Readout | None = None
    templates: str | list[str] | None = None

    def to_json(self) -> str:
        """As a request carries it, without what was left at its default."""
        return self.model_dump_json(exclude_defaults=True)

    @classmethod
    def of_json(cls, text: str | bytes) -> "Options":
        """Read and check.

        Raises:
            UsageError: it is no JSON, or has fields, types or values that nobody expects.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or OPTIONS
            raise UsageError(
                f"input {OPTIONS!r} is not usable: {where}: {first['msg']}; expected a JSON object with some of "
                f"{', '.join(cls.model_fields)}"
            ) from error


@dataclass(frozen=True, slots=True)
class Facts:
    """What a result holds besides its tensors, as in `nerve_runtime.FrameResult`."""

    index: int
    keyframe: bool
    affinity_age: int
    valid: bool
    timings_ms: Mapping[str, float]

    def to_json(self) -> str:
        """As a response carries it."""
        return json.dumps(asdict(self))

    @classmethod
    def of_json(cls, text: bytes) -> "Facts":
        """Read what `to_json` wrote."""
        return cls(**json.loads(text))


def error_text(error: NerveError) -> str:
    """An error as an error response carries it: its kind and its sentence."""
    return f"{type(error).__name__}: {error}"


def error_of(text: str) -> NerveError | None:
    """The error that `error_text` wrote, wherever it stands in a server's message; None where there is none."""
    kinds = {name: kind for name in dir(nerve_runtime) if _is_error(kind := getattr(nerve_runtime, name))}
    # The first that is named: its sentence may quote another, out of a class name.
    found = re.search(rf"\b({'|'.join(kinds)}): ", text)
    return None if found is None else kinds[found[1]](text[found.end() :])


def _is_error(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, NerveError)
