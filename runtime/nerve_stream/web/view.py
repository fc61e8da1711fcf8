"""What the viewers look at: which source, which classes, how strong the colours; and the picture drawn for it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nerve_runtime import BACKGROUND_NAME, FrameResult, UsageError, ignore_label, label_dtype
from nerve_runtime.drawing import OverlayStyle, overlay
from nerve_runtime.opencv import cv2

UInt8Array = NDArray[np.uint8]

SIDE_LIMIT_PX = 1280
"""Of the live picture; a larger frame is shown smaller, so that a viewer costs the same for any camera."""
HEAT_COLOURS = cv2.COLORMAP_VIRIDIS
"""Dark blue (unsure) to yellow (sure): grows in brightness, and colour-blind eyes see the same order."""
HIDDEN_LIMIT = 65536


@dataclass(frozen=True, slots=True)
class View:
    """The settings of the picture, one for all viewers.

    Attributes:
        source: name of the source that is shown; empty before there is one.
        opacity: of the colours, 0 to 1.
        hidden: names of classes that are not drawn.
        heat: show the confidence instead of the classes.
    """

    source: str = ""
    opacity: float = 0.55
    hidden: frozenset[str] = frozenset()
    heat: bool = False

    def changed(self, changes: Mapping[str, Any], sources: tuple[str, ...]) -> "View":
        """The view with some of its settings changed.

        Args:
            changes: by name, as JSON gives them.
            sources: names that `source` may have.

        Raises:
            UsageError: a setting is unknown, or its value makes no sense.
        """
        checks: dict[str, Callable[[Any], bool]] = {
            "source": lambda value: value in sources,
            "opacity": lambda value: type(value) in (int, float) and 0 <= value <= 1,
            "heat": lambda value: type(value) is bool,
            "hidden": lambda value: (
                type(value) is list and len(value) <= HIDDEN_LIMIT and all(type(name) is str for name in value)
            ),
        }
        for name, value in changes.items():
            if name not in checks or not checks[name](value):
                raise UsageError(
                    f"{name[:50]!r} is {value!r:.50}, expected source (one of {', '.join(sources)}), opacity (0 to 1), heat "
                    "(true or false) or hidden (a list of class names)"
                )
        values = {**changes, **({"hidden": frozenset(changes["hidden"])} if "hidden" in changes else {})}
        return replace(self, **values)


def fitted(rgb: UInt8Array, result: FrameResult) -> tuple[UInt8Array, FrameResult]:
    """A frame and its result, made smaller where a side is longer than 1280 pixels."""
    height, width = rgb.shape[:2]
    scale = SIDE_LIMIT_PX / max(height, width)
    if scale >= 1.0:
        return rgb, result
    size = max(1, round(width * scale)), max(1, round(height * scale))
    labels = cv2.resize(result.labels, size, interpolation=cv2.INTER_NEAREST)
    confidence = cv2.resize(result.confidence, size, interpolation=cv2.INTER_NEAREST)
    smaller = replace(result, labels=np.asarray(labels), confidence=np.asarray(confidence, dtype=np.uint8), rgb=None)
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), dtype=np.uint8), smaller


def drawn(rgb: UInt8Array, result: FrameResult, view: View, style: OverlayStyle) -> UInt8Array:
    """The picture of a frame, RGB uint8 (H, W, 3), without the lists that the page has beside it.

    Args:
        rgb: the frame, uint8 (H, W, 3).
        result: its labels, of the same size.
        view: what to show.
        style: of the overlays of this run.
    """
    if view.heat:
        return heat_map(rgb, result.confidence, view.opacity)
    beside = replace(style, opacity=view.opacity, legend=False, status=False)
    return overlay(np.ascontiguousarray(rgb), without_classes(result, view.hidden), beside)


def heat_map(rgb: UInt8Array, confidence: UInt8Array, opacity: float) -> UInt8Array:
    """The brightness of a frame under the colours of its confidence, RGB uint8 (H, W, 3)."""
    grey = cv2.cvtColor(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    heat = cv2.cvtColor(cv2.applyColorMap(confidence, HEAT_COLOURS), cv2.COLOR_BGR2RGB)
    return np.asarray(cv2.addWeighted(grey, 1.0 - opacity, heat, opacity, 0.0), dtype=np.uint8)


def without_classes(result: FrameResult, hidden: frozenset[str]) -> FrameResult:
    """The result with some classes made background, which is drawn as the frame itself; for drawing alone."""
    labels = [label for label, name in enumerate(result.class_names) if name in hidden]
    if not labels:
        return result
    shift = 0 if result.has_background else 1
    names = result.class_names if result.has_background else (BACKGROUND_NAME, *result.class_names)
    dtype = label_dtype(len(names))
    table = np.arange(result.ignore_label + 1) + shift
    table[result.ignore_label] = ignore_label(dtype)
    table[labels] = 0
    return replace(result, labels=table.astype(dtype)[result.labels], class_names=names)
