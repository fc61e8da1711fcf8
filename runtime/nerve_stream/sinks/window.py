"""An OpenCV window that shows the newest picture of each source, several side by side."""

import math
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nerve_runtime import CompatibilityError
from nerve_runtime.opencv import cv2

UInt8Array = NDArray[np.uint8]
Key = Literal["quit", "pause", "back", "forward"]

CANVAS_LIMIT_HW = (1080, 1920)
LETTER_KEYS: dict[int, Key] = {ord("q"): "quit", 27: "quit", ord(" "): "pause"}
# Arrows have other numbers in each of OpenCV's window systems: GTK and Qt, Windows, macOS.
ARROW_KEYS: dict[int, Key] = {
    65361: "back", 65363: "forward",
    0x250000: "back", 0x270000: "forward",
    63234: "back", 63235: "forward",
}  # fmt: skip


class Window:
    """Shows pictures that any thread hands over; only the main thread calls the window system.

    Args:
        title: of the window.
        on_key: called by `refresh` with the key pressed: "quit" (q, Escape, or the window was closed), "pause"
            (space), "back" or "forward" (arrows left and right, 5 s each).

    Raises:
        CompatibilityError: this OpenCV was built without windows, or there is no display.
    """

    def __init__(self, title: str, on_key: Callable[[Key], None]) -> None:
        self._title = title
        self._on_key = on_key
        self._newest: dict[str, UInt8Array] = {}
        self._changed = False
        self._shown = False
        try:
            cv2.namedWindow(title, cv2.WINDOW_NORMAL)
        except cv2.error as error:
            raise CompatibilityError(
                "this OpenCV cannot open a window; install opencv-python in place of opencv-python-headless "
                "and run where there is a display, or leave out --show"
            ) from error

    def update(self, name: str, picture: UInt8Array) -> None:
        """Hand over a picture, RGB uint8 (H, W, 3), from any thread; an older one not yet shown is dropped.

        Args:
            name: of the source; each has its tile, in the order of their first pictures.
            picture: must not change afterwards.
        """
        self._newest = {**self._newest, name: picture}
        self._changed = True

    def refresh(self) -> None:
        """Show the newest pictures and read the keyboard; call it in the main thread about 20 times a second."""
        if self._changed:
            self._changed = False
            cv2.imshow(self._title, cv2.cvtColor(tiled(list(self._newest.values())), cv2.COLOR_RGB2BGR))
            self._shown = True
        key = key_of(cv2.waitKeyEx(1))
        if self._shown and cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) == 0:
            self._shown = False  # closed by the user; report it once and do not open it again
            self._changed = False
            key = "quit"
        if key is not None:
            self._on_key(key)

    def __enter__(self) -> "Window":
        """Return the window itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the window."""
        with suppress(cv2.error):  # the user may have closed it already
            cv2.destroyWindow(self._title)


def key_of(code: int) -> Key | None:
    """The key that a code of OpenCV's `waitKeyEx` stands for, None if none.

    >>> key_of(ord("q")), key_of(65363), key_of(-1)
    ('quit', 'forward', None)
    """
    if code in ARROW_KEYS:
        return ARROW_KEYS[code]
    # Lock keys set bits above the letter.
    return LETTER_KEYS.get(code & 0xFF) if code >= 0 else None


def tiled(pictures: list[UInt8Array]) -> UInt8Array:
    """Pictures side by side in a grid as square as can be, uint8 (H, W, 3), at most 1080 x 1920 pixels.

    One picture stays as it is. Of several, each is fitted into a tile of the first one's shape, with black borders.
    """
    if len(pictures) == 1:
        return pictures[0]
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    height, width = pictures[0].shape[:2]
    scale = min(1.0, CANVAS_LIMIT_HW[0] / (rows * height), CANVAS_LIMIT_HW[1] / (columns * width))
    tile_hw = max(1, int(height * scale)), max(1, int(width * scale))
    canvas = np.zeros((rows * tile_hw[0], columns * tile_hw[1], 3), dtype=np.uint8)
    for position, picture in enumerate(pictures):
        row, column = divmod(position, columns)
        tile = canvas[row * tile_hw[0] : (row + 1) * tile_hw[0], column * tile_hw[1] : (column + 1) * tile_hw[1]]
        _fit_into(tile, picture)
    return canvas


def _fit_into(tile: UInt8Array, picture: UInt8Array) -> None:
    scale = min(tile.shape[0] / picture.shape[0], tile.shape[1] / picture.shape[1])
    height, width = (max(1, int(side * scale)) for side in picture.shape[:2])
    top, left = (tile.shape[0] - height) // 2, (tile.shape[1] - width) // 2
    resized = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    tile[top : top + height, left : left + width] = resized
