"""Bounds what a graph can allocate from its own constants: a few bytes may ask for a tensor of any size.

Sizes that follow from the frame are bounded by the frame. What is left are sizes that stand in the graph: the shape of
an `Expand`, the pads of a `Pad`, and everything computed from constants alone, which ONNX Runtime computes while it
opens the graph.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

Values = tuple[float, ...]

ELEMENTS_LIMIT = 2**28
"""Of all tensors together whose shape is a constant of the graph; the presets' largest has 2**14."""
FACTOR_LIMIT = 4096
"""How much a constant may enlarge a tensor along all axes together, and the largest pad of one side."""
SAME_SIZE = frozenset({"Cast", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
"""What the exporter leaves between constants; none of them makes a tensor larger. `Gather` is left too, and can."""
# By operator: the input that holds sizes of the output, and those that hold factors, pads or steps.
SIZES = {"ConstantOfShape": 0, "Expand": 1, "Resize": 3}
FACTORS, PADS, STEPS = {"OneHot": 1, "Resize": 2, "Tile": 1}, {"Pad": 1}, {"Range": 2}


@dataclass(frozen=True, slots=True)
class Constant:
    """Number of elements of a constant, and the elements where they are few enough to be a shape."""

    elements: int
    values: Values | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """What of a node decides about sizes: names of its tensors, the value of a `Constant`, its attribute `pads`."""

    name: str
    operator: str
    inputs: Sequence[str]
    outputs: Sequence[str]
    constant: Constant | None = None
    pads: Sequence[int] = ()


@dataclass(slots=True)
class Allocation:
    """Follows constants, by name, through the nodes of a graph, which stand in the order in which they run."""

    constants: dict[str, Constant]
    elements: float = 0  # of all tensors so far whose shape is a constant

    def refusal(self, node: Node) -> str | None:
        """Why a node may allocate too much, in words; None when it may not."""
        if node.operator == "Constant":
            self.constants.update(dict.fromkeys(node.outputs, node.constant or Constant(1)))
            return None
        inputs = [name for name in node.inputs if name]
        if all(name in self.constants for name in inputs):
            if node.operator not in (*SAME_SIZE, "Gather"):
                return "has constants for all its inputs; the exporter computes such nodes itself"
            sizes = [self.constants[name].elements for name in inputs]
            elements = math.prod(sizes) if node.operator == "Gather" else max(sizes, default=1)
            if not self._sizes((elements,)):
                return f"makes up to {elements} elements of constants, more than any graph of ours needs"
            self.constants.update(dict.fromkeys(node.outputs, Constant(elements)))
        return self._refused_sizes(node)

    def _refused_sizes(self, node: Node) -> str | None:
        for table, check in (
            (SIZES, self._sizes),
            (FACTORS, lambda values: _product(values) <= FACTOR_LIMIT),
            (PADS, _pads),
            (STEPS, lambda steps: min(map(abs, steps), default=0) >= 1),
        ):
            position = table.get(node.operator, len(node.inputs))
            name = node.inputs[position] if position < len(node.inputs) else ""
            if not name or name not in self.constants:
                continue
            values = self.constants[name].values
            if values is None:
                return f"takes sizes from {name!r}, which is no plain list of numbers in the graph"
            if not all(map(math.isfinite, values)) or not check(values):
                return f"takes sizes {values} from {name!r}, more than any graph of ours needs"
        return None if _pads(node.pads) else f"pads by {tuple(node.pads)}, more than any graph of ours needs"

    def _sizes(self, values: Sequence[float]) -> bool:
        self.elements += _product(values)
        return self.elements <= ELEMENTS_LIMIT


def _product(values: Sequence[float]) -> float:
    return math.prod(max(1, abs(value)) for value in values)


def _pads(values: Sequence[float]) -> bool:
    return all(abs(value) <= FACTOR_LIMIT for value in values)
