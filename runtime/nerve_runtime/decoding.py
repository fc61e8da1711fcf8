"""The second half of a frame's work: from its encoded form and the state of its video to the scores of its tokens."""

import math
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from nerve_runtime.bundle.spec import Array, StageName
from nerve_runtime.frames import UInt8Array
from nerve_runtime.graphs import ActiveVocabulary, Graphs, Timings
from nerve_runtime.motion import Motion, carried_neighbours
from nerve_runtime.temporal import Decision, Temporal

KEEP_ALL = np.array(1.0, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class EncodedFrame:
    """The first half of a frame's work: all that needs no class names.

    Attributes:
        index: number of the frame in its source.
        time_s: its presentation time, None for a bare array.
        size_hw: its size in pixels.
        working: uint8 (1, h, w, 3), at the bundle's size.
        decision: what the temporal policy decided.
        keyframe: number of the keyframe that `motion` refers to.
        age: frames since that keyframe.
        motion: where the frame's tokens come from, None where nothing is followed.
        head_affinity: output of stage `attention` for a keyframe, None between keyframes.
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


@dataclass(frozen=True, slots=True)
class VideoState:
    """What outlives a decoded frame.

    Attributes:
        keyframe: number of the keyframe whose attention this is; None for one that decoding made by itself.
        vocabulary: to which the scores belong.
        head_affinity: output of stage `attention`.
        affinity: S, mixed for the vocabulary.
        local_weights: W of the keyframe.
        closed_form: outputs of stage `solve`, none where it is not opened.
        seed_scores: G of the latest frame, float32 (c, p).
        label_scores: P of the latest frame, float32 (c, p).
    """

    keyframe: int | None
    vocabulary: ActiveVocabulary
    head_affinity: Array
    affinity: Array
    local_weights: Array
    closed_form: dict[str, Array]
    seed_scores: Array
    label_scores: Array


@dataclass(frozen=True, slots=True)
class FrameDecoder:
    """Decodes one frame; adds the milliseconds of the stages it runs to `timings_ms`."""

    graphs: Graphs
    temporal: Temporal
    frame: EncodedFrame
    vocabulary: ActiveVocabulary
    timings_ms: Timings

    def next_state(self, before: VideoState | None) -> tuple[VideoState, bool]:
        """The state after this frame, and whether its attention was computed for it.

        Args:
            before: the state after the frame before, None at the start and where that frame was lost.
        """
        frame = self.frame
        if frame.decision == "cut":
            before = None
        if frame.head_affinity is not None and frame.local_weights is not None:
            return self._keyframe(before, frame.keyframe, frame.head_affinity, frame.local_weights), True
        if before is None or before.keyframe != frame.keyframe:
            # The keyframe was lost to an error after this frame was encoded, so this one becomes a keyframe of its own.
            attention = self._run("attention", frame=frame.working)
            return self._keyframe(None, None, attention["head_affinity"], attention["local_weights"]), True
        return self._between_keyframes(before), False

    def _keyframe(
        self, before: VideoState | None, number: int | None, head_affinity: Array, local_weights: Array
    ) -> VideoState:
        seed_scores = self._fresh_seed_scores(before)
        affinity = self._mix_heads(head_affinity, seed_scores)
        label_scores = self._walk("walk", seed_scores=seed_scores, affinity=affinity, local_weights=local_weights)
        return VideoState(
            keyframe=number, vocabulary=self.vocabulary, head_affinity=head_affinity, affinity=affinity,
            local_weights=local_weights, closed_form=self._solve(affinity, local_weights), seed_scores=seed_scores,
            label_scores=label_scores,
        )  # fmt: skip

    def _between_keyframes(self, before: VideoState) -> VideoState:
        seed_scores = self._seed_scores(before)
        if before.vocabulary is self.vocabulary:
            state = replace(before, seed_scores=seed_scores)
            return replace(state, label_scores=self._walk_on(state, before.label_scores))
        affinity = self._mix_heads(before.head_affinity, seed_scores)
        state = replace(
            before, vocabulary=self.vocabulary, affinity=affinity,
            closed_form=self._solve(affinity, before.local_weights), seed_scores=seed_scores,
        )  # fmt: skip
        return replace(state, label_scores=self._walk_on(state, None))

    def _seed_scores(self, before: VideoState) -> Array:
        if before.vocabulary is self.vocabulary:
            if self.temporal.between == "hold":
                return before.seed_scores
            if self.frame.age % self.temporal.scores_every:
                return self._carry(before.seed_scores, before.seed_scores, KEEP_ALL)
        return self._fresh_seed_scores(before)

    def _fresh_seed_scores(self, before: VideoState | None) -> Array:
        """G by CLIP, smoothed with that of the frame before where the policy says so."""
        fresh = self.graphs.seed_scores(self.frame.working, self.vocabulary, self.timings_ms)
        if not self.temporal.smoothing or before is None or before.vocabulary is not self.vocabulary:
            return fresh
        return self._carry(fresh, before.seed_scores, np.array(self.temporal.smoothing, dtype=np.float32))

    def _carry(self, fresh: Array, previous: Array, keep: Array) -> Array:
        """Scores of the frame before moved to where the picture is now, `keep` of them against the fresh ones."""
        motion = self.frame.motion
        if motion is None:
            return fresh
        return self._run(
            "carry",
            seed_scores=fresh,
            previous_scores=previous,
            previous_tokens=motion.previous_tokens,
            previous_weights=motion.previous_weights,
            keep=keep,
        )["carried_scores"]

    def _mix_heads(self, head_affinity: Array, seed_scores: Array) -> Array:
        temperature = self.vocabulary.scalars["head_temperature"]
        tensors = {"head_affinity": head_affinity, "seed_scores": seed_scores, "head_temperature": temperature}
        return self._run("mix", **tensors)["affinity"]

    def _solve(self, affinity: Array, local_weights: Array) -> dict[str, Array]:
        if "solve" not in self.graphs:
            return {}
        return self._run("solve", affinity=affinity, local_weights=local_weights, **self.vocabulary.walk_scalars)

    def _walk_on(self, state: VideoState, start: Array | None) -> Array:
        """Label scores between keyframes; without a start, after a change of classes, as many steps as from nothing."""
        way = self.temporal.between
        if way == "exact":
            weights = state.local_weights
            return self._walk("walk_exact", seed_scores=state.seed_scores, local_weights=weights, **state.closed_form)
        if way == "follow" and self.frame.motion is not None:
            return self._walk_followed(state, self.frame.motion, start)
        if way == "hold" and start is not None:
            return start
        tensors = {"affinity": state.affinity, "local_weights": state.local_weights}
        if start is None:
            return self._walk("walk", seed_scores=state.seed_scores, **tensors)
        return self._walk("walk_warm", seed_scores=state.seed_scores, previous_scores=start, **tensors)

    def _walk_followed(self, state: VideoState, motion: Motion, start: Array | None) -> Array:
        own_weights = self.frame.local_weights
        tensors = {
            "seed_scores": state.seed_scores,
            "affinity": state.affinity,
            "local_weights": carried_neighbours(state.local_weights, motion) if own_weights is None else own_weights,
            "origin_tokens": motion.origin_tokens,
            "origin_visible": motion.origin_visible,
        }
        if start is not None:
            carried = self._carry(state.seed_scores, start, KEEP_ALL)
            return self._walk("walk_carried", previous_scores=carried, **tensors)
        baked = self.graphs.manifest.method.baked
        scores = state.seed_scores
        for _ in range(math.ceil(baked.steps / baked.warm_steps)):  # as many steps as a walk from nothing
            scores = self._walk("walk_carried", previous_scores=scores, **tensors)
        return scores

    def _walk(self, stage: StageName, **tensors: Array) -> Array:
        return self._run(stage, **tensors, **self.vocabulary.walk_scalars)["label_scores"]

    def _run(self, stage: StageName, **tensors: Array) -> dict[str, Array]:
        return self.graphs.run(stage, self.timings_ms, **tensors)
