"""A camera for OpenCV's place: number 0 gives three frames, number 1 none, the others are not there."""

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nerve_runtime import opencv
from nerve_stream.child import Connection
from nerve_stream.sources.decoding.child import main
from tests.data.clips import halves


class FakeCapture:
    """What the runtime uses of cv2.VideoCapture."""

    def __init__(self, number: int) -> None:
        self.left = 3 if number == 0 else 0
        self.number = number

    def set(self, name: int, value: float) -> bool:
        """Take any setting."""
        return True

    def get(self, name: int) -> float:
        """The rate: 30 of camera 0, nonsense of the others."""
        return 30.0 if self.number == 0 else float("nan")

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
        """Whether there is such a camera."""
        return self.number < 2

    def read(self) -> tuple[bool, NDArray[np.uint8] | None]:
        """The next frame, BGR."""
        self.left -= 1
        time.sleep(0.03)
        return (True, halves()[..., ::-1].copy()) if self.left >= 0 else (False, None)

    def release(self) -> Any:
        """Do nothing."""


def decode(connection: Connection) -> None:
    """Be a decoder process whose cameras are these."""
    opencv.cv2.VideoCapture = FakeCapture  # type: ignore[misc,assignment]
    main(connection)
