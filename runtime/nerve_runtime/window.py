"""A window that shows the newest overlay, where the installed OpenCV can open one."""

import threading
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from nerve_runtime.errors import CompatibilityError
from nerve_runtime.opencv import cv2
from nerve_runtime.overlay import overlay
from nerve_runtime.result import FrameResult


class Window:
    """Shows what the writer thread offers; all calls to the window system are made by the main thread.

    Args:
        title: of the window.
        stop: set when the user presses q.

    Raises:
        CompatibilityError: this OpenCV was built without windows, or there is no display.
    """

    def __init__(self, title: str, stop: threading.Event) -> None:
        self._title = title
        self._stop = stop
        self._newest: NDArray[np.uint8] | None = None
        try:
            cv2.namedWindow(title, cv2.WINDOW_NORMAL)
        except cv2.error as error:
            raise CompatibilityError(
                "this OpenCV cannot open a window; install opencv-python in place of opencv-python-headless "
                "and run where there is a display, or leave out --show"
            ) from error

    def offer(self, rgb: NDArray[np.uint8], result: FrameResult, opacity: float) -> None:
        """Hand over a frame from any thread; an older one that was not shown yet is dropped."""
        self._newest = overlay(rgb, result, opacity=opacity)

    def refresh(self) -> None:
        """Show the newest frame and read the keyboard; call from the main thread."""
        newest, self._newest = self._newest, None
        if newest is not None:
            cv2.imshow(self._title, cv2.cvtColor(newest, cv2.COLOR_RGB2BGR))
        if cv2.waitKey(1) & 0xFF == ord("q"):
            self._stop.set()

    def __enter__(self) -> "Window":
        """Return the window itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the window."""
        cv2.destroyWindow(self._title)
