"""Labels drawn over a frame: colours or outlines, names, a legend, and a line with frame rate and keyframe age."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nerve_runtime.drawing.boxes import Box
from nerve_runtime.drawing.colours import USUAL_OPACITY, class_colours
from nerve_runtime.drawing.labelled import LabelledFrame
from nerve_runtime.drawing.legend import draw_legend, fit_to_corner, label_areas, legend_entries
from nerve_runtime.drawing.region_names import PlacedName, draw_names, place_names
from nerve_runtime.drawing.text import SMALLEST_LINE_PX, draw_text, frame_line_px, shade, text_width_px
from nerve_runtime.errors import UsageError
from nerve_runtime.labels import Labels, ignore_label
from nerve_runtime.opencv import cv2

UInt8Array = NDArray[np.uint8]

# With fewer than four lines of height, text would cover the picture.
SMALLEST_LETTERED_HW = (4 * SMALLEST_LINE_PX, 6 * SMALLEST_LINE_PX)
OUTLINE_PER_FRAME = 1 / 360  # 2 px at 720p
INSIDE_OUTLINES = 0.12  # opacity inside outlines, as a share of the whole: shows which side of a line is meant
HATCH_PERIOD_PX = 12
HATCH_LINE_PX = 3
HATCH_LIGHT = (200, 200, 200)


@dataclass(frozen=True, slots=True)
class OverlayStyle:
    """How labels are drawn over a frame.

    Attributes:
        opacity: of the colours; 0 shows the frame as it is, 1 the labels.
        contours: draw an outline inside each region's edge (2 px at 720p) and colour the rest only faintly.
        dim_by_confidence: multiply the opacity by the confidence, so that uncertain regions look grey.
        legend: list the classes whose names are not written on their regions, with their share of the picture, largest
            first, in the corner where that hides least.
        status: write frames a second, milliseconds a frame and the age of the keyframe in the lower left.
        names: write the name of each class on its largest free spot, from 1.5 % of the picture on.

    Raises:
        UsageError: the opacity is outside 0 to 1.
    """

    opacity: float = USUAL_OPACITY
    contours: bool = False
    dim_by_confidence: bool = False
    legend: bool = True
    status: bool = True
    names: bool = True

    def __post_init__(self) -> None:
        """Check the opacity."""
        if not 0.0 <= self.opacity <= 1.0:
            raise UsageError(f"opacity is {self.opacity}, expected 0 to 1")


DEFAULT_STYLE = OverlayStyle()


def overlay(
    rgb: UInt8Array, result: LabelledFrame, style: OverlayStyle = DEFAULT_STYLE, *, fps: float | None = None
) -> UInt8Array:
    """The frame with its labels drawn over it, uint8 (H, W, 3); the frame itself is not changed.

    Classes have the colours of `class_colours`, blended with the brightness of the frame and not with its colours:
    whatever lies below, two classes differ by the opacity times the difference of their colours. With `contours` the
    frame keeps its colours and is tinted. The background class stays as it is, and where there is no label the picture
    is hatched in grey. Frames under 56 x 84 pixels get no text.

    Args:
        rgb: the frame that `result` was made from, uint8 (H, W, 3).
        result: its labels, of the same size.
        style: what to draw.
        fps: frames a second for the status line, None to leave it out.
    """
    colours = _label_colours(result)
    picture = _coloured(rgb, colours, result, style)
    _draw_edges(picture, colours, result, style)
    _hatch_no_label(picture, result.labels)
    if picture.shape[0] >= SMALLEST_LETTERED_HW[0] and picture.shape[1] >= SMALLEST_LETTERED_HW[1]:
        _write(picture, result, style, fps)
    return picture


def status_text(result: LabelledFrame, fps: float | None) -> str:
    """The status line, such as `12.3 frames/s, 81 ms a frame, 4 frames after a keyframe`."""
    return ", ".join(_status_parts(result, fps))


def _status_parts(result: LabelledFrame, fps: float | None) -> list[str]:
    parts = [] if fps is None else [f"{fps:.1f} frames/s"]
    if "total" in result.timings_ms:
        parts.append(f"{result.timings_ms['total']:.0f} ms a frame")
    age = result.affinity_age
    parts.append("keyframe" if result.keyframe else f"{age} frame{'' if age == 1 else 's'} after a keyframe")
    return parts


def _write(picture: UInt8Array, result: LabelledFrame, style: OverlayStyle, fps: float | None) -> None:
    """Write the status line, then the names where it leaves room, then the legend where both do."""
    line_px = frame_line_px(picture.shape[:2])
    areas = 2 * label_areas(result.labels[::2])  # every second row: half the time, and the same whole percents
    taken: list[Box] = []
    if style.status:
        taken.append(_draw_status(picture, _status_parts(result, fps), line_px))
    names: list[PlacedName] = []
    if style.names:
        without_background = areas.copy()
        without_background[0] *= not result.has_background
        names = place_names(result.labels, without_background, result.class_names, line_px, taken)
        draw_names(picture, names, line_px)
    if style.legend:
        unnamed = legend_entries(result, areas, _explained(result, names) if style.names else ())
        fitting = fit_to_corner(unnamed, result, line_px, [*taken, *(name.box for name in names)])
        if fitting is not None:
            draw_legend(picture, *fitting, line_px)


def _explained(result: LabelledFrame, names: list[PlacedName]) -> set[int]:
    """The labels that need no line in a legend: those with a name on the picture, and the background."""
    return {name.label for name in names} | ({0} if result.has_background else set())


def _coloured(rgb: UInt8Array, colours: UInt8Array, result: LabelledFrame, style: OverlayStyle) -> UInt8Array:
    if style.opacity == 0.0:
        return rgb.copy()
    opacity = style.opacity * (INSIDE_OUTLINES if style.contours else 1.0)
    below = rgb if style.contours else _brightness(rgb)
    if style.dim_by_confidence:
        mixed = _dimmed(below, colours, result.confidence, opacity)
    else:
        # New arrays of a frame's size cost as much as the arithmetic, so results go where they are free to.
        into = None if below is rgb else below
        mixed = np.asarray(cv2.addWeighted(below, 1.0 - opacity, colours, opacity, 0.0, into), dtype=np.uint8)
    if result.has_background:
        cv2.copyTo(rgb, (result.labels == 0).view(np.uint8), mixed)
    return mixed


def _label_colours(result: LabelledFrame) -> UInt8Array:
    """The colour of each pixel's label, uint8 (H, W, 3)."""
    table = class_colours(result.class_names)
    if result.labels.dtype == np.uint8:
        return np.asarray(cv2.applyColorMap(result.labels, table[:, None]), dtype=np.uint8)
    # OpenCV has no table of more than 256 colours; `take` needs half the time of `table[labels]`.
    return np.asarray(np.take(table, result.labels, axis=0))


def _brightness(rgb: UInt8Array) -> UInt8Array:
    """The frame without its colours, uint8 (H, W, 3): luma of ITU-R BT.601, 0.299 R + 0.587 G + 0.114 B."""
    return np.asarray(cv2.cvtColor(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB), dtype=np.uint8)


def _dimmed(below: UInt8Array, colours: UInt8Array, confidence: UInt8Array, opacity: float) -> UInt8Array:
    alpha = cv2.cvtColor(cv2.convertScaleAbs(confidence, alpha=opacity), cv2.COLOR_GRAY2BGR)
    over = cv2.multiply(colours, alpha, scale=1 / 255)
    under = cv2.multiply(below, cv2.bitwise_not(alpha, alpha), alpha, scale=1 / 255)
    return np.asarray(cv2.add(over, under, over), dtype=np.uint8)


def _draw_edges(picture: UInt8Array, colours: UInt8Array, result: LabelledFrame, style: OverlayStyle) -> None:
    """Draw lines in full colour where labels change: one pixel wide, or with `contours` an outline of each region.

    `colours` is used up.
    """
    edges = _label_edges(result.labels, outline_px(picture.shape[0]) if style.contours else 0)
    if style.opacity < 1.0 and not style.contours:
        # An edge in full colour on a pale picture would dominate; 1.6 times the opacity is clearly visible.
        strength = min(1.0, 1.6 * style.opacity)
        cv2.addWeighted(picture, 1.0 - strength, colours, strength, 0.0, colours)
    if result.has_background:
        edges *= result.labels != 0
    cv2.copyTo(colours, edges, picture)


def outline_px(height: int) -> int:
    """Width of an outline in a frame of so many pixels' height: 2 at 720p, at least 1."""
    return max(1, round(height * OUTLINE_PER_FRAME))


def _label_edges(labels: Labels, width_px: int) -> UInt8Array:
    """Non-zero within `width_px` of another label, uint8 (H, W); with 0 only to the right of and below an edge."""
    side = 2 * width_px + 1 if width_px else 2
    kernel = np.ones((side, side), dtype=np.uint8)
    gradient = cv2.morphologyEx(labels, cv2.MORPH_GRADIENT, kernel, borderType=cv2.BORDER_REPLICATE)
    # Labels may differ by 256, whose lower byte is 0.
    return np.asarray(gradient if gradient.dtype == np.uint8 else (gradient != 0).view(np.uint8))


def _hatch_no_label(picture: UInt8Array, labels: Labels) -> None:
    unlabelled = labels == ignore_label(labels.dtype)
    if not unlabelled.any():
        return
    rows, columns = np.ogrid[: labels.shape[0], : labels.shape[1]]
    lines = (rows + columns) % HATCH_PERIOD_PX < HATCH_LINE_PX
    picture[unlabelled & lines] = HATCH_LIGHT


def _draw_status(picture: UInt8Array, parts: list[str], line_px: int) -> Box:
    """Write as many parts of the status line as fit, in the lower left, and return the box that they take."""
    margin = line_px // 3
    while len(parts) > 1 and text_width_px(", ".join(parts), line_px) + 3 * margin > picture.shape[1]:
        parts = parts[:-1]
    text, height = ", ".join(parts), line_px + 2 * margin
    box = Box(picture.shape[0] - height, 0, height, text_width_px(text, line_px) + 3 * margin)
    shade(picture, (box.top, box.left), (box.height, box.width))
    draw_text(picture, text, (box.top + margin, margin), line_px)
    return box
