"""Arrays drawn as small pictures."""

import colorsys

import numpy as np
from numpy.typing import NDArray

from nerve_runtime.opencv import cv2

Rgb = NDArray[np.uint8]
GOLDEN_RATIO = 0.618034
IGNORED = 255
BACKGROUND, BAR, LIMIT_LINE = (247, 248, 250), (78, 99, 160), (208, 52, 52)
DIFFERENT = (255, 45, 85)
LEAST_EXPONENT = -9
BAR_PX = 8


def encode_png(rgb: Rgb) -> bytes:
    """Encode uint8 (H,W,3) RGB as PNG."""
    return cv2.imencode(".png", rgb[..., ::-1])[1].tobytes()


def enlarged(rgb: Rgb, least_px: int) -> Rgb:
    """Repeat pixels a whole number of times until the shorter side has `least_px` or more."""
    times = max(1, -(-least_px // min(rgb.shape[:2])))
    return rgb.repeat(times, axis=0).repeat(times, axis=1)


def label_colors(labels: NDArray[np.uint8]) -> Rgb:
    """Labels uint8 (H,W) in colours, far apart for neighbouring numbers; 255, "ignore", is black."""
    palette = np.zeros((256, 3), np.uint8)
    for index in range(IGNORED):
        shade = colorsys.hsv_to_rgb(index * GOLDEN_RATIO % 1, 0.62, 0.92 if index % 2 else 0.72)
        palette[index] = np.round(np.array(shade) * 255)
    return palette[labels]


def differences(frame: Rgb, first: NDArray[np.uint8], second: NDArray[np.uint8]) -> Rgb:
    """The frame, faded, with a bright red where two label maps differ."""
    faded = (frame.astype(np.float64).mean(2, keepdims=True) * 0.35 + 150).repeat(3, 2)
    return np.where((first != second)[..., None], DIFFERENT, faded).astype(np.uint8)


def heat_map(errors: NDArray[np.floating], limit: float) -> Rgb:
    """Errors (h,w) in colours by their logarithm: 10^-9 dark, `limit` pale; what is beyond or not finite bright red."""
    within = np.isfinite(errors) & (errors <= limit)
    low, high = LEAST_EXPONENT, np.log10(max(limit, 10.0 ** (LEAST_EXPONENT + 1)))
    exponents = np.log10(np.clip(np.where(within, errors, limit), 10.0**low, None))
    levels = np.round(np.clip((exponents - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    colors = cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)[..., ::-1]
    return np.where(within[..., None], colors, DIFFERENT).astype(np.uint8)


def histogram(errors: NDArray[np.floating], limit: float, size_hw: tuple[int, int] = (160, 320)) -> Rgb:
    """How many elements have which error: log of the count over log of the error, a red line at the limit.

    Errors from 10^-9 to 1; smaller ones are in the first bar, larger ones and those not finite in the last.
    """
    height, width = size_hw
    low = LEAST_EXPONENT
    finite = np.where(np.isfinite(errors), errors, 1.0).ravel()
    exponents = np.clip(np.log10(np.maximum(finite, 10.0**low)), low, 0)
    counts, _ = np.histogram(exponents, bins=width // BAR_PX, range=(low, 0))
    tall = np.log1p(counts) / max(float(np.log1p(counts).max()), 1e-9) * (height - BAR_PX)
    picture = np.full((height, width, 3), BACKGROUND, np.uint8)
    for bar, top in enumerate(np.round(tall).astype(int)):
        picture[height - top :, bar * BAR_PX + 1 : bar * BAR_PX + BAR_PX] = BAR
    place = int((np.log10(np.clip(limit, 10.0**low, 1.0)) - low) / -low * (width - 2))
    picture[:, place : place + 2] = LIMIT_LINE
    return picture
