"""Pictures of the world for a person to look at: scenes beside their labels, sheets per class, clips over time."""

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nerve_bench.world.clips import MovingFrame, moving_scene
from nerve_bench.world.scenes import CLASS_NAMES, SEEDS, Scene, make_scene
from nerve_runtime.drawing import class_colours
from nerve_runtime.opencv import cv2, opencv_path

UInt8Image = NDArray[np.uint8]

GAP_PX = 4
LEGEND_ROW_PX = 20
LEGEND_COLUMN_PX = 128
SHOWN_SHARE = 0.03
"""Smallest share of a scene that a class must cover for the scene to be on its sheet."""
WHITE, BLACK, RED = (255, 255, 255), (0, 0, 0), (230, 30, 30)


def write_grids(folder: Path, seeds: range = SEEDS["validation"], *, scenes: int = 24) -> list[Path]:
    """Write `scenes.png`, one sheet per class in `classes/`, and `clip.png`; existing pictures are replaced.

    Args:
        folder: where to write; made if needed.
        seeds: where scenes come from; the clip is the first of `SEEDS["clips"]`.
        scenes: how many scenes are in the grid; a sheet shows 8.

    Returns:
        The paths written.
    """
    written = [
        write_png(scene_grid([make_scene(seed, close_up=False) for seed in seeds[:scenes]]), folder / "scenes.png")
    ]
    for name in CLASS_NAMES:
        shown = list(islice(scenes_with(name, seeds), 8))
        written.append(write_png(class_sheet(name, shown), folder / "classes" / f"{name.replace(' ', '_')}.png"))
    frames = list(moving_scene(SEEDS["clips"][0]))
    written.append(write_png(clip_grid(frames[::6]), folder / "clip.png"))
    return written


def write_png(image: UInt8Image, path: Path) -> Path:
    """Write RGB uint8 (H,W,3) as PNG, making the folder if needed, and return the path.

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(opencv_path(path), image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9]):
        raise OSError(f"cannot write {path}; is its folder writable?")
    return path


def scenes_with(class_name: str, seeds: Iterable[int]) -> Iterable[Scene]:
    """The scenes among `seeds` in which a class covers at least `SHOWN_SHARE`, in order of their seeds.

    Raises:
        ValueError: `class_name` is not in `CLASS_NAMES`.
    """
    label = CLASS_NAMES.index(class_name)
    return (scene for seed in seeds if np.mean((scene := make_scene(seed)).labels == label) >= SHOWN_SHARE)


def colored(labels: UInt8Image) -> UInt8Image:
    """Colour a label map: uint8 (H,W) to RGB uint8 (H,W,3)."""
    return class_colours(CLASS_NAMES)[labels]


def scene_grid(scenes: Sequence[Scene], columns: int = 4) -> UInt8Image:
    """Each picture with its label map to the right of it, `columns` pairs in a row, and the legend below.

    Raises:
        ValueError: there are no scenes.
    """
    pairs = [_beside([scene.rgb, colored(scene.labels)]) for scene in scenes]
    return with_legend(_table(pairs, columns))


def class_sheet(class_name: str, scenes: Sequence[Scene], columns: int = 4) -> UInt8Image:
    """Scenes that show a class, its outline drawn in white on black, under a line with its name and colour.

    Raises:
        ValueError: there are no scenes, or `class_name` is not in `CLASS_NAMES`.
    """
    label = CLASS_NAMES.index(class_name)
    sheet = _table([_outlined(scene.rgb, scene.labels == label) for scene in scenes], columns)
    title = np.full((LEGEND_ROW_PX + GAP_PX, max(sheet.shape[1], LEGEND_COLUMN_PX), 3), 255, np.uint8)
    _legend_entry(title, label, (GAP_PX, GAP_PX // 2))
    return _below([title, sheet])


def clip_grid(frames: Sequence[MovingFrame], columns: int = 10) -> UInt8Image:
    """Frames in reading order, each above its label map, and the legend below; the first of a shot is framed in red.

    Raises:
        ValueError: there are no frames.
    """
    cells = []
    for frame in frames:
        picture = frame.rgb.copy()
        if frame.cut:
            cv2.rectangle(picture, (0, 0), (picture.shape[1] - 1, picture.shape[0] - 1), RED, 3)
        cells.append(_below([picture, colored(frame.labels)], gap_px=1))
    return with_legend(_table(cells, columns))


def with_legend(image: UInt8Image) -> UInt8Image:
    """Add a legend of all class names with their colours below an RGB picture."""
    width = max(image.shape[1], LEGEND_COLUMN_PX)
    columns = width // LEGEND_COLUMN_PX
    rows = -(-len(CLASS_NAMES) // columns)
    legend = np.full((rows * LEGEND_ROW_PX + GAP_PX, width, 3), 255, np.uint8)
    for label in range(len(CLASS_NAMES)):
        row, column = divmod(label, columns)
        _legend_entry(legend, label, (column * LEGEND_COLUMN_PX + GAP_PX, row * LEGEND_ROW_PX + GAP_PX))
    return _below([image, legend])


def _legend_entry(canvas: UInt8Image, label: int, corner_xy: tuple[int, int]) -> None:
    x, y = corner_xy
    side = LEGEND_ROW_PX - GAP_PX
    canvas[y : y + side, x : x + side] = class_colours(CLASS_NAMES)[label]
    at = (x + side + GAP_PX, y + side - GAP_PX)
    cv2.putText(canvas, CLASS_NAMES[label], at, cv2.FONT_HERSHEY_SIMPLEX, 0.42, BLACK, 1, cv2.LINE_AA)


def _outlined(rgb: UInt8Image, inside: NDArray[np.bool_]) -> UInt8Image:
    contours, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    picture = cv2.drawContours(rgb.copy(), contours, -1, BLACK, 3)
    return np.asarray(cv2.drawContours(picture, contours, -1, WHITE, 1), np.uint8)


def _table(cells: Sequence[UInt8Image], columns: int) -> UInt8Image:
    if not cells:
        raise ValueError("nothing to show: got no pictures, expected at least one")
    starts = range(0, len(cells), columns)
    return _below([_beside(cells[start : start + columns]) for start in starts])


def _beside(images: Sequence[UInt8Image]) -> UInt8Image:
    """Pictures of equal height from left to right, with white gaps."""
    gap = np.full((images[0].shape[0], GAP_PX, 3), 255, np.uint8)
    return np.concatenate([part for image in images for part in (image, gap)][:-1], axis=1)


def _below(images: Sequence[UInt8Image], gap_px: int = GAP_PX) -> UInt8Image:
    """Pictures from top to bottom, with white gaps, narrow ones filled up with white."""
    width = max(image.shape[1] for image in images)
    filled = [np.pad(i, ((0, gap_px), (0, width - i.shape[1]), (0, 0)), constant_values=255) for i in images]
    return np.concatenate(filled)
