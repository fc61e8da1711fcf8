"""What can be drawn: labels with their names, as `FrameResult` has them."""

from fractions import Fraction
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nerve_runtime.labels import Labels


class LabelledFrame(Protocol):
    """Labels (H, W) of a frame and what is known of them; `FrameResult` says what each is."""

    @property
    def labels(self) -> Labels: ...  # noqa: D102
    @property
    def confidence(self) -> NDArray[np.uint8]: ...  # noqa: D102
    @property
    def class_names(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def index(self) -> int: ...  # noqa: D102
    @property
    def time_s(self) -> Fraction | None: ...  # noqa: D102
    @property
    def timings_ms(self) -> dict[str, float]: ...  # noqa: D102
    @property
    def keyframe(self) -> bool: ...  # noqa: D102
    @property
    def affinity_age(self) -> int: ...  # noqa: D102
    @property
    def valid(self) -> bool: ...  # noqa: D102
    @property
    def ignore_label(self) -> int: ...  # noqa: D102
    @property
    def has_background(self) -> bool: ...  # noqa: D102
