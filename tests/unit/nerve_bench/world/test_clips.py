from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from nerve_bench.world import SEEDS, MovingFrame, clips, moving_scene
from nerve_bench.world.clips import _bounce, _Shot, write_video
from nerve_bench.world.scenes import background

CLIP_SEEDS = SEEDS["clips"][:6]


def _clip(seed: int, frames: int, cuts: int) -> list[MovingFrame]:
    return list(moving_scene(seed, frames, cuts=cuts))


def _still_shot(pan_yx: tuple[float, float]) -> _Shot:
    canvas, labels = background(np.random.default_rng(4), (130, 130), 0.5)
    return _Shot(canvas, labels, [], np.ones((64, 64, 1), np.float32), np.array(pan_yx), 64)


@pytest.mark.parametrize(("cuts", "starts"), [(0, [0]), (1, [0, 6]), (2, [0, 4, 8])])
def test_the_first_frame_of_each_shot_is_flagged(cuts: int, starts: list[int]) -> None:
    assert [index for index, frame in enumerate(_clip(CLIP_SEEDS[0], 12, cuts)) if frame.cut] == starts


def test_the_same_seed_plays_the_same_clip() -> None:
    for first, again in zip(_clip(CLIP_SEEDS[1], 6, 1), _clip(CLIP_SEEDS[1], 6, 1), strict=True):
        assert np.array_equal(first.rgb, again.rgb)
        assert np.array_equal(first.labels, again.labels)


def test_labels_change_little_within_a_shot_and_much_at_a_cut() -> None:
    within, across = [], []
    for seed in CLIP_SEEDS:
        frames = _clip(seed, 12, 1)
        changes = [float(np.mean(a.labels != b.labels)) for a, b in pairwise(frames)]
        across.append(changes.pop(5))
        within += changes
    assert max(within) < 0.25
    assert np.mean(within) < 0.1
    assert np.mean(across) > 0.5


def test_things_move_in_every_clip() -> None:
    for seed in CLIP_SEEDS:
        frames = _clip(seed, 10, 0)
        assert not np.array_equal(frames[0].labels, frames[-1].labels)


def test_a_panning_camera_shifts_picture_and_labels_together() -> None:
    shot = _still_shot((0.0, 2.0))
    before, after = (shot.render(np.random.default_rng(0), time) for time in (0, 3))
    assert np.array_equal(after.labels[:, :-6], before.labels[:, 6:])
    # Sensor noise of standard deviation 4 is fresh in each frame: the difference of two has 5.7.
    assert np.std(after.rgb[:, :-6].astype(float) - before.rgb[:, 6:]) < 8


def test_a_pan_never_leaves_the_background() -> None:
    shot = _still_shot((1.0, -2.0))
    shapes = {shot.render(np.random.default_rng(0), time).labels.shape for time in range(0, 400, 7)}
    assert shapes == {(64, 64)}


def test_a_resting_camera_sees_the_same_background() -> None:
    shot = _still_shot((0.0, 0.0))
    first, later = (shot.render(np.random.default_rng(0), time) for time in (0, 9))
    assert np.array_equal(first.labels, later.labels)


def test_bodies_bounce_off_the_walls() -> None:
    positions = np.array([_bounce(np.array([10.0 + 7 * time, 50.0]), 100.0) for time in range(80)])
    assert positions.min() >= 0
    assert positions.max() <= 100
    assert np.allclose(np.abs(np.diff(positions[:, 1])), 0)
    # A body keeps its speed except in the frame in which it turns.
    assert np.mean(np.isclose(np.abs(np.diff(positions[:, 0])), 7)) > 0.9


def test_labels_follow_the_thing_they_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clips, "light", lambda rng, size_hw: np.ones((*size_hw, 1), np.float32))
    frames = _clip(CLIP_SEEDS[2], 12, 0)
    for label in np.unique(frames[0].labels):
        pixels = [int(np.sum(frame.labels == label)) for frame in frames]
        whole = [frame for frame, count in zip(frames, pixels, strict=True) if count > max(300, 0.8 * max(pixels))]
        shown = [frame.rgb[frame.labels == label].mean(0) for frame in whole]
        # 30 levels: where up to a fifth is hidden the parts of other colours may be what is left.
        assert not shown or np.ptp(np.stack(shown), axis=0).max() < 30


def test_a_written_clip_plays_back_whole(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    assert write_video(moving_scene(CLIP_SEEDS[0], 8), str(path), 12.0) == 8
    capture = cv2.VideoCapture(str(path))
    count = 0
    while capture.read()[0]:
        count += 1
    capture.release()
    assert count == 8


def test_a_clip_for_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="absent"):
        write_video(moving_scene(CLIP_SEEDS[0], 2), str(tmp_path / "absent" / "clip.mp4"), 12.0)
