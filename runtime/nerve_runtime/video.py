"""One video: when attention is computed anew, and what is kept from frame to frame."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from fractions import Fraction

from nerve_runtime.backends.base import Tensor
from nerve_runtime.decoding import EncodedFrame, FrameDecoder, VideoState
from nerve_runtime.errors import ResourceError
from nerve_runtime.frames import Frame, UInt8Array, check_pixels, working_frame
from nerve_runtime.graphs import PATCH_FEATURES, ActiveVocabulary, Graphs, Timings
from nerve_runtime.labels import no_labels
from nerve_runtime.motion import Motion, MotionTracker
from nerve_runtime.result import FrameResult
from nerve_runtime.temporal import Decision, Temporal


class Video:
    """Segments the frames of one video in order; several videos may share the graphs of one segmenter.

    `encode` of the next frame may run beside `decode` of the one before, in another thread; each is called in the order
    of the frames, and each encoded frame is decoded once.

    State of `encode`: the picture that motion is measured from, the keyframe's number and age. State of `decode`: the
    last keyframe's attention and the latest scores.

    Args:
        graphs: of the bundle.
        vocabulary: gives the vocabulary in use; asked once for each frame.
        temporal: when attention is computed anew.
        on_decoded: called after each frame with whether its scores were finite.
    """

    def __init__(
        self,
        graphs: Graphs,
        vocabulary: Callable[[], ActiveVocabulary],
        temporal: Temporal,
        on_decoded: Callable[[bool], None],
    ) -> None:
        self._graphs = graphs
        self._vocabulary = vocabulary
        self._temporal = temporal
        self._on_decoded = on_decoded
        self._tracker = MotionTracker(graphs.manifest.geometry.grid_hw)
        self._frames_encoded = 0
        self._keyframes = 0
        self._age: int | None = None
        self._keyframe_s = 0.0
        self._size_hw: tuple[int, int] | None = None
        self._restart = False
        self._state: VideoState | None = None

    def segment(self, frame: Frame | UInt8Array, *, bgr: bool = False) -> FrameResult:
        """`encode`, then `decode`; raises what they raise."""
        return self.decode(self.encode(frame, bgr=bgr))

    def reset(self) -> None:
        """Forget everything: the next frame to be encoded is computed from nothing, as after a cut."""
        self._restart = True
        self._state = None

    def encode(self, frame: Frame | UInt8Array, *, bgr: bool = False) -> EncodedFrame:
        """Bring a frame to the working size, measure how it moved, and compute attention where it is due.

        Args:
            frame: a Frame, or pixels uint8 (H, W, 3), RGB.
            bgr: the pixels are BGR, as OpenCV gives them.

        Raises:
            UsageError: the pixels are not uint8 (H, W, 3).
            ResourceError: memory ran out; the next frame can be tried.
        """
        index = frame.index if isinstance(frame, Frame) else self._frames_encoded
        time_s = frame.time_s if isinstance(frame, Frame) else None
        pixels = check_pixels(frame.rgb if isinstance(frame, Frame) else frame, index)
        size_hw = (pixels.shape[0], pixels.shape[1])
        self._frames_encoded += 1
        with self._frame_transaction(index, size_hw):
            started = time.perf_counter()
            timings_ms: Timings = {}
            rgb = pixels[..., ::-1] if bgr else pixels
            working_pixels = self._working_frame(pixels, timings_ms, bgr=bgr)
            motion = self._measure_motion(working_pixels, timings_ms)
            decision = self._decide(size_hw, time_s, motion)
            working = self._graphs.upload(working_pixels)
            attention = self._run_attention(working, decision, timings_ms)
            return EncodedFrame(
                index=index, time_s=time_s, rgb=rgb, working=working, decision=decision,
                keyframe=self._keyframes, age=self._age or 0, motion=self._followed(motion, decision),
                head_affinity=attention.get("head_affinity"), local_weights=attention.get("local_weights"),
                patch_features=attention.get(PATCH_FEATURES), timings_ms=timings_ms,
                spent_s=time.perf_counter() - started,
            )  # fmt: skip

    def decode(self, encoded: EncodedFrame) -> FrameResult:
        """Label every pixel of an encoded frame.

        Raises:
            ResourceError: memory ran out; the next frame can be tried.
        """
        with self._frame_transaction(encoded.index, encoded.size_hw):
            started = time.perf_counter()
            timings_ms = dict(encoded.timings_ms)
            vocabulary = self._vocabulary()
            decoder = FrameDecoder(self._graphs, self._temporal, encoded, vocabulary, timings_ms)
            state, keyframe = decoder.next_state(self._state)
            if state.keyframe is None:
                self._restart = True  # the frames encoded so far refer to a keyframe that was lost
            readings = self._graphs.read_out(
                state.label_scores, encoded.working, vocabulary, encoded.size_hw, timings_ms
            )
            if readings is not None:
                labels, confidence = readings
                self._state = state
            else:
                labels, confidence = no_labels(encoded.size_hw, vocabulary.label_dtype)
                self.reset()
            timings_ms["total"] = 1000 * (encoded.spent_s + time.perf_counter() - started)
        self._on_decoded(readings is not None)
        return FrameResult(
            labels=labels, confidence=confidence, class_names=vocabulary.bank.class_names, index=encoded.index,
            time_s=encoded.time_s, timings_ms=timings_ms, keyframe=keyframe,
            affinity_age=0 if keyframe else encoded.age, valid=readings is not None, rgb=encoded.rgb,
        )  # fmt: skip

    @contextmanager
    def _frame_transaction(self, index: int, size_hw: tuple[int, int]) -> Iterator[None]:
        """Finish a frame whole or start the video anew; running out of memory is an error of the frame alone."""
        try:
            yield
        except MemoryError as error:
            self.reset()
            raise ResourceError(
                f"frame {index} of {size_hw[1]} x {size_hw[0]} pixels ran out of memory; use smaller frames"
            ) from error
        except BaseException:
            self.reset()
            raise

    def _working_frame(self, pixels: UInt8Array, timings_ms: Timings, *, bgr: bool) -> UInt8Array:
        started = time.perf_counter()
        working = working_frame(pixels, self._graphs.manifest.geometry.working_hw, bgr=bgr)
        timings_ms["resize"] = 1000 * (time.perf_counter() - started)
        return working

    def _measure_motion(self, working: UInt8Array, timings_ms: Timings) -> Motion | None:
        if self._restart:
            self._restart, self._age = False, None
            self._tracker.forget()
        if not self._temporal.watches:
            return None
        started = time.perf_counter()
        motion = self._tracker.follow(working[0])
        timings_ms["motion"] = 1000 * (time.perf_counter() - started)
        return motion

    def _decide(self, size_hw: tuple[int, int], time_s: Fraction | None, motion: Motion | None) -> Decision:
        """Decide, and count from the keyframe."""
        now_s = 0.0 if time_s is None else float(time_s)
        decision = self._temporal.decide(
            None if self._age is None else self._age + 1,
            now_s - self._keyframe_s,
            same_size=size_hw == self._size_hw,
            traced=1.0 if motion is None else motion.traced,
            visible=1.0 if motion is None else motion.visible,
        )
        if self._size_hw not in (None, size_hw):
            self._graphs.release_unused()
        self._size_hw = size_hw
        if decision == "between":
            self._age = (self._age or 0) + 1
            return decision
        self._age, self._keyframe_s = 0, now_s
        self._keyframes += 1
        self._tracker.begin()
        return decision

    def _followed(self, motion: Motion | None, decision: Decision) -> dict[str, Tensor] | None:
        """The motion as inputs of the graphs, with the back end; None where nothing is followed."""
        if motion is None or decision == "cut":
            return None
        return {field.name: self._graphs.upload(getattr(motion, field.name)) for field in fields(motion)}

    def _run_attention(self, working: Tensor, decision: Decision, timings_ms: Timings) -> dict[str, Tensor]:
        """What is computed of the picture alone: all of stage `attention` on a keyframe.

        Between keyframes its patch features and W where one tower says both and scores are due, or W where a graph
        computes it from colours.
        """
        if decision != "between":
            return self._graphs.run("attention", {"frame": working}, timings_ms)
        follows = self._temporal.between == "follow"
        if self._graphs.has_one_tower and self._scores_are_due():
            outputs = self._graphs.run("attention", {"frame": working}, timings_ms)
            return {name: outputs[name] for name in (PATCH_FEATURES, *(["local_weights"] if follows else []))}
        if follows and "local" in self._graphs:
            return self._graphs.run("local", {"frame": working}, timings_ms)
        return {}

    def _scores_are_due(self) -> bool:
        return self._temporal.between != "hold" and (self._age or 0) % self._temporal.scores_every == 0
