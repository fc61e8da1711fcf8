"""Pictures hold what their captions say."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from nerve_bench.measure.accuracy import World
from nerve_bench.report.method_pictures import (
    CAPTION_PX,
    LEGEND_PX,
    TILE_PX,
    captioned,
    method_picture,
    write_method_picture,
)
from nerve_bench.world import SEEDS, make_scene
from nerve_bench.world.grids import colored

TILES = 6
FRAMED_PX, COLUMN_PX = TILE_PX + CAPTION_PX + 2, TILE_PX + 4
ROW_PX = FRAMED_PX + LEGEND_PX


@pytest.fixture(scope="module")
def picture(world: World) -> np.ndarray:
    return method_picture(world, list(SEEDS["validation"][:2]))


def tile(picture: np.ndarray, row: int, column: int) -> np.ndarray:
    """The picture inside a tile, without caption and margin."""
    top, left = row * ROW_PX + CAPTION_PX, column * COLUMN_PX + 2
    return picture[top : top + TILE_PX, left : left + TILE_PX]


def test_a_picture_has_one_row_a_scene_and_six_tiles(picture: np.ndarray) -> None:
    assert picture.shape == (2 * ROW_PX, TILES * COLUMN_PX, 3)
    assert picture.dtype == np.uint8


def test_the_first_tile_is_the_frame_and_the_last_its_truth(picture: np.ndarray) -> None:
    for row, seed in enumerate(SEEDS["validation"][:2]):
        scene = make_scene(seed, size_px=128, close_up=False)
        for column, expected in ((0, scene.rgb), (5, colored(scene.labels))):
            enlarged = cv2.resize(expected, (TILE_PX, TILE_PX), interpolation=cv2.INTER_NEAREST)
            np.testing.assert_array_equal(tile(picture, row, column), enlarged)


def test_a_legend_below_a_row_shows_the_colours_of_its_classes(picture: np.ndarray) -> None:
    labels = make_scene(SEEDS["validation"][0], size_px=128, close_up=False).labels
    largest = np.bincount(labels.ravel()).argmax()
    legend = picture[FRAMED_PX:ROW_PX]
    assert (legend == colored(np.array([[largest]], np.uint8))[0, 0]).all(axis=2).any()
    assert (legend == 255).all(axis=2).any()


def test_no_two_tiles_of_a_row_are_the_same(picture: np.ndarray) -> None:
    assert len({tile(picture, 0, column).tobytes() for column in range(TILES)}) == TILES


def test_a_caption_stands_above_a_tile_that_is_whole() -> None:
    gray = np.full((8, 8, 3), 77, np.uint8)
    framed = captioned(gray, "a caption")
    assert framed.shape == (FRAMED_PX, COLUMN_PX, 3)
    assert (framed[CAPTION_PX:-2, 2:-2] == 77).all()
    assert (framed[:CAPTION_PX] < 100).any()
    assert (captioned(gray, "")[:CAPTION_PX] == 255).all()


def test_the_file_holds_the_picture_in_the_right_colours(world: World, picture: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "new" / "method.png"
    write_method_picture(world, list(SEEDS["validation"][:2]), path)
    read = cv2.imread(str(path), cv2.IMREAD_COLOR)
    assert read is not None
    np.testing.assert_array_equal(read[..., ::-1], picture)
