"""One video: what is kept from frame to frame, and how the next frame is made from it."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nerve_runtime.bundle.spec import Array
from nerve_runtime.errors import ResourceError, UsageError
from nerve_runtime.frames import Frame, resize_frame
from nerve_runtime.graphs import Graphs, Timings, Words
from nerve_runtime.motion import Motion, MotionTracker
from nerve_runtime.result import IGNORE_LABEL, FrameResult
from nerve_runtime.temporal import Decision, Temporal

UInt8Array = NDArray[np.uint8]
NEIGHBOURS = tuple((down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if (down, right) != (0, 0))
"""(down, right) of the eight neighbours, in the order of the first axis of W."""
ALL_OF_IT = np.array(1.0, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class EncodedFrame:
    """A frame that was encoded: all that needs no class names, ready to be decoded.

    Attributes:
        index: number of the frame in its source.
        time_s: its presentation time, None for a bare array.
        size_hw: its size in pixels.
        working: uint8 (1, h, w, 3), at the bundle's size.
        decision: what the temporal policy decided.
        keyframe: number of the keyframe that `motion` speaks of.
        age: frames since that keyframe.
        motion: where the frame's tokens come from, None where nothing is followed.
        head_affinity: of a keyframe, what the graph `attention` said; None between keyframes.
        local_weights: W of this frame, None where only a keyframe has one.
        timings_ms: milliseconds by stage so far.
        spent_s: seconds spent so far.
    """

    index: int
    time_s: Fraction | None
    size_hw: tuple[int, int]
    working: UInt8Array
    decision: Decision
    keyframe: int
    age: int
    motion: Motion | None
    head_affinity: Array | None
    local_weights: Array | None
    timings_ms: Timings
    spent_s: float


@dataclass(slots=True)
class _Kept:
    """What outlives a frame once it is decoded."""

    keyframe: int
    words: Words
    head_affinity: Array
    affinity: Array
    local_weights: Array
    closed: dict[str, Array]
    seeds: Array
    scores: Array


class Video:
    """Segments the frames of one video in order; several videos may share the graphs of one segmenter.

    `encode` of the next frame may run beside `decode` of the one before, in another thread; each is called in the order
    of the frames, and each frame that was encoded is decoded once.

    State: the last keyframe with its attention, the picture that motion is measured from, the latest scores.
    """

    def __init__(
        self, graphs: Graphs, words: Callable[[], Words], temporal: Temporal, seen: Callable[[bool], None]
    ) -> None:
        self._graphs = graphs
        self._words = words
        self._temporal = temporal
        self._seen = seen
        self._tracker = MotionTracker(graphs.manifest.geometry.grid_hw)
        self._watches = temporal.watches
        baked = graphs.manifest.method.baked
        # How often 3 warm steps make as many as a walk from nothing.
        self._rounds = math.ceil(int(str(baked["steps"])) / max(1, int(str(baked["warm_steps"]))))
        self._frames_seen = 0
        self._keyframes = 0
        self._age: int | None = None
        self._keyframe_s = 0.0
        self._size_hw: tuple[int, int] | None = None
        self._anew = False
        self._kept: _Kept | None = None

    def segment(self, frame: Frame | UInt8Array, *, bgr: bool = False) -> FrameResult:
        """`encode`, then `decode`.

        Raises:
            UsageError: the pixels are not uint8 (H, W, 3).
            ResourceError: memory ran out; the next frame can be tried.
        """
        return self.decode(self.encode(frame, bgr=bgr))

    def reset(self) -> None:
        """Forget everything: the next frame that is encoded is computed from nothing, as after a cut."""
        self._anew = True
        self._kept = None

    def encode(self, frame: Frame | UInt8Array, *, bgr: bool = False) -> EncodedFrame:
        """Bring a frame to the working size, see how it moved, and compute attention where it is due.

        Args:
            frame: a Frame, or pixels uint8 (H, W, 3), RGB.
            bgr: the pixels are BGR, as OpenCV gives them.

        Raises:
            UsageError: the pixels are not uint8 (H, W, 3).
            ResourceError: memory ran out; the next frame can be tried.
        """
        pixels, index, time_s = _taken_apart(frame, self._frames_seen)
        self._frames_seen += 1
        with _Whole(self, index, (pixels.shape[0], pixels.shape[1])):
            started = time.perf_counter()
            timings_ms: Timings = {}
            working = self._working_frame(pixels, timings_ms, bgr=bgr)
            size_hw = (pixels.shape[0], pixels.shape[1])
            motion = self._followed(working, timings_ms)
            decision = self._decided(size_hw, time_s, index, motion)
            head_affinity, local_weights = self._seen_in(working, decision, timings_ms)
            spent_s = time.perf_counter() - started
        useful = motion if decision != "cut" else None
        age = self._age or 0
        return EncodedFrame(
            index, time_s, size_hw, working, decision, self._keyframes, age, useful,
            head_affinity, local_weights, timings_ms, spent_s,
        )  # fmt: skip

    def decode(self, encoded: EncodedFrame) -> FrameResult:
        """Label every pixel of a frame that was encoded.

        Raises:
            ResourceError: memory ran out; the next frame can be tried.
        """
        with _Whole(self, encoded.index, encoded.size_hw):
            started = time.perf_counter()
            timings_ms = dict(encoded.timings_ms)
            words = self._words()
            kept, keyframe = self._advanced(encoded, words, timings_ms)
            valid = bool(np.isfinite(kept.scores).all())
            if valid:
                labels, confidence = self._graphs.read_out(kept.scores, words, encoded.size_hw, timings_ms)
                self._kept = kept
            else:
                labels, confidence = _no_labels(encoded.size_hw)
                self.reset()
            timings_ms["total"] = 1000 * (encoded.spent_s + time.perf_counter() - started)
        self._seen(valid)
        return FrameResult(
            labels, confidence, words.bank.class_names, encoded.index, encoded.time_s, timings_ms,
            keyframe, 0 if keyframe else encoded.age, valid,
        )  # fmt: skip

    def _working_frame(self, pixels: UInt8Array, timings_ms: Timings, *, bgr: bool) -> UInt8Array:
        started = time.perf_counter()
        resized = resize_frame(pixels, self._graphs.manifest.geometry.working_hw)
        rgb = resized[..., ::-1] if bgr else resized
        timings_ms["resize"] = 1000 * (time.perf_counter() - started)
        return np.ascontiguousarray(rgb[None])

    def _followed(self, working: UInt8Array, timings_ms: Timings) -> Motion | None:
        if self._anew:
            self._anew, self._age = False, None
            self._tracker.forget()
        if not self._watches:
            return None
        started = time.perf_counter()
        motion = self._tracker.follow(working[0])
        timings_ms["motion"] = 1000 * (time.perf_counter() - started)
        return motion

    def _decided(
        self, size_hw: tuple[int, int], time_s: Fraction | None, index: int, motion: Motion | None
    ) -> Decision:
        """Decide, and count from the keyframe."""
        now_s = 0.0 if time_s is None else float(time_s)
        decision = self._temporal.decide(
            None if self._age is None else self._age + 1,
            now_s - self._keyframe_s,
            same_size=size_hw == self._size_hw,
            traced=1.0 if motion is None else motion.traced,
            visible=1.0 if motion is None else motion.visible,
        )
        self._size_hw = size_hw
        if decision == "between":
            self._age = (self._age or 0) + 1
            return decision
        self._age, self._keyframe_s = 0, now_s
        self._keyframes += 1
        self._tracker.begin()
        return decision

    def _seen_in(
        self, working: UInt8Array, decision: Decision, timings_ms: Timings
    ) -> tuple[Array | None, Array | None]:
        if decision != "between":
            encoded = self._graphs.run("attention", timings_ms, frame=working)
            return encoded["head_affinity"], encoded["local_weights"]
        if self._temporal.between == "follow" and "local" in self._graphs:
            return None, self._graphs.run("local", timings_ms, frame=working)["local_weights"]
        return None, None

    def _advanced(self, encoded: EncodedFrame, words: Words, timings_ms: Timings) -> tuple[_Kept, bool]:
        """What is kept after this frame, and whether its attention was computed for it."""
        before = self._kept if encoded.decision != "cut" else None
        if encoded.head_affinity is not None and encoded.local_weights is not None:
            return self._keyframe(
                encoded, words, before, encoded.head_affinity, encoded.local_weights, timings_ms
            ), True
        if before is None or before.keyframe != encoded.keyframe:
            # The frames before were lost to an error after this one was encoded: make it a keyframe of its own.
            found = self._graphs.run("attention", timings_ms, frame=encoded.working)
            tensors = found["head_affinity"], found["local_weights"]
            kept = self._keyframe(encoded, words, None, *tensors, timings_ms)
            kept.keyframe = -1  # later frames speak of another keyframe until the next one is encoded
            self._anew = True
            return kept, True
        return self._between(encoded, words, before, timings_ms), False

    def _keyframe(
        self,
        encoded: EncodedFrame,
        words: Words,
        before: _Kept | None,
        head_affinity: Array,
        local_weights: Array,
        timings_ms: Timings,
    ) -> _Kept:
        fresh = self._graphs.seed_scores(encoded.working, words, timings_ms)
        seeds = self._smoothed(fresh, encoded, words, before, timings_ms)
        affinity = self._mixed(head_affinity, seeds, words, timings_ms)
        graph = {"seed_scores": seeds, "affinity": affinity, "local_weights": local_weights}
        scores = self._graphs.run("walk", timings_ms, **graph, **_travel(words))["label_scores"]
        closed = self._solved(affinity, local_weights, words, timings_ms)
        return _Kept(encoded.keyframe, words, head_affinity, affinity, local_weights, closed, seeds, scores)

    def _between(self, encoded: EncodedFrame, words: Words, before: _Kept, timings_ms: Timings) -> _Kept:
        kept = _Kept(
            before.keyframe, words, before.head_affinity, before.affinity, before.local_weights, before.closed,
            before.seeds, before.scores,
        )  # fmt: skip
        same_words = before.words is words
        kept.seeds = self._seeds(encoded, words, before, timings_ms)
        if not same_words:
            kept.affinity = self._mixed(before.head_affinity, kept.seeds, words, timings_ms)
            kept.closed = self._solved(kept.affinity, kept.local_weights, words, timings_ms)
        kept.scores = self._walked(encoded, kept, timings_ms, start=before.scores if same_words else None)
        return kept

    def _seeds(self, encoded: EncodedFrame, words: Words, before: _Kept, timings_ms: Timings) -> Array:
        if before.words is words:
            if self._temporal.between == "hold":
                return before.seeds
            if encoded.age % self._temporal.scores_every:
                return self._carried(before.seeds, before.seeds, encoded.motion, ALL_OF_IT, timings_ms)
        fresh = self._graphs.seed_scores(encoded.working, words, timings_ms)
        return self._smoothed(fresh, encoded, words, before, timings_ms)

    def _smoothed(
        self, fresh: Array, encoded: EncodedFrame, words: Words, before: _Kept | None, timings_ms: Timings
    ) -> Array:
        if not self._temporal.smoothing or before is None or before.words is not words:
            return fresh
        keep = np.array(self._temporal.smoothing, dtype=np.float32)
        return self._carried(fresh, before.seeds, encoded.motion, keep, timings_ms)

    def _carried(self, fresh: Array, previous: Array, motion: Motion | None, keep: Array, timings_ms: Timings) -> Array:
        if motion is None:
            return fresh
        return self._graphs.run(
            "carry",
            timings_ms,
            seed_scores=fresh,
            previous_scores=previous,
            previous_tokens=motion.previous_tokens,
            previous_weights=motion.previous_weights,
            keep=keep,
        )["carried_scores"]

    def _mixed(self, head_affinity: Array, seeds: Array, words: Words, timings_ms: Timings) -> Array:
        temperature = words.scalars["head_temperature"]
        tensors = {"head_affinity": head_affinity, "seed_scores": seeds, "head_temperature": temperature}
        return self._graphs.run("mix", timings_ms, **tensors)["affinity"]

    def _solved(self, affinity: Array, local_weights: Array, words: Words, timings_ms: Timings) -> dict[str, Array]:
        if "solve" not in self._graphs:
            return {}
        return self._graphs.run("solve", timings_ms, affinity=affinity, local_weights=local_weights, **_travel(words))

    def _walked(self, encoded: EncodedFrame, kept: _Kept, timings_ms: Timings, *, start: Array | None) -> Array:
        """Label scores between keyframes; without a start, after a change of classes, as many steps as from nothing."""
        way, travel = self._temporal.between, _travel(kept.words)
        if way == "exact":
            tensors = {"seed_scores": kept.seeds, "local_weights": kept.local_weights, **kept.closed}
            return self._graphs.run("walk_exact", timings_ms, **tensors, **travel)["label_scores"]
        if way == "follow" and encoded.motion is not None:
            return self._walked_after(encoded, encoded.motion, kept, timings_ms, start)
        graph = {"seed_scores": kept.seeds, "affinity": kept.affinity, "local_weights": kept.local_weights}
        if start is None:
            return self._graphs.run("walk", timings_ms, **graph, **travel)["label_scores"]
        if way == "hold":
            return start
        return self._graphs.run("walk_warm", timings_ms, **graph, previous_scores=start, **travel)["label_scores"]

    def _walked_after(
        self, encoded: EncodedFrame, motion: Motion, kept: _Kept, timings_ms: Timings, start: Array | None
    ) -> Array:
        weights = encoded.local_weights
        tensors = {
            "seed_scores": kept.seeds,
            "affinity": kept.affinity,
            "local_weights": carried_neighbours(kept.local_weights, motion) if weights is None else weights,
            "origin_tokens": motion.origin_tokens,
            "origin_visible": motion.origin_visible,
            **_travel(kept.words),
        }
        rounds = 1 if start is not None else self._rounds
        scores = kept.seeds if start is None else self._carried(kept.seeds, start, motion, ALL_OF_IT, timings_ms)
        for _ in range(rounds):
            scores = self._graphs.run("walk_carried", timings_ms, **tensors, previous_scores=scores)["label_scores"]
        return scores


class _Whole:
    """A frame is done whole or the video starts anew; running out of memory is an error of the frame alone."""

    def __init__(self, video: Video, index: int, size_hw: tuple[int, int]) -> None:
        self._video, self._index, self._size_hw = video, index, size_hw

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if kind is not None:
            self._video.reset()
        if isinstance(error, MemoryError):
            raise ResourceError(
                f"frame {self._index} of {self._size_hw[1]} x {self._size_hw[0]} pixels ran out of memory; use smaller frames"
            ) from error


def carried_neighbours(local_weights: Array, motion: Motion) -> Array:
    """W of a keyframe, float32 (8, h, w), looked up at the origins of a frame's tokens, borders renormalised."""
    height, width = local_weights.shape[1:]
    found = local_weights.reshape(8, -1)[:, motion.origin_tokens].reshape(8, height, width)
    rows, columns = np.mgrid[0:height, 0:width]
    inside = [
        (rows + down >= 0) & (rows + down < height) & (columns + right >= 0) & (columns + right < width)
        for down, right in NEIGHBOURS
    ]
    # A token that came from the border knows nothing of the side that lay outside: a little of each keeps rows whole.
    weights = (found + np.float32(1e-6)) * np.stack(inside)
    return np.asarray(weights / weights.sum(axis=0), dtype=np.float32)


def _travel(words: Words) -> dict[str, Array]:
    return {"alpha": words.scalars["alpha"], "beta": words.scalars["beta"]}


def _no_labels(size_hw: tuple[int, int]) -> tuple[UInt8Array, UInt8Array]:
    return np.full(size_hw, IGNORE_LABEL, dtype=np.uint8), np.zeros(size_hw, dtype=np.uint8)


def _taken_apart(frame: Frame | UInt8Array, index: int) -> tuple[UInt8Array, int, Fraction | None]:
    if isinstance(frame, Frame):
        return _checked_pixels(frame.rgb, frame.index), frame.index, frame.time_s
    return _checked_pixels(frame, index), index, None


def _checked_pixels(pixels: object, index: int) -> UInt8Array:
    if not isinstance(pixels, np.ndarray):
        raise UsageError(
            f"frame {index} is a {type(pixels).__name__}, expected a NumPy array uint8 (H, W, 3), RGB; numpy.asarray makes one"
        )
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise UsageError(
            f"frame {index} is {pixels.dtype} {pixels.shape}, expected uint8 (H, W, 3) pixels, RGB; {_remedy(pixels)}"
        )
    return pixels


def _remedy(pixels: NDArray[Any]) -> str:
    """What makes a frame of an array that is none."""
    if 0 in pixels.shape:
        return "it has no pixels"
    if pixels.ndim == 4:
        return "give the frames of a batch one by one"
    if pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 1):
        return "grey becomes RGB by cv2.cvtColor(frame, cv2.COLOR_GRAY2RGB)"
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        return "leave out alpha: frame[..., :3]"
    if pixels.ndim == 3 and pixels.shape[0] == 3:
        return "move the channels last: frame.transpose(1, 2, 0)"
    if np.issubdtype(pixels.dtype, np.floating):
        return "0 to 1 becomes uint8 by (frame * 255).round().astype(numpy.uint8), 0 to 255 without the factor"
    return "convert it to 0 to 255 with astype(numpy.uint8)"
