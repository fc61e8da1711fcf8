"""The second half of a frame's work: from its encoded form and the state of its video to the scores of its tokens."""

import math
from dataclasses import dataclass, replace
from fractions import Fraction

from nerve_runtime.backends.base import Tensor
from nerve_runtime.bundle.spec import StageName
from nerve_runtime.frames import UInt8Array
from nerve_runtime.graphs import PATCH_FEATURES, ActiveVocabulary, Graphs, Timings
from nerve_runtime.temporal import Decision, Temporal

KEEP_ALL = 1.0


@dataclass(frozen=True, slots=True)
class EncodedFrame:
    """The first half of a frame's work: all that needs no class names.

    Attributes:
        index: number of the frame in its source.
        time_s: its presentation time, None for a bare array.
        rgb: the frame itself, uint8 (H, W, 3).
        working: uint8 (1, h, w, 3), at the bundle's size, with the back end.
        decision: what the temporal policy decided.
        keyframe: number of the keyframe that `motion` refers to.
        age: frames since that keyframe.
        motion: where the frame's tokens come from, the fields of `Motion` with the back end; None where nothing is
            followed.
        head_affinity: output of stage `attention` for a keyframe, None between keyframes.
        local_weights: W of this frame, None where only a keyframe has one.
        patch_features: of this frame, where one tower says both and scores are due; else None.
        timings_ms: milliseconds by stage so far.
        spent_s: seconds spent so far.
    """

    index: int
    time_s: Fraction | None
    rgb: UInt8Array
    working: Tensor
    decision: Decision
    keyframe: int
    age: int
    motion: dict[str, Tensor] | None
    head_affinity: Tensor | None
    local_weights: Tensor | None
    patch_features: Tensor | None
    timings_ms: Timings
    spent_s: float

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the frame in pixels."""
        return self.rgb.shape[0], self.rgb.shape[1]


@dataclass(frozen=True, slots=True)
class VideoState:
    """What outlives a decoded frame; all tensors stay with the back end.

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
    head_affinity: Tensor
    affinity: Tensor
    local_weights: Tensor
    closed_form: dict[str, Tensor]
    seed_scores: Tensor
    label_scores: Tensor


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
            decoder = replace(self, frame=replace(frame, patch_features=attention.get(PATCH_FEATURES)))
            return decoder._keyframe(None, None, attention["head_affinity"], attention["local_weights"]), True
        return self._between_keyframes(before), False

    def _keyframe(
        self, before: VideoState | None, number: int | None, head_affinity: Tensor, local_weights: Tensor
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

    def _seed_scores(self, before: VideoState) -> Tensor:
        if before.vocabulary is self.vocabulary:
            if self.temporal.between == "hold":
                return before.seed_scores
            if self.frame.age % self.temporal.scores_every:
                return self._carry(before.seed_scores, before.seed_scores, KEEP_ALL)
        return self._fresh_seed_scores(before)

    def _fresh_seed_scores(self, before: VideoState | None) -> Tensor:
        """G by CLIP, smoothed with that of the frame before where the policy says so."""
        fresh = self.graphs.seed_scores(self._seen(), self.vocabulary, self.timings_ms)
        if not self.temporal.smoothing or before is None or before.vocabulary is not self.vocabulary:
            return fresh
        return self._carry(fresh, before.seed_scores, self.temporal.smoothing)

    def _seen(self) -> Tensor:
        """What stage `scores` takes of the frame."""
        if not self.graphs.has_one_tower:
            return self.frame.working
        if self.frame.patch_features is not None:
            return self.frame.patch_features
        return self._run("attention", frame=self.frame.working)[PATCH_FEATURES]  # new classes where no scores were due

    def _carry(self, fresh: Tensor, previous: Tensor, keep: float) -> Tensor:
        """Scores of the frame before moved to where the picture is now, `keep` of them against the fresh ones."""
        motion = self.frame.motion
        if motion is None:
            return fresh
        moved = {name: motion[name] for name in ("previous_tokens", "previous_weights")}
        share = self.graphs.constant(keep)
        return self._run("carry", seed_scores=fresh, previous_scores=previous, keep=share, **moved)["carried_scores"]

    def _mix_heads(self, head_affinity: Tensor, seed_scores: Tensor) -> Tensor:
        temperature = self.vocabulary.scalars["head_temperature"]
        tensors = {"head_affinity": head_affinity, "seed_scores": seed_scores, "head_temperature": temperature}
        return self._run("mix", **tensors)["affinity"]

    def _solve(self, affinity: Tensor, local_weights: Tensor) -> dict[str, Tensor]:
        if "solve" not in self.graphs:
            return {}
        return self._run("solve", affinity=affinity, local_weights=local_weights, **self.vocabulary.walk_scalars)

    def _walk_on(self, state: VideoState, start: Tensor | None) -> Tensor:
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

    def _walk_followed(self, state: VideoState, motion: dict[str, Tensor], start: Tensor | None) -> Tensor:
        origins = {name: motion[name] for name in ("origin_tokens", "origin_visible")}
        tensors = {"seed_scores": state.seed_scores, "affinity": state.affinity, **origins}
        tensors["local_weights"] = self._near_affinity(state, motion["origin_tokens"])
        if start is not None:
            carried = self._carry(state.seed_scores, start, KEEP_ALL)
            return self._walk("walk_carried", previous_scores=carried, **tensors)
        baked = self.graphs.manifest.method.baked
        scores = state.seed_scores
        for _ in range(math.ceil(baked.steps / baked.warm_steps)):  # as many steps as a walk from nothing
            scores = self._walk("walk_carried", previous_scores=scores, **tensors)
        return scores

    def _near_affinity(self, state: VideoState, origin_tokens: Tensor) -> Tensor:
        """W of this frame, or where the bundle cannot compute it alone, that of the keyframe moved with the picture."""
        if self.frame.local_weights is not None:
            return self.frame.local_weights
        moved = {"keyframe_weights": state.local_weights, "origin_tokens": origin_tokens}
        return self._run("local_carried", **moved)["local_weights"]

    def _walk(self, stage: StageName, **tensors: Tensor) -> Tensor:
        return self._run(stage, **tensors, **self.vocabulary.walk_scalars)["label_scores"]

    def _run(self, stage: StageName, **tensors: Tensor) -> dict[str, Tensor]:
        return self.graphs.run(stage, tensors, self.timings_ms)
