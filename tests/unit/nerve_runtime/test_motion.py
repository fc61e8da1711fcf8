import numpy as np
import pytest
from numpy.typing import NDArray

from nerve_runtime.motion import Motion, MotionTracker
from nerve_runtime.opencv import cv2

GRID_HW = (16, 24)
SIZE_HW = (64, 96)
TOKEN_PX = 4
Picture = NDArray[np.uint8]


def texture(seed: int) -> Picture:
    """A picture larger than a frame, with detail at several scales, as things have."""
    random = np.random.default_rng(seed)
    layers = [
        cv2.resize(random.normal(0, 1, (side, side, 3)), (160, 160), interpolation=cv2.INTER_CUBIC)
        for side in (10, 20, 40)
    ]
    return np.clip(128 + 40 * sum(layers), 0, 255).astype(np.uint8)


def view(picture: Picture, down: int, right: int) -> Picture:
    return np.ascontiguousarray(picture[down : down + SIZE_HW[0], right : right + SIZE_HW[1]])


def tracked(*frames: Picture) -> Motion:
    """The motion of the last frame, the first being the keyframe."""
    tracker = MotionTracker(GRID_HW)
    assert tracker.follow(frames[0]) is None
    tracker.begin()
    motion = [tracker.follow(frame) for frame in frames[1:]][-1]
    assert motion is not None
    return motion


def origins_of(motion: Motion) -> NDArray[np.int64]:
    """Origins as (down, right) of the token grid, (h, w, 2)."""
    return np.stack(np.divmod(motion.origin_tokens, GRID_HW[1]), axis=1).reshape(*GRID_HW, 2)


def test_a_picture_at_rest_comes_from_where_it_is() -> None:
    still = view(texture(0), 20, 20)
    motion = tracked(still, still, still)
    np.testing.assert_array_equal(motion.origin_tokens, np.arange(GRID_HW[0] * GRID_HW[1]))
    np.testing.assert_allclose(motion.origin_visible, 1)
    np.testing.assert_allclose(motion.previous_weights.sum(axis=0), 1, atol=1e-6)
    # The nearest of the four tokens is the token itself.
    nearest = np.take_along_axis(motion.previous_tokens, motion.previous_weights.argmax(axis=0)[None], axis=0)[0]
    np.testing.assert_array_equal(nearest, motion.origin_tokens)


def test_a_pan_is_followed_over_frames_to_the_keyframe() -> None:
    """Six frames of 4 px, a token each: the origin lies six tokens away, where that is inside the keyframe."""
    picture = texture(1)
    motion = tracked(*(view(picture, 20, 20 + TOKEN_PX * step) for step in range(7)))
    rows, columns = np.mgrid[0 : GRID_HW[0], 0 : GRID_HW[1]]
    inside = columns < GRID_HW[1] - 7
    found = origins_of(motion)
    assert np.mean(np.abs(found[..., 1] - (columns + 6))[inside] <= 1) > 0.98
    assert np.mean(np.abs(found[..., 0] - rows)[inside] <= 1) > 0.98
    visible = motion.origin_visible.reshape(GRID_HW)
    assert visible[:, : GRID_HW[1] - 7].mean() > 0.95
    assert visible[:, -5:].mean() < 0.4  # came into view since


def test_previous_tokens_point_one_step_back() -> None:
    picture = texture(2)
    motion = tracked(*(view(picture, 20 + 2 * step, 20) for step in range(4)))
    shares = motion.previous_weights / np.maximum(motion.previous_weights.sum(axis=0), 1e-9)
    rows = (np.divmod(motion.previous_tokens, GRID_HW[1])[0] * shares).sum(axis=0).reshape(GRID_HW)
    own = np.arange(GRID_HW[0])[:, None]
    assert np.median((rows - own)[1:-2]) == pytest.approx(0.5, abs=0.1)  # 2 px are half a token


def test_another_picture_is_not_believed() -> None:
    motion = tracked(view(texture(3), 10, 10), view(texture(4), 10, 10))
    assert motion.traced < 0.45
    assert motion.visible < 0.45


def test_weights_never_exceed_what_is_believed() -> None:
    motion = tracked(view(texture(5), 10, 10), view(texture(5), 14, 18), view(texture(6), 14, 18))
    assert motion.previous_weights.min() >= 0
    assert motion.previous_weights.sum(axis=0).max() <= 1 + 1e-6
    assert 0 <= motion.origin_visible.min() <= motion.origin_visible.max() <= 1
    assert motion.previous_tokens.min() >= 0
    assert motion.previous_tokens.max() < GRID_HW[0] * GRID_HW[1]


def test_after_forgetting_the_next_frame_is_the_first() -> None:
    tracker = MotionTracker(GRID_HW)
    still = view(texture(0), 20, 20)
    tracker.follow(still)
    tracker.begin()
    assert tracker.follow(still) is not None
    tracker.forget()
    assert tracker.follow(still) is None


def test_a_large_frame_is_measured_at_a_bounded_size() -> None:
    large = cv2.resize(view(texture(7), 20, 20), (960, 640), interpolation=cv2.INTER_LINEAR)
    tracker = MotionTracker((80, 120))
    tracker.follow(np.asarray(large, dtype=np.uint8))
    tracker.begin()
    motion = tracker.follow(np.asarray(large, dtype=np.uint8))
    assert motion is not None
    np.testing.assert_array_equal(motion.origin_tokens, np.arange(80 * 120))
