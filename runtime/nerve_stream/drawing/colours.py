"""The colour of a class: derived from its name, so that it is the same in every run, list, overlay and mask."""

import colorsys
import hashlib
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from nerve_runtime import BACKGROUND_NAME, IGNORE_LABEL

UInt8Array = NDArray[np.uint8]
Float64Array = NDArray[np.float64]

# Steps of the golden ratio spread hues evenly for any number of slots and leave earlier slots unchanged. Three levels of
# lightness between neighbours, because people who confuse hues still tell light from dark.
GOLDEN_RATIO = 0.6180339887498949
FIRST_HUE = 0.02
SATURATION_AND_VALUE = ((0.85, 0.95), (0.55, 1.0), (0.9, 0.6))
PALETTE_LIMIT = 256
NO_LABEL_GREY = (128, 128, 128)

# Distances in CIE Lab, where about 2 is just visible side by side. At 20 some thirty classes fit, and of 5, 10 and 20
# random names 0.5, 2 and 8 change their slot (at 14: 0.4, 1.5 and 6); longer lists use the next smaller distance.
NEAR_DISTANCES = (20.0, 14.0, 9.0, 5.0, 2.0, 0.0)

# Linear RGB as seen without red (protan), green (deutan) or blue (tritan) cones.
# Source: Machado, Oliveira and Fernandes 2009, severity 1.0.
CONE_LOSSES = np.array(
    [
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    ]
)
# Source: IEC 61966-2-1 (sRGB), white point D65.
XYZ_OF_LINEAR_RGB = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
# Share of the distance required for eyes without one kind of cone: the full distance would leave a dozen colours.
CONE_LOSS_SHARE = 0.17


def palette(n: int) -> UInt8Array:
    """The colours that classes are given, RGB uint8 (n, 3), at most 256; colour i does not depend on n.

    Colour 255 is grey: no label.
    """
    colours = []
    for index in range(min(n, PALETTE_LIMIT)):
        saturation, value = SATURATION_AND_VALUE[index % len(SATURATION_AND_VALUE)]
        colours.append(colorsys.hsv_to_rgb((FIRST_HUE + index * GOLDEN_RATIO) % 1.0, saturation, value))
    table = np.rint(np.array(colours).reshape(-1, 3) * 255).astype(np.uint8)
    table[IGNORE_LABEL:] = NO_LABEL_GREY
    return table


def class_colours(class_names: Sequence[str]) -> UInt8Array:
    """The colour of every label, RGB uint8 (256, 3): row i is that of `class_names[i]`.

    The SHA-256 of a name, composed (NFC), in lower case and with single spaces, chooses its slot of the palette. When the
    colours of two names in a list look alike, to colour-blind eyes too, the later name takes the next slot that looks
    different. So a name has the same colour in every list where no earlier name is too similar, and adding names at the
    end never changes those before them.

    Row 0 is black when it is the background, row 255 is grey, rows without a class are black.
    """
    return np.frombuffer(_colour_bytes(tuple(class_names)), dtype=np.uint8).reshape(PALETTE_LIMIT, 3)


@lru_cache(maxsize=64)
def _colour_bytes(class_names: tuple[str, ...]) -> bytes:
    table = np.zeros((PALETTE_LIMIT, 3), dtype=np.uint8)
    colours, distances = palette(IGNORE_LABEL), _distances()
    used: list[int] = []
    first = 1 if class_names[:1] == (BACKGROUND_NAME,) else 0
    for label, name in enumerate(class_names[first:IGNORE_LABEL], first):
        slot = _free_slot(_preferred_slot(name), used, distances)
        used.append(slot)
        table[label] = colours[slot]
    table[IGNORE_LABEL] = NO_LABEL_GREY
    return table.tobytes()


def _preferred_slot(name: str) -> int:
    normal = " ".join(unicodedata.normalize("NFC", name).casefold().split())
    return int.from_bytes(hashlib.sha256(normal.encode("utf-8", "surrogatepass")).digest()[:8], "big") % IGNORE_LABEL


def _free_slot(preferred: int, used: list[int], distances: Float64Array) -> int:
    nearest = distances[:, used].min(axis=1, initial=np.inf)
    order = (preferred + np.arange(IGNORE_LABEL)) % IGNORE_LABEL
    for near in NEAR_DISTANCES:
        free = order[nearest[order] > near]
        if free.size:
            return int(free[0])
    return preferred  # only with more than 255 names: some share a colour


@lru_cache(maxsize=1)
def _distances() -> Float64Array:
    """Distance of each two colours to the eye, with or without all cones, that sees the least, float64 (255, 255)."""
    linear = _linear_rgb(palette(IGNORE_LABEL))
    apart = _lab_distances(linear)
    for matrix in CONE_LOSSES:
        apart = np.minimum(apart, _lab_distances(np.clip(linear @ matrix.T, 0.0, 1.0)) / CONE_LOSS_SHARE)
    return apart


def _linear_rgb(rgb: UInt8Array) -> Float64Array:
    share = rgb / 255.0
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def _lab_distances(linear: Float64Array) -> Float64Array:
    """Euclidean distances in CIE Lab between linear RGB colours (n, 3), float64 (n, n)."""
    xyz = (linear @ XYZ_OF_LINEAR_RGB.T) / XYZ_OF_LINEAR_RGB.sum(axis=1)
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    lab = np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)
    return np.linalg.norm(lab[:, None] - lab[None], axis=2)
