"""The C library's motion tracker, given the same flow, finds what Python's finds."""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields

import numpy as np
import pytest

from nerve_runtime.motion import FloatArray, Motion, MotionTracker, UInt8Array, grey_picture
from nerve_runtime.opencv import cv2
from tests.native import pictures

pytestmark = pytest.mark.native


@dataclass
class GivenFlow:
    """Stands in for OpenCV's DIS: answers the flow that was put in."""

    flow: FloatArray | None = field(default=None)

    def calc(self, grey: UInt8Array, previous: UInt8Array, first_guess: None) -> FloatArray:
        assert self.flow is not None
        assert grey.shape == previous.shape
        return self.flow


def assert_same(native: tuple[Motion, float, float] | None, python: Motion | None) -> None:
    """Fail where a bit differs."""
    if python is None or native is None:
        assert native is None
        assert python is None
        return
    motion, traced, visible = native
    for name in (each.name for each in fields(Motion)):
        np.testing.assert_array_equal(getattr(motion, name), getattr(python, name), err_msg=name)
    assert (traced, visible) == (python.traced, python.visible)


def clip(rng: np.random.Generator, size_hw: tuple[int, int], frames: int) -> Iterator[UInt8Array]:
    """A texture that wanders and turns, with a still patch before it, noise, and a cut in the middle."""
    height, width = size_hw
    scenes = [
        cv2.GaussianBlur(rng.integers(0, 256, (height * 2, width * 2, 3), dtype=np.uint8), (0, 0), 2) for _ in range(2)
    ]
    for index in range(frames):
        scene = scenes[index * 2 // frames]
        turn = cv2.getRotationMatrix2D((width, height), 2.0 * index, 1 + 0.01 * index)
        turn[:, 2] += np.array([3.1, -1.7]) * index
        seen = cv2.warpAffine(scene, turn, (width * 2, height * 2), borderMode=cv2.BORDER_REFLECT)
        frame = seen[height // 2 :, width // 2 :][:height, :width].astype(np.float32) * 2 - 128
        frame[: height // 4, : width // 3] = 90
        yield np.clip(frame + rng.normal(0, 3, frame.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("size_hw", "grid_hw"),
    [
        ((128, 128), (32, 32)),
        ((512, 512), (32, 32)),
        ((384, 384), (24, 24)),
        ((320, 512), (40, 64)),
        ((448, 768), (28, 48)),
        ((96, 130), (7, 11)),
        ((128, 768), (16, 96)),
    ],
)
def test_a_clip_with_measured_flow_gives_the_same_motion(size_hw: tuple[int, int], grid_hw: tuple[int, int]) -> None:
    rng = np.random.default_rng(size_hw)
    measure = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    tracker = MotionTracker(grid_hw)
    native = pictures.NativeTracker(grid_hw, pictures.motion_size_hw(size_hw))
    before: UInt8Array | None = None
    traced = []
    for index, frame in enumerate(clip(rng, size_hw, 14)):
        grey = grey_picture(frame)
        flow = np.zeros((*grey.shape, 2), np.float32) if before is None else measure.calc(grey, before, None)  # type: ignore[call-overload]  # None: no first guess
        python = tracker.follow(frame)
        assert_same(native.follow(grey, flow), python)
        traced.append(1.0 if python is None else python.traced)
        if index in (0, 5, 6, 11):
            tracker.begin()
            native.begin()
        before = grey
    assert max(traced[1:]) > min(traced[1:]) + 0.05  # the clip has both


@pytest.mark.parametrize("seed", range(12))
def test_any_flow_gives_the_same_motion(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(seed)
    grey_hw = (int(rng.integers(1, 70)), int(rng.integers(1, 70)))
    grid_hw = (int(rng.integers(1, 20)), int(rng.integers(1, 20)))
    given, tracker, native = GivenFlow(), MotionTracker(grid_hw), pictures.NativeTracker(grid_hw, grey_hw)
    monkeypatch.setattr(tracker, "_flow", given)
    frame = rng.integers(0, 256, (*grey_hw, 3), dtype=np.uint8)
    for _ in range(30):
        given.flow = rng.normal(0, rng.choice([0.01, 1, 5, 2000]), (*grey_hw, 2)).astype(np.float32)
        frame = np.clip(frame + rng.normal(0, rng.choice([0, 12, 25]), frame.shape), 0, 255).astype(np.uint8)
        assert_same(native.follow(grey_picture(frame), given.flow), tracker.follow(frame))
        match rng.integers(0, 8):
            case 0 | 1:
                tracker.begin()
                native.begin()
            case 2:
                tracker.forget()
                native.forget()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, -1e30, 1e5])
def test_a_pixel_without_a_usable_flow_is_found_nowhere_and_harms_no_other(value: float) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (16, 16), dtype=np.uint8)
    flow = np.zeros((16, 16, 2), np.float32)
    flow[3, 5, 0] = flow[9, 12, 1] = value
    tracker = pictures.NativeTracker((4, 4), (16, 16))
    tracker.follow(grey, None)
    tracker.begin()
    followed = tracker.follow(grey, flow)
    assert followed is not None
    motion, traced, visible = followed
    expected = np.ones(16, np.float32)
    expected[[1, 11]] = 15 / 16
    np.testing.assert_array_equal(motion.origin_tokens, np.arange(16))
    np.testing.assert_array_equal(motion.origin_visible, expected)
    np.testing.assert_array_equal(motion.previous_weights.sum(axis=0), expected)
    assert traced == visible == float(expected.mean())


def test_hostile_flows_give_tokens_of_the_grid_and_shares_up_to_one() -> None:
    rng = np.random.default_rng(1)
    values = np.array([np.nan, np.inf, -np.inf, 1e30, -1e30, 3e38, -3e38, 30000, -30001, 2e9, 0, 1e-45], np.float32)
    tracker = pictures.NativeTracker((5, 3), (23, 19))
    for _ in range(20):
        grey = rng.integers(0, 3, (23, 19), dtype=np.uint8)
        followed = tracker.follow(grey, np.asarray(rng.choice(values, (23, 19, 2))))
        tracker.begin()
        if followed is not None:
            motion, traced, visible = followed
            for tokens in (motion.origin_tokens, motion.previous_tokens):
                assert tokens.min() >= 0
                assert tokens.max() < 15
            assert 0 <= traced <= 1
            assert 0 <= visible <= 1


def test_without_a_flow_the_keyframe_is_lost() -> None:
    grey, flow = np.full((8, 8), 77, np.uint8), np.zeros((8, 8, 2), np.float32)
    tracker = pictures.NativeTracker((2, 2), (8, 8))
    tracker.follow(grey, None)
    tracker.begin()
    assert tracker.follow(grey, flow) is not None
    assert tracker.follow(grey, None) is None
    assert tracker.follow(grey, flow) is None
    tracker.begin()
    assert tracker.follow(grey, flow) is not None
