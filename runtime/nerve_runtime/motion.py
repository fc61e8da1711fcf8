"""Where the surfaces of a frame were before: in the frame before it, and in the keyframe."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nerve_runtime.opencv import cv2

FLOW_SIDE_PX = 256
"""Longest side at which motion is measured: 2 ms on one CPU core, and several pixels a token at any preset."""
LOST_LEVELS = 14.0
"""Mean difference of a 5 x 5 window, in grey levels, above which two places do not show the same surface.

Chosen on validation clips, whose noise has a standard deviation of 4; cuts trace at most 0.31 of the picture then, and
frames of one shot at least 0.63.
"""
WINDOW_PX = (5, 5)

FloatArray = NDArray[np.float32]
UInt8Array = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Motion:
    """Inputs of the stages `carry`, `local_carried` and `walk_carried`; p tokens, row-major over the grid.

    Attributes:
        origin_tokens: int64 (p,), token of the keyframe that showed the same surface.
        origin_visible: float32 (p,), confidence in that, 0 to 1.
        previous_tokens: int64 (4, p), tokens of the frame before around the place a token came from.
        previous_weights: float32 (4, p), their bilinear weights times the confidence in that, 0 to 1.
    """

    origin_tokens: NDArray[np.int64]
    origin_visible: FloatArray
    previous_tokens: NDArray[np.int64]
    previous_weights: FloatArray

    @property
    def traced(self) -> float:
        """Share of the picture that was found in the frame before, 0 to 1."""
        return float(self.previous_weights.sum(axis=0).mean())

    @property
    def visible(self) -> float:
        """Share of the picture that was found in the keyframe, 0 to 1."""
        return float(self.origin_visible.mean())


class MotionTracker:
    """Follows a picture by dense optical flow (DIS) between successive frames, chained back to the keyframe.

    State: the frame before and the keyframe in grey, and the place in the keyframe of each pixel of the former.

    Args:
        grid_hw: token grid of the results.
    """

    def __init__(self, grid_hw: tuple[int, int]) -> None:
        self._grid_hw = grid_hw
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self._previous: UInt8Array | None = None
        self._keyframe: UInt8Array | None = None
        self._origins: FloatArray | None = None
        self._identity: FloatArray | None = None

    def follow(self, rgb: UInt8Array) -> Motion | None:
        """Take the next frame, uint8 (H, W, 3) of the working size; None when there is none before it."""
        grey, previous, self._previous = grey_picture(rgb), self._previous, None
        if previous is None or self._keyframe is None or self._origins is None:
            self._previous = grey
            return None
        places = self._identity_map(grey) + self._flow.calc(grey, previous, None)  # type: ignore[call-overload]  # None: no first guess
        self._origins = _sampled(self._origins, places)
        seen_before = matches(grey, previous, places)
        seen_in_keyframe = matches(grey, self._keyframe, self._origins)
        self._previous = grey
        tokens, weights = self._around(places, seen_before)
        return Motion(self._nearest(self._origins), self._shares(seen_in_keyframe), tokens, weights)

    def begin(self) -> None:
        """Make the latest frame the keyframe."""
        if self._previous is not None:
            self._keyframe, self._origins = self._previous, self._identity_map(self._previous)

    def forget(self) -> None:
        """Drop all frames, as before the first one."""
        self._previous = self._keyframe = self._origins = None

    def _identity_map(self, grey: UInt8Array) -> FloatArray:
        """Each pixel's own coordinates (H, W, 2), x first; read only."""
        if self._identity is None or self._identity.shape[:2] != grey.shape:
            y, x = np.mgrid[0 : grey.shape[0], 0 : grey.shape[1]].astype(np.float32)
            self._identity = np.stack([x, y], axis=2)
        return self._identity

    def _token_places(self, places: FloatArray) -> FloatArray:
        """Places of pixels (H, W, 2), x first, as places of tokens in units of tokens (h, w, 2)."""
        height, width = self._grid_hw
        pooled = cv2.resize(places, (width, height), interpolation=cv2.INTER_AREA)
        scale = np.array([width / places.shape[1], height / places.shape[0]], dtype=np.float32)
        return np.asarray((pooled + 0.5) * scale - 0.5, dtype=np.float32)

    def _shares(self, pixels: NDArray[np.bool_]) -> FloatArray:
        height, width = self._grid_hw
        share = cv2.resize(pixels.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
        return np.asarray(share, dtype=np.float32).reshape(-1)

    def _index(self, x: NDArray[np.int64], y: NDArray[np.int64]) -> NDArray[np.int64]:
        height, width = self._grid_hw
        return np.clip(y, 0, height - 1) * width + np.clip(x, 0, width - 1)

    def _nearest(self, places: FloatArray) -> NDArray[np.int64]:
        x, y = np.moveaxis(np.rint(self._token_places(places)).astype(np.int64), 2, 0)
        return self._index(x, y).reshape(-1)

    def _around(self, places: FloatArray, seen: NDArray[np.bool_]) -> tuple[NDArray[np.int64], FloatArray]:
        exact = self._token_places(places)
        low = np.floor(exact)
        right, down = np.moveaxis(exact - low, 2, 0)
        x, y = np.moveaxis(low.astype(np.int64), 2, 0)
        corners = ((0, 0), (0, 1), (1, 0), (1, 1))
        tokens = np.stack([self._index(x + across, y + below).reshape(-1) for below, across in corners])
        weights = np.stack(
            [
                ((down if below else 1 - down) * (right if across else 1 - right)).reshape(-1)
                for below, across in corners
            ]
        )
        return tokens, np.asarray(weights * self._shares(seen), dtype=np.float32)


def grey_picture(rgb: UInt8Array) -> UInt8Array:
    """A frame (H, W, 3) as motion is measured on it: grey, at most `FLOW_SIDE_PX` a side."""
    shrink = FLOW_SIDE_PX / max(rgb.shape[:2])
    if shrink < 1:
        size_wh = max(1, round(rgb.shape[1] * shrink)), max(1, round(rgb.shape[0] * shrink))
        rgb = np.asarray(cv2.resize(rgb, size_wh, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), dtype=np.uint8)


def _sampled(picture: NDArray[np.generic], places: FloatArray) -> FloatArray:
    found = cv2.remap(picture, places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]  # None: one map of pairs
    return np.asarray(found, dtype=np.float32)


def matches(grey: UInt8Array, other: UInt8Array, places: FloatArray) -> NDArray[np.bool_]:
    """Which pixels of `grey` look like the places (H, W, 2) of `other` that the flow maps them to, inside the picture."""
    difference = cv2.blur(np.abs(grey - _sampled(other, places)), WINDOW_PX)
    height, width = grey.shape
    inside = (places > -0.5).all(axis=2) & (places[..., 0] < width - 0.5) & (places[..., 1] < height - 0.5)
    return np.asarray((difference < LOST_LEVELS) & inside)
