"""Makes `things.webp` out of the npm package `@lobehub/fluent-emoji-3d` 1.1.0.

npm pack @lobehub/fluent-emoji-3d@1.1.0 && tar xzf lobehub-fluent-emoji-3d-1.1.0.tgz
python -m nerve_bench.world.atlas package
"""

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from nerve_bench.world.things import ATLAS, ATLAS_COLUMNS, PICTURE_PX, THINGS
from nerve_runtime.errors import UsageError

LEAST_BODY_SHARE = 0.97
"""Smallest share of a thing's opaque pixels that its largest connected body must hold."""
WEBP_QUALITY = 92
"""Of 100; the alpha channel is kept without loss."""


def thing_picture(package: Path, name: str) -> NDArray[np.uint8]:
    """Read one thing out of the unpacked npm package: BGRA uint8 (128,128,4).

    Raises:
        UsageError: the package lacks the picture, it has no alpha channel, or it is of several bodies.
    """
    paths = [package / "assets" / f"{THINGS[name]}{suffix}.webp" for suffix in ("", "-fe0f")]
    found = [path for path in paths if path.exists()]
    if not found:
        raise UsageError(f"{package} has no picture of {name}: expected {paths[0]}; is it the unpacked npm package?")
    picture = cv2.imread(str(found[0]), cv2.IMREAD_UNCHANGED)
    if picture is None or picture.ndim != 3 or picture.shape[2] != 4:
        raise UsageError(f"{found[0]} is no picture with an alpha channel; unpack the npm package again")
    share = body_share(np.asarray(picture[..., 3], np.uint8))
    if share < LEAST_BODY_SHARE:
        raise UsageError(f"{name} is of several bodies, the largest has {share:.2f} of it; choose another thing")
    return shrunk(np.asarray(picture, np.uint8))


def body_share(alpha: NDArray[np.uint8]) -> float:
    """Share of the opaque pixels of uint8 (H,W) that the largest connected body holds, 0..1."""
    count, _, stats, _ = cv2.connectedComponentsWithStats((alpha > 127).astype(np.uint8))
    areas = stats[1:count, cv2.CC_STAT_AREA]
    return float(areas.max() / areas.sum()) if len(areas) else 0.0


def shrunk(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Scale BGRA uint8 (H,W,4) to the size of the atlas; transparent pixels lend no colour to opaque ones."""
    alpha = picture[..., 3:].astype(np.float32) / 255
    weighted = np.concatenate([picture[..., :3] * alpha, alpha], axis=2)
    small = cv2.resize(weighted, (PICTURE_PX, PICTURE_PX), interpolation=cv2.INTER_AREA)
    colour = small[..., :3] / np.maximum(small[..., 3:], 1 / 255)
    return np.clip(np.round(np.concatenate([colour, small[..., 3:] * 255], axis=2)), 0, 255).astype(np.uint8)


def write_atlas(package: Path, path: Path) -> None:
    """Write the atlas of all things, in the order of `THINGS`.

    Raises:
        UsageError: see `thing_picture`.
        OSError: `path` cannot be written.
    """
    cells = [thing_picture(package, name) for name in THINGS]
    empty = np.zeros_like(cells[0])
    cells += [empty] * (-len(cells) % ATLAS_COLUMNS)
    rows = [np.hstack(cells[start : start + ATLAS_COLUMNS]) for start in range(0, len(cells), ATLAS_COLUMNS)]
    _, packed = cv2.imencode(".webp", np.vstack(rows), [cv2.IMWRITE_WEBP_QUALITY, WEBP_QUALITY])
    path.write_bytes(packed.tobytes())


def main(words: list[str] | None = None) -> int:
    """Make the atlas and say how large it is."""
    parser = argparse.ArgumentParser(prog="python -m nerve_bench.world.atlas", description=__doc__)
    parser.add_argument("package", type=Path, help="folder of the unpacked npm package")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name(ATLAS), help="default: %(default)s")
    arguments = parser.parse_args(words)
    write_atlas(arguments.package, arguments.out)
    sys.stderr.write(f"{arguments.out}: {len(THINGS)} things, {arguments.out.stat().st_size / 1e6:.2f} MB\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
