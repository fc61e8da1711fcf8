"""How stages and their tensors are described: the exporter writes it, the runtime checks it."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from nerve_runtime.errors import UsageError

NEIGHBOURS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))
"""(down, right) of the eight neighbours of a token, in the order of the first axis of `local_weights`."""

Array = NDArray[Any]
Dtype = Literal["uint8", "uint16", "bool", "int64", "float32"]
StageName = Literal[
    "text", "scores", "attention", "mix", "walk", "walk_warm", "carry", "local", "local_carried", "walk_carried", "solve",
    "walk_exact", "readout", "readout_guided", "frame",
]  # fmt: skip
Readout = Literal["bilinear", "guided"]
"""How pixels get the scores of the tokens around them: by distance alone, or by the colours of the working frame too."""
READOUT_STAGES: Mapping[Readout, StageName] = {"bilinear": "readout", "guided": "readout_guided"}
"""The graph of each read-out."""
BATCHED_STAGES: frozenset[StageName] = frozenset({"scores", "attention", "frame"})
"""The graphs that take several frames in a run, each with a vocabulary of its own, where a bundle has a `max_batch`."""
BATCH_AXIS = "b"
"""The first axis of every tensor of these graphs there: the number of frames."""
BATCH_LIMIT = 32
"""Most frames of a run."""


class StrictModel(BaseModel):
    """Frozen, and without fields or numbers that nobody expects."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class TensorSpec(StrictModel):
    """One named input or output of a stage.

    Attributes:
        name: name of the tensor in the graph.
        dtype: element type.
        axes: one entry an axis: a size, or a letter that stands for the same size throughout a stage's tensors.
    """

    name: str = Field(min_length=1)
    dtype: Dtype
    axes: tuple[int | str, ...]

    def __str__(self) -> str:
        """The form used in messages, for example `float32 (c, 1024)`."""
        return f"{self.dtype} ({', '.join(str(axis) for axis in self.axes)})"


class StageSpec(StrictModel):
    """The inputs and outputs of one graph, in order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def names(self) -> tuple[set[str], set[str]]:
        """Those of the inputs and those of the outputs."""
        return {tensor.name for tensor in self.inputs}, {tensor.name for tensor in self.outputs}

    def batched(self) -> "StageSpec":
        """The same graph for several frames in a run: each tensor has `BATCH_AXIS` in front, a frame in place of its 1."""
        return StageSpec(inputs=tuple(map(_batched, self.inputs)), outputs=tuple(map(_batched, self.outputs)))


def _batched(tensor: TensorSpec) -> TensorSpec:
    axes = tensor.axes[1:] if tensor.name == "frame" else tensor.axes
    return tensor.model_copy(update={"axes": (BATCH_AXIS, *axes)})


def check_tensors(where: str, specs: Sequence[TensorSpec], tensors: Mapping[str, Any]) -> dict[str, int]:
    """Check tensors against their specs and return the sizes that the axis letters took.

    Args:
        where: named in the message, for example `stage 'walk' input`.
        specs: what is expected.
        tensors: what has a dtype and a shape, by name; exactly those of `specs`.

    Raises:
        UsageError: a tensor is missing, unknown, of another dtype or shape, or a letter takes two sizes.
    """
    names = [spec.name for spec in specs]
    if sorted(names) != sorted(tensors):
        raise UsageError(f"{where}: got tensors {sorted(tensors)}, expected {sorted(names)}")
    sizes: dict[str, int] = {}
    for spec in specs:
        array = tensors[spec.name]
        if array.dtype != np.dtype(spec.dtype) or array.ndim != len(spec.axes):
            raise UsageError(f"{where} {spec.name!r} is {array.dtype} {array.shape}, expected {spec}")
        for axis, size in zip(spec.axes, array.shape, strict=True):
            expected = sizes.setdefault(axis, size) if isinstance(axis, str) else axis
            if size != expected:
                raise UsageError(
                    f"{where} {spec.name!r} is {array.dtype} {array.shape}, expected {spec}, axis {axis} being {expected}"
                )
    return sizes
