"""The opened graphs of a bundle, shared by all its videos."""

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nerve_runtime.backends.base import Backend, Session
from nerve_runtime.bundle.manifest import Manifest
from nerve_runtime.bundle.spec import READOUT_STAGES, Array, Readout, StageName
from nerve_runtime.errors import BundleError
from nerve_runtime.frames import UInt8Array
from nerve_runtime.readout import enlarged, possible_winners, readout_size_hw
from nerve_runtime.temporal import Between, Temporal
from nerve_runtime.vocabulary.text_bank import TextBank

BASE_STAGES: tuple[StageName, ...] = ("scores", "attention", "mix", "walk")
STAGES_BETWEEN_KEYFRAMES: Mapping[Between, tuple[StageName, ...]] = {
    "follow": ("carry", "walk_carried"),
    "warm": ("walk_warm",),
    "exact": ("solve", "walk_exact"),
    "hold": (),
}

Timings = dict[str, float]


@dataclass(frozen=True, slots=True)
class ActiveVocabulary:
    """The vocabulary in use with the graphs' scalar inputs; another vocabulary is another object."""

    bank: TextBank
    scalars: dict[str, Array]

    @property
    def threshold(self) -> Array:
        """Probability under which a pixel is background, float32 (); 0 where there is none."""
        return self.scalars["threshold"] if self.bank.has_background else np.array(0, dtype=np.float32)

    @property
    def walk_scalars(self) -> dict[str, Array]:
        """What every walk takes, float32 () each."""
        return {name: self.scalars[name] for name in ("alpha", "beta")}


class Graphs:
    """Opens the stages that a temporal policy and a read-out need and runs them; different ones may run in different threads.

    Attributes:
        manifest: of the bundle.
        readout: how pixels get the scores of tokens.

    Raises:
        BundleError: the bundle lacks a graph that the policy or the read-out needs.
    """

    def __init__(self, manifest: Manifest, backend: Backend, temporal: Temporal, readout: Readout) -> None:
        self.manifest = manifest
        self.readout = readout
        self._backend = backend
        stages = stages_for(temporal, readout)
        _refuse_missing(manifest, [READOUT_STAGES[readout]], "readout", readout)
        _refuse_missing(manifest, stages, "between", temporal.between)
        if "walk_carried" in stages and "local" in manifest.stages:
            stages = (*stages, "local")
        self._sessions: dict[StageName, Session] = {stage: backend.open_session(stage) for stage in stages}
        # A compiled engine has one context; two videos, or two threads of one, must not run it at once.
        self._locks = {stage: threading.Lock() for stage in stages}

    def __contains__(self, stage: StageName) -> bool:
        """Whether a stage was opened."""
        return stage in self._sessions

    def run(self, stage: StageName, timings_ms: Timings, **tensors: Array) -> dict[str, Array]:
        """Run a stage; adds its milliseconds to `timings_ms`."""
        with self._locks[stage]:
            started = time.perf_counter()
            outputs = self._sessions[stage].run(tensors)
            timings_ms[stage] = timings_ms.get(stage, 0.0) + 1000 * (time.perf_counter() - started)
        return outputs

    def seed_scores(self, working: UInt8Array, vocabulary: ActiveVocabulary, timings_ms: Timings) -> Array:
        """G of a working frame, float32 (c, p)."""
        bank = vocabulary.bank
        return self.run(
            "scores",
            timings_ms,
            frame=working,
            text_embeddings=bank.text_embeddings,
            class_rows=bank.class_rows,
            class_mask=bank.class_mask,
            tau=vocabulary.scalars["tau"],
        )["seed_scores"]

    def read_out(
        self,
        scores: Array,
        working: UInt8Array,
        vocabulary: ActiveVocabulary,
        size_hw: tuple[int, int],
        timings_ms: Timings,
    ) -> tuple[UInt8Array, UInt8Array]:
        """Labels and confidence, uint8 (H, W) each, of label scores float32 (c, p) of a working frame."""
        rows: UInt8Array | None = None
        if self._backend.class_slots is None:
            grid_hw, keep_first = self.manifest.geometry.grid_hw, vocabulary.bank.has_background
            rows = possible_winners(scores, grid_hw, self.readout, keep_first=keep_first)
            scores = scores[rows]
        bounded_hw = readout_size_hw(len(scores), size_hw, self._backend.readout_limit_px)
        tensors = {"label_scores": scores, "size_hw": np.array(bounded_hw, dtype=np.int64)}
        if self.readout == "guided":
            tensors["frame"] = working
        outputs = self.run(READOUT_STAGES[self.readout], timings_ms, **tensors, threshold=vocabulary.threshold)
        labels, confidence = outputs["labels"], outputs["confidence"]
        labels = labels if rows is None else rows[labels]
        if bounded_hw == size_hw:
            return labels, confidence
        return enlarged(labels, size_hw), enlarged(confidence, size_hw)

    def close(self) -> None:
        """Drop the sessions; the back end stays open."""
        self._sessions.clear()


def _refuse_missing(manifest: Manifest, stages: Sequence[StageName], option: str, value: str) -> None:
    missing = [stage for stage in stages if stage not in manifest.stages]
    if missing:
        raise BundleError(
            f"the bundle has no graph {', '.join(missing)}, which {option}={value!r} needs; "
            f"build it again with this version, or choose another `{option}`"
        )


def stages_for(temporal: Temporal, readout: Readout) -> Sequence[StageName]:
    """The stages that a temporal policy and a read-out need."""
    stages = [*BASE_STAGES, READOUT_STAGES[readout]]
    if temporal.keyframe_every > 1:
        stages += STAGES_BETWEEN_KEYFRAMES[temporal.between]
    if (temporal.smoothing > 0 or temporal.scores_every > 1) and "carry" not in stages:
        stages.append("carry")
    return stages
