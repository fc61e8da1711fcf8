"""The opened graphs of a bundle, and what is the same for every video that goes through them."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nerve_runtime.backends.base import Backend, Session
from nerve_runtime.bundle.manifest import Manifest
from nerve_runtime.bundle.spec import Array, StageName
from nerve_runtime.candidates import possible_winners
from nerve_runtime.errors import BundleError
from nerve_runtime.readout import enlarged, readout_size_hw
from nerve_runtime.temporal import Temporal
from nerve_runtime.vocabulary.text_bank import TextBank

ALWAYS: tuple[StageName, ...] = ("scores", "attention", "mix", "walk", "readout")
BETWEEN: dict[str, tuple[StageName, ...]] = {
    "follow": ("carry", "walk_carried"),
    "warm": ("walk_warm",),
    "exact": ("solve", "walk_exact"),
    "hold": (),
}

UInt8Array = NDArray[np.uint8]
Timings = dict[str, float]


@dataclass(frozen=True, slots=True)
class Words:
    """A vocabulary in use, with the constants that go with it; another vocabulary is another object."""

    bank: TextBank
    scalars: dict[str, Array]

    @property
    def threshold(self) -> Array:
        """Probability under which a pixel is background, float32 (); 0 where there is none."""
        return self.scalars["threshold"] if self.bank.has_background else np.array(0, dtype=np.float32)


class Graphs:
    """Opens the stages that a way of working needs and runs them; different stages may run in different threads.

    Attributes:
        manifest: of the bundle.

    Raises:
        BundleError: the bundle has no graph for what is asked.
    """

    def __init__(self, manifest: Manifest, backend: Backend, temporal: Temporal) -> None:
        self.manifest = manifest
        self._backend = backend
        wanted = stages_for(temporal)
        missing = [stage for stage in wanted if stage not in manifest.stages]
        if missing:
            raise BundleError(
                f"the bundle has no graph {', '.join(missing)}, which between={temporal.between!r} needs; "
                "build it again with this version, or choose another way"
            )
        if "walk_carried" in wanted and "local" in manifest.stages:
            wanted = (*wanted, "local")
        self._sessions: dict[StageName, Session] = {stage: backend.open_session(stage) for stage in wanted}
        # A compiled engine has one context; two videos, or two threads of one, must not meet in it.
        self._locks = {stage: threading.Lock() for stage in wanted}

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

    def seed_scores(self, working: UInt8Array, words: Words, timings_ms: Timings) -> Array:
        """G of a working frame, float32 (c, p)."""
        bank = words.bank
        return self.run(
            "scores",
            timings_ms,
            frame=working,
            text_embeddings=bank.text_embeddings,
            class_rows=bank.class_rows,
            class_mask=bank.class_mask,
            tau=words.scalars["tau"],
        )["seed_scores"]

    def read_out(
        self, scores: Array, words: Words, size_hw: tuple[int, int], timings_ms: Timings
    ) -> tuple[UInt8Array, UInt8Array]:
        """Labels and confidence, uint8 (H, W) each, of label scores float32 (c, p)."""
        rows: UInt8Array | None = None
        if self._backend.class_slots is None:
            rows = possible_winners(scores, self.manifest.geometry.grid_hw, keep_first=words.bank.has_background)
            scores = scores[rows]
        bounded_hw = readout_size_hw(len(scores), size_hw, self._backend.readout_limit_px)
        asked_hw = np.array(bounded_hw, dtype=np.int64)
        outputs = self.run("readout", timings_ms, label_scores=scores, size_hw=asked_hw, threshold=words.threshold)
        labels, confidence = outputs["labels"], outputs["confidence"]
        labels = labels if rows is None else rows[labels]
        if bounded_hw == size_hw:
            return labels, confidence
        return enlarged(labels, size_hw), enlarged(confidence, size_hw)

    def close(self) -> None:
        """Drop the sessions; the back end itself is its owner's."""
        self._sessions.clear()


def stages_for(temporal: Temporal) -> Sequence[StageName]:
    """The stages that a way of working cannot do without."""
    stages = list(ALWAYS)
    if temporal.keyframe_every > 1:
        stages += BETWEEN[temporal.between]
    if (temporal.smoothing > 0 or temporal.scores_every > 1) and "carry" not in stages:
        stages.append("carry")
    return stages
