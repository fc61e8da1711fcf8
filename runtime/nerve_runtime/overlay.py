"""Labels drawn over a frame, with a legend; stable colours for class indices."""

import colorsys

import numpy as np
from numpy.typing import NDArray

from nerve_runtime.opencv import cv2
from nerve_runtime.result import IGNORE_LABEL, FrameResult

UInt8Array = NDArray[np.uint8]

# Steps of the golden ratio spread hues evenly for any number of classes, and never move the earlier ones.
GOLDEN_RATIO = 0.6180339887498949
FIRST_HUE = 0.02
SATURATION_AND_VALUE = ((0.85, 0.95), (0.55, 1.0), (0.9, 0.6))
IGNORE_GREY = (128, 128, 128)
PALETTE_LIMIT = 256

LEGEND_ROWS_PER_FRAME = 22  # a legend line takes 1/22 of the frame's height
LEGEND_LINES_LIMIT = 20
LEGEND_SHADE = 0.45
TEXT_PER_LINE = 0.028  # Hershey simplex capitals are 21 px high at scale 1; this fills two thirds of a line
SMALLEST_LINE_PX = 14


def palette(n: int) -> UInt8Array:
    """Distinct RGB colours, uint8 (n, 3), at most 256; colour i does not depend on n. Colour 255 is grey: no label."""
    colours = []
    for index in range(min(n, PALETTE_LIMIT)):
        saturation, value = SATURATION_AND_VALUE[index % len(SATURATION_AND_VALUE)]
        colours.append(colorsys.hsv_to_rgb((FIRST_HUE + index * GOLDEN_RATIO) % 1.0, saturation, value))
    table = np.rint(np.array(colours).reshape(-1, 3) * 255).astype(np.uint8)
    table[IGNORE_LABEL:] = IGNORE_GREY
    return table


def overlay(rgb: UInt8Array, result: FrameResult, *, opacity: float = 0.55) -> UInt8Array:
    """The frame with its labels' colours over it and a legend of the classes seen, largest first; uint8 (H, W, 3).

    Args:
        rgb: the frame that `result` was made from, uint8 (H, W, 3).
        result: its labels, of the same size.
        opacity: 0 leaves the frame, 1 hides it behind the colours.
    """
    colours = palette(PALETTE_LIMIT)[result.labels]
    mixed = cv2.addWeighted(rgb, 1.0 - opacity, colours, opacity, 0.0)
    edges = _label_edges(result.labels)
    mixed[edges] = colours[edges]
    return _with_legend(np.asarray(mixed, dtype=np.uint8), result)


def _label_edges(labels: UInt8Array) -> NDArray[np.bool_]:
    edges = np.zeros(labels.shape, dtype=np.bool_)
    edges[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edges[1:] |= labels[1:] != labels[:-1]
    return edges


def _with_legend(picture: UInt8Array, result: FrameResult) -> UInt8Array:
    entries = _legend_entries(result)
    line_px = max(SMALLEST_LINE_PX, picture.shape[0] // LEGEND_ROWS_PER_FRAME)
    scale = line_px * TEXT_PER_LINE
    widths = [cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)[0][0] for text, _ in entries]
    box = picture[: line_px * len(entries) + line_px // 2, : max(widths) + 2 * line_px]
    box[:] = (box * LEGEND_SHADE).astype(np.uint8)
    for row, (text, colour) in enumerate(entries):
        top = row * line_px + line_px // 4
        left, baseline = line_px // 4, top + line_px * 3 // 4
        cv2.rectangle(picture, (left, top + line_px // 8), (left + line_px * 3 // 4, baseline), colour, cv2.FILLED)
        origin = (left + line_px, baseline)
        cv2.putText(picture, text, origin, cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), 1, cv2.LINE_AA)
    return picture


def _legend_entries(result: FrameResult) -> list[tuple[str, tuple[int, int, int]]]:
    if not result.valid:
        return [("no valid scores", IGNORE_GREY)]
    counts = np.bincount(result.labels.ravel(), minlength=PALETTE_LIMIT)[:IGNORE_LABEL]
    seen = [int(label) for label in np.argsort(-counts, kind="stable") if counts[label]]
    colours = palette(PALETTE_LIMIT)
    entries = []
    for label in seen[:LEGEND_LINES_LIMIT]:
        red, green, blue = (int(part) for part in colours[label])
        share = 100.0 * counts[label] / result.labels.size
        # OpenCV's fonts draw ASCII only; other letters become question marks.
        name = result.class_names[label].encode("ascii", "replace").decode()
        entries.append((f"{name} {share:.0f}%", (red, green, blue)))
    return entries
