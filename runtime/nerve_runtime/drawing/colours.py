"""The colour of a class: it depends on the name alone, so it is the same in every run, list, overlay and mask."""

import hashlib
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from nerve_runtime.drawing.known_names import KNOWN_NAMES
from nerve_runtime.labels import BACKGROUND_NAME, ignore_label, label_dtype

UInt8Array = NDArray[np.uint8]
Float64Array = NDArray[np.float64]

NO_LABEL_GREY = (128, 128, 128)
MID_GREY = 128
USUAL_OPACITY = 0.55  # at which known names are kept apart; the default of `OverlayStyle`

# The colours that classes may have: a grid over RGB without greys, which look like the picture below them, and without
# what is nearly black or nearly white, which reads as shadow or light. 1143 colours remain.
LEVELS = 11
CELL = 25  # levels from one of the grid to the next
LEAST_CHROMA = 20.0  # CIE Lab
LIGHTNESS_RANGE = (25.0, 95.0)
FIRST_COLOUR = (51, 179, 51)  # of the first known name, grass

# Linear RGB as seen with all cones, and without red (protan), green (deutan) or blue (tritan) cones.
# Source: Machado, Oliveira and Fernandes 2009, severity 1.0.
SIGHTS = {
    "normal": np.eye(3),
    "protan": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deutan": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritan": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
# Source: IEC 61966-2-1 (sRGB), white point D65.
XYZ_OF_LINEAR_RGB = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
# How far apart two colours have to be without one kind of cone, as a share of the distance with all. At 0.45 the first
# 13 names are 27 apart with all cones and 13 without one; at 1 it would be 20 and 16.
CONE_LOSS_SHARE = 0.45
LAB_STEPS = 16  # a Lab coordinate is rounded to 1/16: integers compare alike on every machine


def class_colours(class_names: Sequence[str]) -> UInt8Array:
    """The colour of every label, RGB uint8 (256, 3), or (65536, 3) beyond 254 classes: row i is that of `class_names[i]`.

    The colour of a name depends on nothing but that name, composed (NFC), in lower case and with single spaces. The names
    of `KNOWN_NAMES` have colours that are far apart, to colour-blind eyes too; any other name has a colour drawn by its
    SHA-256, which may look like another's.

    Row 0 is black when it is the background, the last row, no label, is grey, rows without a class are black.
    """
    return np.frombuffer(_table_bytes(tuple(class_names)), dtype=np.uint8).reshape(-1, 3)


def least_distance(class_names: Sequence[str], opacity: float) -> dict[str, float]:
    """How far apart the two most similar classes of a list look when they are drawn, for each kind of sight.

    Distances are Euclidean in CIE Lab (CIE76), where about 2 is just visible side by side, between the colours blended
    over mid grey. The background is not counted, it has no colour. With fewer than two classes the distance is infinite.

    Args:
        class_names: the names in the order of their labels.
        opacity: of the colours, 0 to 1.

    Returns:
        The least distance by sight: `normal`, `protan`, `deutan`, `tritan` (all cones, or without those for red, green,
        blue).
    """
    first = _first_class(class_names)
    rows = class_colours(class_names)[first : len(class_names)]
    lab = _lab_by_sight(_over_mid_grey(rows, opacity))
    least = np.full(len(SIGHTS), np.inf)
    for row in range(1, len(rows)):  # all pairs at once are 139 MB for 1,203 classes
        least = np.minimum(least, np.linalg.norm(lab[:, :row] - lab[:, row, None], axis=-1).min(axis=1))
    return dict(zip(SIGHTS, least.tolist(), strict=True))


def _first_class(class_names: Sequence[str]) -> int:
    return 1 if tuple(class_names[:1]) == (BACKGROUND_NAME,) else 0


@lru_cache(maxsize=64)
def _table_bytes(class_names: tuple[str, ...]) -> bytes:
    no_label = ignore_label(label_dtype(len(class_names)))
    table = np.zeros((no_label + 1, 3), dtype=np.uint8)
    for label in range(_first_class(class_names), len(class_names)):
        table[label] = _colour(class_names[label])
    table[no_label] = NO_LABEL_GREY
    return table.tobytes()


def _colour(class_name: str) -> tuple[int, ...]:
    normal = " ".join(unicodedata.normalize("NFC", class_name).casefold().split())
    known = _known_colours().get(normal)
    if known is not None:
        return known
    vivid, digest = _vivid_colours(), hashlib.sha256(normal.encode("utf-8", "surrogatepass")).digest()
    on_grid = vivid[int.from_bytes(digest[:8], "big") % len(vivid)].tolist()
    # Anywhere in its cell of the grid, so that even of 250 names no two have the very same colour.
    return tuple(
        min(255, max(0, level + byte % CELL - CELL // 2)) for level, byte in zip(on_grid, digest[8:11], strict=True)
    )


@lru_cache(maxsize=1)
def _known_colours() -> dict[str, tuple[int, ...]]:
    """Each known name's colour: of all vivid ones the farthest from those before it, by the sight that sees it nearest."""
    vivid = _vivid_colours()
    share = np.array([1.0] + [CONE_LOSS_SHARE] * (len(SIGHTS) - 1))[:, None, None]
    lab = np.rint(_lab_by_sight(_over_mid_grey(vivid, USUAL_OPACITY)) / share * LAB_STEPS).astype(np.int32)
    nearest = np.full(len(vivid), np.iinfo(np.int32).max, dtype=np.int32)
    pick = int(np.abs(vivid.astype(int) - FIRST_COLOUR).sum(axis=1).argmin())
    colours = {}
    for name in KNOWN_NAMES:
        colours[name] = tuple(vivid[pick].tolist())
        squared = np.square(lab - lab[:, pick, None]).sum(axis=-1, dtype=np.int32).min(axis=0)
        nearest = np.minimum(nearest, squared)
        pick = int(nearest.argmax())
    return colours


@lru_cache(maxsize=1)
def _vivid_colours() -> UInt8Array:
    """All colours that a class may have, RGB uint8 (n, 3)."""
    levels = np.rint(np.linspace(0, 255, LEVELS)).astype(np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = _lab_by_sight(grid.astype(np.float64))[0]
    vivid = np.hypot(lab[:, 1], lab[:, 2]) >= LEAST_CHROMA
    return np.asarray(grid[vivid & (lab[:, 0] >= LIGHTNESS_RANGE[0]) & (lab[:, 0] <= LIGHTNESS_RANGE[1])])


def _over_mid_grey(rgb: UInt8Array, opacity: float) -> Float64Array:
    return np.asarray(opacity * rgb.astype(np.float64) + (1.0 - opacity) * MID_GREY)


def _lab_by_sight(rgb: Float64Array) -> Float64Array:
    """CIE Lab of RGB colours (n, 3), 0 to 255, as each of `SIGHTS` sees them, float64 (sights, n, 3)."""
    share = rgb / 255.0
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    seen = np.stack([np.clip(linear @ matrix.T, 0.0, 1.0) for matrix in SIGHTS.values()])
    xyz = (seen @ XYZ_OF_LINEAR_RGB.T) / XYZ_OF_LINEAR_RGB.sum(axis=1)
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)
