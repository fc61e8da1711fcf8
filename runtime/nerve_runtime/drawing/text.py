"""Text on pictures: Unicode with OpenCV 5 and later, ASCII before."""

import unicodedata
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nerve_runtime.opencv import cv2

UInt8Array = NDArray[np.uint8]

HAS_UNICODE_FONTS = hasattr(cv2, "FontFace")
LINES_PER_FRAME = 30  # a line of text takes 1/30 of the frame's shorter side, which is 24 px at 720p
SMALLEST_LINE_PX = 14
FONT_NAME = "sans"
FONT_WEIGHT = 500
FONT_PER_LINE = 0.72  # font size as a share of a line's height; the rest separates lines
HERSHEY_SCALE = 0.028  # Hershey simplex capitals are 21 px high at scale 1; this fills two thirds of a line
WHITE = (255, 255, 255)
SHADE = 0.35  # share of the brightness that remains under text; white on it has a contrast of at least 7
CHARACTERS_LIMIT = 32
OUTLINE_PER_LINE = 1 / 10  # width of the dark outline of text on a picture, as a share of a line's height


def frame_line_px(frame_hw: tuple[int, ...]) -> int:
    """Height of a line of text for a frame of (H, W) pixels: 24 at 720p, at least 14."""
    return max(SMALLEST_LINE_PX, min(frame_hw[0], frame_hw[1]) // LINES_PER_FRAME)


def shortened(text: str) -> str:
    """The text on one line, cut to 32 characters with three dots at the end."""
    line = " ".join(text.split())
    return line if len(line) <= CHARACTERS_LIMIT else f"{line[: CHARACTERS_LIMIT - 3].rstrip()}..."


def drawable(text: str) -> str:
    """The text in letters that this OpenCV can draw: ASCII before OpenCV 5."""
    return text if HAS_UNICODE_FONTS else without_accents(text)


def without_accents(text: str) -> str:
    """The text in ASCII: without accents, and `?` for letters without an ASCII form.

    >>> without_accents("B\u00fchne \u7a7a")
    'Buhne ?'
    """
    decomposed = unicodedata.normalize("NFKD", text)
    return (
        "".join(letter for letter in decomposed if not unicodedata.combining(letter))
        .encode("ascii", "replace")
        .decode()
    )


def text_width_px(text: str, line_px: int) -> int:
    """Width of a text in lines of `line_px` pixels."""
    if not HAS_UNICODE_FONTS:
        return cv2.getTextSize(drawable(text), cv2.FONT_HERSHEY_SIMPLEX, line_px * HERSHEY_SCALE, 1)[0][0]
    font: Any = cv2.FontFace(FONT_NAME)
    no_wrap = (1 << 24, line_px)
    x, _, width, _ = cv2.getTextSize(no_wrap, text, (0, 0), font, _font_px(line_px), FONT_WEIGHT)
    return x + width


def draw_text(picture: UInt8Array, text: str, top_left_yx: tuple[int, int], line_px: int) -> None:
    """Draw one line of white text into the picture, in place, clipped at its edges.

    Args:
        picture: uint8 (H, W, 3).
        text: any; letters that cannot be drawn become question marks.
        top_left_yx: corner of the line in pixels.
        line_px: height of the line in pixels.
    """
    origin = (top_left_yx[1], top_left_yx[0] + line_px * 3 // 4)
    if not HAS_UNICODE_FONTS:
        scale, weight = line_px * HERSHEY_SCALE, max(1, line_px // 24)
        cv2.putText(picture, drawable(text), origin, cv2.FONT_HERSHEY_SIMPLEX, scale, WHITE, weight, cv2.LINE_AA)
        return
    font: Any = cv2.FontFace(FONT_NAME)
    cv2.putText(
        picture, text, origin, WHITE, font, _font_px(line_px), FONT_WEIGHT, cv2.PUT_TEXT_ALIGN_LEFT, (0, 1 << 24)
    )


def outlined_size_hw(text: str, line_px: int) -> tuple[int, int]:
    """Height and width in pixels of what `draw_outlined_text` draws."""
    return line_px, text_width_px(text, line_px) + 2 * _outline_px(line_px)


def draw_outlined_text(picture: UInt8Array, text: str, top_left_yx: tuple[int, int], line_px: int) -> None:
    """Draw one line of white text with a black outline into the picture, in place, clipped at its edges.

    It can be read on anything.

    Args:
        picture: uint8 (H, W, 3).
        text: any; letters that cannot be drawn become question marks.
        top_left_yx: corner of the box of `outlined_size_hw`, in pixels.
        line_px: height of the line in pixels.
    """
    ink, around = _outlined_letters(text, line_px, HAS_UNICODE_FONTS)
    top, left = max(0, top_left_yx[0]), max(0, top_left_yx[1])
    box = picture[top : top_left_yx[0] + ink.shape[0], left : top_left_yx[1] + ink.shape[1]]
    if not box.size:
        return
    y, x = top - top_left_yx[0], left - top_left_yx[1]
    part = np.s_[y : y + box.shape[0], x : x + box.shape[1]]
    box[:] = cv2.add(cv2.multiply(box, around[part], scale=1 / 255), ink[part])


@lru_cache(maxsize=256)
def _outlined_letters(text: str, line_px: int, _unicode_fonts: bool) -> tuple[UInt8Array, UInt8Array]:
    """The letters in white on black, and what is left of the picture around them, both uint8 (h, w, 3)."""
    outline = _outline_px(line_px)
    ink = np.zeros((*outlined_size_hw(text, line_px), 3), dtype=np.uint8)
    draw_text(ink, text, (0, outline), line_px)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * outline + 1, 2 * outline + 1))
    return ink, np.asarray(cv2.bitwise_not(cv2.dilate(ink, kernel)), dtype=np.uint8)


def _outline_px(line_px: int) -> int:
    return max(1, round(line_px * OUTLINE_PER_LINE))


def shade(picture: UInt8Array, top_left_yx: tuple[int, int], size_hw: tuple[int, int]) -> None:
    """Darken a box of the picture, in place, so that white text can be read on it; clipped at the edges."""
    top, left = max(0, top_left_yx[0]), max(0, top_left_yx[1])
    box = picture[top : top_left_yx[0] + size_hw[0], left : top_left_yx[1] + size_hw[1]]
    if box.size:
        box[:] = cv2.convertScaleAbs(box, alpha=SHADE)


def _font_px(line_px: int) -> int:
    return max(1, round(line_px * FONT_PER_LINE))
