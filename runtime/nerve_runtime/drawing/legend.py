"""The classes seen and their share of the picture: in a corner of it, or on a strip beside it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nerve_runtime.drawing.boxes import Box
from nerve_runtime.drawing.colours import NO_LABEL_GREY, class_colours
from nerve_runtime.drawing.labelled import LabelledFrame
from nerve_runtime.drawing.text import draw_text, frame_line_px, shade, shortened, text_width_px
from nerve_runtime.labels import Labels, ignore_label
from nerve_runtime.opencv import cv2

UInt8Array = NDArray[np.uint8]
Int64Array = NDArray[np.int64]

LEGEND_SHARE = 0.7  # of the frame's height at most
LINES_LIMIT = 20
LEAST_SHARE = 0.001  # of the frame; less is a speck, and its line would come and go from frame to frame
STRIP_GREY = 32
STRIP_LINES = 4  # a strip has room for so many lines, also beside a picture that is less high


@dataclass(frozen=True, slots=True)
class LegendEntry:
    """A line of the legend; without a colour it has no square."""

    text: str
    colour: tuple[int, int, int] | None


def label_areas(labels: Labels) -> Int64Array:
    """Pixels of each label, int64 (256,), or (65536,) of 16-bit labels; the last counts those without a label."""
    # OpenCV's histogram takes a quarter of the time of NumPy's bincount, which copies to 64 bit first.
    levels = ignore_label(labels.dtype) + 1
    histogram = cv2.calcHist([labels], [0], None, [levels], [0, levels])
    return np.asarray(histogram, dtype=np.int64).ravel()


def legend_entries(result: LabelledFrame, areas: Int64Array, without: Collection[int] = ()) -> list[LegendEntry]:
    """A line for every class that covers at least 0.1 % of the frame, largest first; the background has no colour.

    Args:
        result: labels and names.
        areas: the `label_areas` of the labels.
        without: labels to leave out.
    """
    if not result.valid:
        return [LegendEntry("no valid scores", NO_LABEL_GREY)]
    table = class_colours(result.class_names)
    entries = []
    seen = np.flatnonzero(areas[:-1] >= LEAST_SHARE * result.labels.size)
    for label in seen[np.argsort(-areas[seen], kind="stable")].tolist():
        share = areas[label] / result.labels.size
        if label not in without:
            red, green, blue = table[label].tolist()
            percent = f"{100 * share:.0f}%" if share >= 0.005 else "<1%"
            colour = None if result.has_background and label == 0 else (red, green, blue)
            entries.append(LegendEntry(f"{shortened(result.class_names[label])} {percent}", colour))
    return entries


def with_legend(picture: UInt8Array, result: LabelledFrame) -> UInt8Array:
    """A picture with the legend on a dark strip to the right of it, uint8 (at least H, wider than W, 3).

    All classes of `legend_entries` are listed, in as many columns as they need. The strip covers nothing of the picture:
    draw that one with `OverlayStyle(legend=False)`. A picture too low for four lines of text gets a dark margin below.

    Args:
        picture: the frame or its overlay, uint8 (H, W, 3); it is not changed.
        result: what the frame was segmented into.
    """
    line_px = frame_line_px(picture.shape[:2])
    margin = line_px // 2
    height = max(picture.shape[0], STRIP_LINES * line_px + 2 * margin)
    entries = legend_entries(result, label_areas(result.labels))
    rows = (height - 2 * margin) // line_px
    columns = [entries[start : start + rows] for start in range(0, len(entries), rows)]
    widths = [_width_px(column, line_px) for column in columns]
    canvas = np.full((height, picture.shape[1] + sum(widths) + margin, 3), STRIP_GREY, dtype=np.uint8)
    canvas[: picture.shape[0], : picture.shape[1]] = picture
    left = picture.shape[1] + margin // 2
    for column, width in zip(columns, widths, strict=True):
        _draw_entries(canvas, column, (margin, left), line_px)
        left += width
    return canvas


def fit_to_corner(
    entries: Sequence[LegendEntry], result: LabelledFrame, line_px: int, taken: Sequence[Box]
) -> tuple[list[LegendEntry], Box] | None:
    """The lines of a legend on the picture and its box: in the corner, free of `taken` boxes, where it hides least.

    Of corners that hide the same share of labelled pixels, in tenths, it is upper left before upper right before lower
    right, so that the legend stays where it is when nothing much changes. Where there is no room for all lines the last
    one counts those left out; None when there is no room at all.
    """
    height, width = result.labels.shape
    for rows in range(min(len(entries), LINES_LIMIT, int(height * LEGEND_SHARE) // line_px), 0, -1):
        left_out = len(entries) - rows + 1
        more = [LegendEntry(f"and {left_out} more", None)]
        lines = list(entries) if left_out == 1 else [*entries[: rows - 1], *more]
        size_hw = line_px * rows + 2 * (line_px // 3), min(width, _width_px(lines, line_px))
        right, bottom = width - size_hw[1], height - size_hw[0]
        corners = [Box(top, left, size_hw[0], size_hw[1]) for top, left in ((0, 0), (0, right), (bottom, right))]
        free = [box for box in corners if not any(box.overlaps(other) for other in taken)]
        if free:
            return lines, min(free, key=lambda box: _hidden_tenths(box, result))
    return None


def draw_legend(picture: UInt8Array, entries: Sequence[LegendEntry], box: Box, line_px: int) -> None:
    """Draw the lines of `fit_to_corner` into the picture, uint8 (H, W, 3), in place."""
    shade(picture, (box.top, box.left), (box.height, box.width))
    _draw_entries(picture, entries, (box.top + line_px // 3, box.left), line_px)


def _hidden_tenths(box: Box, result: LabelledFrame) -> int:
    below = result.labels[box.pixels]
    labelled = below != result.ignore_label
    if result.has_background:
        labelled &= below != 0
    return round(10 * float(labelled.mean()))


def _width_px(entries: Sequence[LegendEntry], line_px: int) -> int:
    return max(text_width_px(entry.text, line_px) for entry in entries) + line_px + 3 * (line_px // 3)


def _draw_entries(
    picture: UInt8Array, entries: Sequence[LegendEntry], top_left_yx: tuple[int, int], line_px: int
) -> None:
    margin, side = line_px // 3, line_px * 2 // 3
    for row, entry in enumerate(entries):
        top, left = top_left_yx[0] + row * line_px, top_left_yx[1]
        if entry.colour is not None:
            corner = (left + margin, top + (line_px - side) // 2)
            cv2.rectangle(picture, corner, (corner[0] + side - 1, corner[1] + side - 1), entry.colour, cv2.FILLED)
        draw_text(picture, entry.text, (top, left + line_px + margin), line_px)
