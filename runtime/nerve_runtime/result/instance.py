"""The instances of a frame."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Int32Array = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Instance:
    """One connected region of a class.

    Attributes:
        number: from 1, the same as long as the region is followed, never used again.
        label: its class.
        name: of the class.
        area: its number of pixels.
        box: left, top, width and height in pixels.
        confidence: mean of its pixels, 0 to 1.
    """

    number: int
    label: int
    name: str
    area: int
    box: tuple[int, int, int, int]
    confidence: float


@dataclass(frozen=True, slots=True)
class Instances:
    """The instances of a frame.

    Attributes:
        numbers: int32 (H, W), the number of each pixel's instance; 0 is none.
        instances: in the order of their numbers.
    """

    numbers: Int32Array
    instances: tuple[Instance, ...]

    def mask(self, number: int) -> NDArray[np.bool_]:
        """Which pixels belong to an instance, bool (H, W)."""
        return np.asarray(self.numbers == number)
