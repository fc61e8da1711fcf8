"""Labels drawn over a frame: colours or outlines, a legend, and a line with frame rate and keyframe age."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nerve_runtime import IGNORE_LABEL, FrameResult, UsageError
from nerve_runtime.opencv import cv2
from nerve_stream.drawing.colours import NO_LABEL_GREY, PALETTE_LIMIT, class_colours
from nerve_stream.drawing.text import draw_text, shade, shortened, text_width_px

UInt8Array = NDArray[np.uint8]

LINES_PER_FRAME = 30  # a line of text takes 1/30 of the frame's shorter side, which is 24 px at 720p
SMALLEST_LINE_PX = 14
# With fewer than four lines of height, text would cover the picture.
SMALLEST_LETTERED_HW = (4 * SMALLEST_LINE_PX, 6 * SMALLEST_LINE_PX)
LEGEND_SHARE = 0.7  # of the frame's height at most
LEGEND_LINES_LIMIT = 20
OUTLINE_PER_FRAME = 1 / 360  # 2 px at 720p
INSIDE_OUTLINES = 0.12  # opacity inside outlines, as a share of the whole: shows which side of a line is meant
HATCH_PERIOD_PX = 12
HATCH_LINE_PX = 3
HATCH_LIGHT = (200, 200, 200)


@dataclass(frozen=True, slots=True)
class OverlayStyle:
    """How labels are drawn over a frame.

    Attributes:
        opacity: of the colours; 0 shows the frame, 1 the labels.
        contours: draw an outline inside each region's edge (2 px at 720p) and colour the rest only faintly.
        dim_by_confidence: multiply the opacity by the confidence, so that uncertain regions look pale.
        legend: list the classes seen with their share of the picture, largest first, in the upper left.
        status: write frames a second, milliseconds and the age of the keyframe in the lower left.

    Raises:
        UsageError: the opacity is outside 0 to 1.
    """

    opacity: float = 0.55
    contours: bool = False
    dim_by_confidence: bool = False
    legend: bool = True
    status: bool = True

    def __post_init__(self) -> None:
        """Check the opacity."""
        if not 0.0 <= self.opacity <= 1.0:
            raise UsageError(f"opacity is {self.opacity}, expected 0 to 1")


DEFAULT_STYLE = OverlayStyle()


def overlay(
    rgb: UInt8Array, result: FrameResult, style: OverlayStyle = DEFAULT_STYLE, *, fps: float | None = None
) -> UInt8Array:
    """The frame with its labels drawn over it, uint8 (H, W, 3); the frame itself is not changed.

    Classes have the colours of `class_colours`. The background class stays uncoloured, and where there is no label
    (255) the picture is hatched in grey. Frames under 56 x 84 pixels get no text.

    Args:
        rgb: the frame that `result` was made from, uint8 (H, W, 3).
        result: its labels, of the same size.
        style: what to draw.
        fps: frames a second for the status line, None to leave it out.
    """
    table = class_colours(result.class_names)
    colours = np.asarray(cv2.applyColorMap(result.labels, table[:, None]), dtype=np.uint8)
    picture = _coloured(rgb, colours, result, style)
    _draw_edges(picture, colours, result, style)
    _hatch_no_label(picture, result.labels)
    if picture.shape[0] >= SMALLEST_LETTERED_HW[0] and picture.shape[1] >= SMALLEST_LETTERED_HW[1]:
        line_px = max(SMALLEST_LINE_PX, min(picture.shape[:2]) // LINES_PER_FRAME)
        if style.legend:
            _draw_legend(picture, _legend_entries(result, table), line_px)
        if style.status:
            _draw_status(picture, status_text(result, fps), line_px)
    return picture


def status_text(result: FrameResult, fps: float | None) -> str:
    """The status line: frames a second, milliseconds of this frame, and `KEY` or the age of the keyframe in frames."""
    parts = [] if fps is None else [f"{fps:.1f} fps"]
    if "total" in result.timings_ms:
        parts.append(f"{result.timings_ms['total']:.0f} ms")
    parts.append("KEY" if result.keyframe else f"age {result.affinity_age}")
    return "  ".join(parts)


def _coloured(rgb: UInt8Array, colours: UInt8Array, result: FrameResult, style: OverlayStyle) -> UInt8Array:
    opacity = style.opacity * (INSIDE_OUTLINES if style.contours else 1.0)
    if style.dim_by_confidence:
        mixed = _dimmed(rgb, colours, result.confidence, opacity)
    else:
        mixed = np.asarray(cv2.addWeighted(rgb, 1.0 - opacity, colours, opacity, 0.0), dtype=np.uint8)
    if result.has_background:
        cv2.copyTo(rgb, (result.labels == 0).view(np.uint8), mixed)
    return mixed


def _dimmed(rgb: UInt8Array, colours: UInt8Array, confidence: UInt8Array, opacity: float) -> UInt8Array:
    alpha = cv2.cvtColor(cv2.convertScaleAbs(confidence, alpha=opacity), cv2.COLOR_GRAY2BGR)
    over = cv2.multiply(colours, alpha, scale=1 / 255)
    under = cv2.multiply(rgb, cv2.bitwise_not(alpha), scale=1 / 255)
    return np.asarray(cv2.add(over, under), dtype=np.uint8)


def _draw_edges(picture: UInt8Array, colours: UInt8Array, result: FrameResult, style: OverlayStyle) -> None:
    """Draw lines in full colour where labels change: one pixel wide, or with `contours` an outline of each region."""
    edges = _label_edges(result.labels, outline_px(picture.shape[0]) if style.contours else 0)
    if style.opacity < 1.0 and not style.contours:
        # An edge in full colour on a pale picture would dominate; 1.6 times the opacity is clearly visible.
        strength = min(1.0, 1.6 * style.opacity)
        colours = np.asarray(cv2.addWeighted(picture, 1.0 - strength, colours, strength, 0.0), dtype=np.uint8)
    if result.has_background:
        edges *= result.labels != 0
    cv2.copyTo(colours, edges, picture)


def outline_px(height: int) -> int:
    """Width of an outline in a frame of so many pixels' height: 2 at 720p, at least 1."""
    return max(1, round(height * OUTLINE_PER_FRAME))


def _label_edges(labels: UInt8Array, width_px: int) -> UInt8Array:
    """Non-zero within `width_px` of another label, uint8 (H, W); with 0 only to the right of and below an edge."""
    side = 2 * width_px + 1 if width_px else 2
    kernel = np.ones((side, side), dtype=np.uint8)
    gradient = cv2.morphologyEx(labels, cv2.MORPH_GRADIENT, kernel, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(gradient, dtype=np.uint8)


def _hatch_no_label(picture: UInt8Array, labels: UInt8Array) -> None:
    unlabelled = labels == IGNORE_LABEL
    if not unlabelled.any():
        return
    rows, columns = np.ogrid[: labels.shape[0], : labels.shape[1]]
    lines = (rows + columns) % HATCH_PERIOD_PX < HATCH_LINE_PX
    picture[unlabelled & lines] = HATCH_LIGHT


def _draw_legend(picture: UInt8Array, entries: list[tuple[str, tuple[int, int, int] | None]], line_px: int) -> None:
    rows = min(LEGEND_LINES_LIMIT, int(picture.shape[0] * LEGEND_SHARE) // line_px)
    if len(entries) > rows:
        entries = [*entries[: rows - 1], (f"and {len(entries) - rows + 1} more", None)]
    margin = line_px // 3
    width = max(text_width_px(text, line_px) for text, _ in entries) + line_px + 3 * margin
    shade(picture, (0, 0), (line_px * len(entries) + 2 * margin, width))
    for row, (text, colour) in enumerate(entries):
        top, side = margin + row * line_px, line_px * 2 // 3
        corner = (margin, top + (line_px - side) // 2)
        opposite = (corner[0] + side - 1, corner[1] + side - 1)
        if colour is not None:
            cv2.rectangle(picture, corner, opposite, colour, cv2.FILLED)
        draw_text(picture, text, (top, line_px + margin), line_px)


def _draw_status(picture: UInt8Array, text: str, line_px: int) -> None:
    margin = line_px // 3
    top = picture.shape[0] - line_px - 2 * margin
    shade(picture, (top, 0), (line_px + 2 * margin, text_width_px(text, line_px) + 3 * margin))
    draw_text(picture, text, (top + margin, margin), line_px)


def _legend_entries(result: FrameResult, table: UInt8Array) -> list[tuple[str, tuple[int, int, int] | None]]:
    """Text and colour of every line; the background has no colour, as in the picture."""
    if not result.valid:
        return [("no valid scores", NO_LABEL_GREY)]
    # OpenCV's histogram takes a quarter of the time of NumPy's bincount, which copies to 64 bit first.
    histogram = cv2.calcHist([result.labels], [0], None, [PALETTE_LIMIT], [0, PALETTE_LIMIT])
    counts = np.asarray(histogram, dtype=np.int64).ravel()[:IGNORE_LABEL]
    transparent = result.has_background
    entries: list[tuple[str, tuple[int, int, int] | None]] = []
    for label in np.argsort(-counts, kind="stable"):
        if not counts[label]:
            break
        red, green, blue = (int(channel) for channel in table[label])
        text = f"{shortened(result.class_names[label])} {100.0 * counts[label] / result.labels.size:.0f}%"
        entries.append((text, None if transparent and label == 0 else (red, green, blue)))
    return entries
