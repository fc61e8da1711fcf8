from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest

from nerve_bench.world import CLASS_NAMES, SEEDS, make_scene, moving_scene
from nerve_bench.world.grids import (
    SHOWN_SHARE,
    class_sheet,
    clip_grid,
    colored,
    scene_grid,
    scenes_with,
    with_legend,
    write_grids,
    write_png,
)


def test_a_grid_holds_each_picture_beside_its_labels() -> None:
    scenes = [make_scene(seed) for seed in range(3)]
    grid = scene_grid(scenes, columns=2)
    assert np.array_equal(grid[:128, :128], scenes[0].rgb)
    assert np.array_equal(grid[:128, 132:260], colored(scenes[0].labels))
    assert np.array_equal(grid[:128, 264:392], scenes[1].rgb)
    assert np.array_equal(grid[132:260, :128], scenes[2].rgb)


def test_every_class_has_its_own_colour() -> None:
    colors = colored(np.arange(len(CLASS_NAMES), dtype=np.uint8)[None])[0].astype(int)
    distances = np.abs(colors[:, None] - colors[None]).sum(-1)
    assert distances[~np.eye(len(CLASS_NAMES), dtype=bool)].min() >= 20


def test_the_legend_shows_every_colour() -> None:
    shown = {tuple(color) for color in with_legend(np.zeros((8, 300, 3), np.uint8)).reshape(-1, 3)}
    every = colored(np.arange(len(CLASS_NAMES), dtype=np.uint8)[None])[0]
    assert {tuple(color) for color in every} <= shown


def test_a_sheet_shows_only_scenes_with_its_class() -> None:
    label = CLASS_NAMES.index("zebra")
    found = list(islice(scenes_with("zebra", SEEDS["validation"]), 3))
    assert all(np.mean(scene.labels == label) >= SHOWN_SHARE for scene in found)
    assert class_sheet("zebra", found, columns=3).shape[1] == 3 * 128 + 2 * 4


def test_a_cut_is_framed_in_red() -> None:
    grid = clip_grid(list(moving_scene(SEEDS["clips"][0], 4, cuts=1)), columns=4)
    corners = [grid[0, 132 * column].tolist() == [230, 30, 30] for column in range(4)]
    assert corners == [True, False, True, False]


def test_nothing_to_show_is_refused() -> None:
    with pytest.raises(ValueError, match="got no pictures"):
        scene_grid([])


def test_an_unknown_class_is_refused() -> None:
    with pytest.raises(ValueError, match="not in tuple"):
        class_sheet("unicorn", [make_scene(0)])


def test_a_picture_keeps_its_colours_on_disk(tmp_path: Path) -> None:
    path = write_png(make_scene(0).rgb, tmp_path / "made" / "scene.png")
    read = cv2.imread(str(path))
    assert read is not None
    assert np.array_equal(read[..., ::-1], make_scene(0).rgb)


@pytest.mark.slow
def test_all_grids_are_written(tmp_path: Path) -> None:
    written = write_grids(tmp_path, scenes=4)
    assert len(written) == 2 + len(CLASS_NAMES)
    assert all(path.stat().st_size > 1000 for path in written)
