"""Tiles of wide pictures: where they lie, that one tile is the plain method, and what joint keys are."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from nerve_bench.datasets import tiles
from nerve_bench.datasets.tile_comparison import measure_tiles, wide_scene
from nerve_bench.datasets.tiles import Tiling, joined_layer, joint_cells, joint_rows, joint_scores, make_tiling
from nerve_bench.measure.accuracy import World
from nerve_bench.world import SEEDS, make_scene
from nerve_ref.affinity import pooled_affinity
from nerve_ref.pipeline import observe, segment
from nerve_ref.providers.stable_diffusion import LayerHeads
from nerve_runtime.errors import UsageError
from tests.unit.nerve_bench.conftest import quietly


@pytest.mark.parametrize(
    ("picture_hw", "short_side_px", "overlap"),
    [((1024, 2048), 853, 0.25), ((375, 500), 512, 0.25), ((500, 375), 512, 0.0), ((512, 512), 512, 0.5)],
)
def test_tiles_cover_the_picture_and_overlap_as_asked(
    picture_hw: tuple[int, int], short_side_px: int, overlap: float
) -> None:
    tiling = make_tiling(picture_hw, (512, 512), short_side_px, overlap)
    covered = np.zeros(tiling.canvas_hw, int)
    for row, column in tiling.corners:
        assert row % 64 == column % 64 == 0
        assert row + 512 <= tiling.canvas_hw[0]
        assert column + 512 <= tiling.canvas_hw[1]
        covered[row : row + 512, column : column + 512] += 1
    assert covered.min() == 1
    for axis in (0, 1):
        starts = sorted({corner[axis] for corner in tiling.corners})
        assert all(after - before <= 512 * (1 - overlap) for before, after in pairwise(starts))
    scale = short_side_px / min(picture_hw)
    assert all(abs(side - scale * own) <= 32 for side, own in zip(tiling.canvas_hw, picture_hw, strict=True))


def test_maps_are_averaged_where_tiles_overlap() -> None:
    tiling = Tiling((128, 192), (128, 128), ((0, 0), (0, 64)))
    joined = tiling.joined([torch.full((1, 2, 2), 1.0), torch.full((1, 2, 2), 3.0)])
    assert joined.tolist() == [[[1, 2, 3], [1, 2, 3]]]


def test_one_tile_is_the_plain_method(world: World) -> None:
    rgb = torch.from_numpy(make_scene(SEEDS["validation"][0]).rgb)
    P, grid_hw = joint_scores(world.models, rgb, world.bank, world.params, 128, 0.25)
    plain = segment(world.models, rgb, world.bank, world.params)
    assert grid_hw == plain.grid_hw
    torch.testing.assert_close(P, plain.P, atol=2e-6, rtol=0)


@pytest.mark.parametrize("key_norm", [False, True])
def test_joint_rows_are_those_of_one_layer_as_large_as_the_picture(world: World, key_norm: bool) -> None:
    """Where tiles of queries agree in their overlap, tiles and whole picture are one and the same."""
    generator = torch.Generator().manual_seed(0)
    params = replace(world.params, pooled_hw=(4, 4), key_norm=key_norm)
    q, k = (torch.randn(2, 8, 12, 5, generator=generator) for _ in range(2))
    tiling = Tiling((128, 192), (128, 128), ((0, 0), (0, 64)))
    parts = [
        LayerHeads("layer", q[:, :, left : left + 8].flatten(1, 2), k[:, :, left : left + 8].flatten(1, 2), (8, 8))
        for left in (0, 4)
    ]
    rows = joint_rows(tiling, parts, joined_layer(tiling, parts), (4, 6), (16, 24), params)
    knobs = (params.temperature, params.sharpen, params.row_threshold, key_norm)
    expected = pooled_affinity(q.flatten(1, 2), k.flatten(1, 2), (8, 12), (4, 6), (16, 24), *knobs)
    torch.testing.assert_close(rows, expected)
    torch.testing.assert_close(rows.sum(-1), torch.ones(2, 16 * 24))


def test_tokens_of_one_tile_see_cells_of_the_other(world: World) -> None:
    """Mass that rows of the leftmost tokens give to cells that only the right tile has seen."""
    rgb = torch.from_numpy(wide_scene(SEEDS["validation"][0], 256).rgb)
    tiling = make_tiling((128, 256), (128, 128), 128, 0.0)
    layers = [
        observe(world.models, tiles.cut(rgb, corner, (128, 128)), world.params).heads[1] for corner in tiling.corners
    ]
    rows = joint_rows(tiling, layers, joined_layer(tiling, layers), (16, 32), (32, 64), world.params)
    far = rows.unflatten(1, (32, 64)).unflatten(3, (16, 32))[:, :, :16, :, 16:].sum((-1, -2))
    assert 0.05 < float(far.mean()) < 0.6


def test_cells_keep_their_size_until_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    assert joint_cells((64, 128), (64, 64), (16, 16)) == (16, 32)
    assert joint_cells((104, 216), (64, 64), (16, 16)) == (13, 27)
    monkeypatch.setattr(tiles, "KEYS_LIMIT", 400)
    assert joint_cells((64, 128), (64, 64), (16, 16)) == (8, 16)


def test_an_affinity_without_pooled_keys_cannot_be_tiled(world: World) -> None:
    params = replace(world.params, affinity="softmax_dense")
    with pytest.raises(UsageError, match=r"the affinity is 'softmax_dense'; expected softmax_pooled"):
        joint_scores(world.models, torch.zeros(128, 256, 3, dtype=torch.uint8), world.bank, params, 128, 0.25)


def test_on_wide_scenes_tiles_are_at_least_as_good_as_stretching(world: World) -> None:
    records = list(measure_tiles(world, SEEDS["validation"][:2], 256, 0.25, quietly))
    by_way = {record["way"]: record["miou"] for record in records if "miou" in record}
    assert by_way["joint_tiles"] >= by_way["stretch"]
    (against_stretch,) = (record for record in records if record.get("against") == "stretch")
    assert against_stretch["gain"] == pytest.approx(by_way["joint_tiles"] - by_way["stretch"], abs=2e-3)
    assert against_stretch["n"] == 2
