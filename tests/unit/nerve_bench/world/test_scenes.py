from itertools import combinations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from nerve_bench.world import CLASS_NAMES, SEEDS, STUFF, THINGS, Scene, make_scene, scenes
from nerve_bench.world.scenes import Sprite, make_sprite, paste
from nerve_bench.world.textures import texture
from nerve_bench.world.things import thing_pictures

SEEN_SHARE = 0.1
"""Less than this of a picture may be a part of a thing that is not coloured like the whole."""


@pytest.fixture
def even_light(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenes, "light", lambda rng, size_hw: np.ones((*size_hw, 1), np.float32))


def _full_scenes(count: int) -> list[Scene]:
    return [make_scene(seed, close_up=False) for seed in SEEDS["validation"][:count]]


def _usual_colors() -> NDArray[np.float64]:
    """Mean colour of each class: of grounds over 40 instances, of things from their picture: float64 (c,3)."""
    drawn = [[texture(name, np.random.default_rng(seed), (64, 128), 1.0) for seed in range(40)] for name in STUFF]
    pictures = thing_pictures().astype(np.float64)
    weights = pictures[..., 3:] / pictures[..., 3:].sum((1, 2), keepdims=True)
    return np.concatenate([np.clip(np.array(drawn), 0, 255).mean((1, 2, 3)), (pictures[..., :3] * weights).sum((1, 2))])


def _wrongly_named(scene: Scene, labels: NDArray[np.uint8], usual: NDArray[np.float64]) -> list[str]:
    """Classes whose pixels have another mean colour than usual: 17 % for tint and shade, 20 levels for what is cut off."""
    seen = [label for label in np.unique(labels) if np.mean(labels == label) >= SEEN_SHARE]
    off = {label: np.abs(scene.rgb[labels == label].mean(0) - usual[label]) - 0.17 * usual[label] for label in seen}
    return [CLASS_NAMES[label] for label, excess in off.items() if excess.max() > 20]


def _thing_share(scene: Scene) -> float:
    return float(np.mean(scene.labels >= len(STUFF)))


def test_the_same_seed_makes_the_same_scene() -> None:
    first, again = make_scene(7), make_scene(7)
    assert np.array_equal(first.rgb, again.rgb)
    assert np.array_equal(first.labels, again.labels)


def test_another_seed_makes_another_scene() -> None:
    assert not np.array_equal(make_scene(7).rgb, make_scene(8).rgb)


def test_seed_ranges_are_disjoint() -> None:
    for first, second in combinations(SEEDS.values(), 2):
        assert max(first.start, second.start) >= min(first.stop, second.stop)


@pytest.mark.usefixtures("even_light")
def test_labels_name_what_is_drawn() -> None:
    usual = _usual_colors()
    near = [make_scene(seed, close_up=True) for seed in SEEDS["validation"][:300]]
    wrong = [name for scene in near for name in _wrongly_named(scene, scene.labels, usual)]
    assert wrong == []
    assert len({label for scene in near for label in np.unique(scene.labels)}) == len(CLASS_NAMES)


@pytest.mark.usefixtures("even_light")
def test_wrong_labels_do_not_pass_for_right_ones() -> None:
    usual = _usual_colors()
    mixed_up = np.roll(np.arange(len(CLASS_NAMES), dtype=np.uint8), 1)
    near = [make_scene(seed, close_up=True) for seed in SEEDS["validation"][:40]]
    assert np.mean([bool(_wrongly_named(scene, mixed_up[scene.labels], usual)) for scene in near]) > 0.9


@pytest.mark.parametrize("size_px", [64, 256, 384])
def test_labels_are_the_same_at_every_size(size_px: int) -> None:
    for seed in range(12):
        base = make_scene(seed).labels
        large = make_scene(seed, size_px=size_px).labels
        resized = cv2.resize(large, base.shape, interpolation=cv2.INTER_NEAREST)
        # 4 %: outlines fall on other pixels; at most about 400 of 16,384 pixels lie on one.
        assert np.mean(resized != base) < 0.04, f"seed {seed}"


@pytest.mark.parametrize("size_px", [256, 384])
def test_a_larger_scene_shows_the_same_picture(size_px: int) -> None:
    for seed in range(12):
        base = make_scene(seed).rgb.astype(np.float64)
        large = make_scene(seed, size_px=size_px).rgb
        resized = cv2.resize(large, base.shape[:2], interpolation=cv2.INTER_AREA)
        difference = cv2.blur(resized - base, (16, 16))
        # 12 levels, on average over patches: sharp patterns alias at the base size, colour and light agree.
        assert np.abs(difference).mean() < 12, f"seed {seed}"


def test_pictures_and_labels_are_what_their_types_promise() -> None:
    scene = make_scene(3, size_px=96)
    assert scene.rgb.shape == (96, 96, 3)
    assert scene.labels.shape == (96, 96)
    assert scene.rgb.dtype == scene.labels.dtype == np.uint8
    assert scene.labels.max() < len(CLASS_NAMES)


def test_every_class_is_in_the_mix() -> None:
    counts = np.sum([np.bincount(s.labels.ravel(), minlength=len(CLASS_NAMES)) > 0 for s in _full_scenes(300)], axis=0)
    assert counts.min() >= 5


def test_things_have_many_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []

    def measured(rng: np.random.Generator, radius: float, scale: float, things: int) -> Sprite:
        sprite = make_sprite(rng, radius, scale, things)
        drawn.append(int(np.sum(sprite.alpha > 0.5)))
        return sprite

    monkeypatch.setattr(scenes, "make_sprite", measured)
    _full_scenes(60)
    small, large = np.percentile(drawn, [10, 90])
    # In pixels: a thing smaller than two 16 x 16 patches, and one that covers seven.
    assert small < 2 * 16**2
    assert large > 7 * 16**2


def test_a_close_up_shows_one_thing_that_fills_much_of_the_frame() -> None:
    near = [make_scene(seed, close_up=True) for seed in SEEDS["validation"][:40]]
    assert all(np.sum(np.unique(scene.labels) >= len(STUFF)) == 1 for scene in near)
    assert np.mean([_thing_share(scene) for scene in near]) > 0.25


def test_full_scenes_hold_several_things_and_one_or_two_kinds_of_stuff() -> None:
    kinds = [np.unique(scene.labels) for scene in _full_scenes(60)]
    assert max(np.sum(labels >= len(STUFF)) for labels in kinds) >= 4
    assert {int(np.sum(labels < len(STUFF))) for labels in kinds} == {1, 2}


def test_the_training_mix_holds_close_ups_in_the_declared_share() -> None:
    share = np.mean([make_scene(seed).close_up for seed in SEEDS["train"][:300]])
    # Three standard deviations of a share of 0.6 over 300 scenes are 0.085.
    assert abs(share - scenes.CLOSE_UP_SHARE) < 0.085


def test_a_world_of_fewer_things_shows_the_first_ones() -> None:
    seen = {label for seed in range(60) for label in np.unique(make_scene(seed, things=3).labels)}
    assert seen == set(range(len(STUFF) + 3))


def test_what_is_pasted_later_hides_what_was_there() -> None:
    canvas, labels = np.zeros((40, 40, 3), np.float32), np.zeros((40, 40), np.uint8)
    for label, color, center_yx in ((6, 100.0, (15.0, 15.0)), (7, 200.0, (20.0, 20.0))):
        square = Sprite(np.full((21, 21, 3), color, np.float32), np.ones((21, 21), np.float32), label)
        paste(square, canvas, labels, center_yx)
    assert (labels[8, 8], labels[18, 18], labels[28, 28], labels[38, 38]) == (6, 7, 7, 0)
    assert (canvas[8, 8, 0], canvas[18, 18, 0], canvas[28, 28, 0], canvas[38, 38, 0]) == (100, 200, 200, 0)


def test_a_thing_may_be_cut_by_the_frame() -> None:
    canvas, labels = np.zeros((20, 20, 3), np.float32), np.zeros((20, 20), np.uint8)
    paste(Sprite(np.full((11, 11, 3), 9.0, np.float32), np.ones((11, 11), np.float32), 6), canvas, labels, (0.0, 0.0))
    assert np.sum(labels == 6) == 36
    assert labels[5, 5] == 6


def test_a_turned_sprite_covers_its_turned_outline() -> None:
    bar = np.zeros((21, 21), np.float32)
    bar[9:12] = 1
    canvas, labels = np.zeros((40, 40, 3), np.float32), np.zeros((40, 40), np.uint8)
    paste(Sprite(np.full((21, 21, 3), 9.0, np.float32), bar, 6), canvas, labels, (20.0, 20.0), np.pi / 4)
    # Counter-clockwise, as seen: from lower left to upper right.
    assert (labels[14, 26], labels[26, 14], labels[14, 14], labels[26, 26]) == (6, 6, 0, 0)


def test_light_changes_the_picture_but_not_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    lit = make_scene(11)
    monkeypatch.setattr(scenes, "light", lambda rng, size_hw: np.full((*size_hw, 1), 0.5, np.float32))
    dim = make_scene(11)
    assert np.array_equal(dim.labels, lit.labels)
    assert dim.rgb.mean() < 0.9 * lit.rgb.mean()


def test_things_are_all_named_somewhere_in_the_labels() -> None:
    assert CLASS_NAMES[: len(STUFF)] == tuple(STUFF)
    assert CLASS_NAMES[len(STUFF) :] == tuple(THINGS)[: scenes.WORLD_THINGS]
