"""Estimates what a frame of a large bundle takes on this processor, before the first one is done."""

import time

import numpy as np

from nerve_runtime.bundle import Manifest

SMALL_GMAC = 20.0
"""A bundle below it needs no warning: a frame takes less than a second."""
SIDE = 1024
GMAC_OF_A_PRODUCT = SIDE**3 / 1e9
PRODUCTS = 3
SHARE_OF_PRODUCTS = 0.7
"""Share of the speed of large matrix products that the graphs reach: 0.6 to 0.8 with `sd21-fast`."""


def slow_frame_notice(manifest: Manifest, backend: str) -> str | None:
    """One line on how long a keyframe will take, from a short measurement; None for small bundles and other devices.

    Args:
        manifest: of the bundle; its stages say how much work they are.
        backend: as `Segmenter.backend` describes it; only the processor is measured.
    """
    gmac = sum(manifest.stages[stage].gmac for stage in ("scores", "attention", "mix", "walk", "readout"))
    if gmac < SMALL_GMAC or "cpu" not in backend.lower():
        return None
    seconds = gmac / (SHARE_OF_PRODUCTS * _gmac_per_second())
    return f"a keyframe takes about {seconds:.2g} s on this processor ({gmac:.0f} GMAC)"


def _gmac_per_second() -> float:
    """Speed of the best of a few float32 matrix products, on as many threads as NumPy takes."""
    factor = np.ones((SIDE, SIDE), dtype=np.float32)
    durations_s = []
    for _ in range(PRODUCTS):
        started_s = time.perf_counter()
        np.matmul(factor, factor)
        durations_s.append(time.perf_counter() - started_s)
    return GMAC_OF_A_PRODUCT / min(durations_s)
