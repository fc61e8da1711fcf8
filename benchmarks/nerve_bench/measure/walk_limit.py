"""Truncated, warm and exact walk on the affinities of a moving scene: error against the closed form, labels, cost."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nerve_bench.world import CLASS_NAMES, moving_scene
from nerve_ref.affinity import MixedPooled
from nerve_ref.walk import closed_form, mixed_dense
from nerve_runtime.backends import BackendOptions, Session, open_backend
from nerve_runtime.bundle.manifest import load_manifest
from nerve_runtime.bundle.spec import Array, StageName
from nerve_runtime.vocabulary.text_encoder import TextEncoder

STAGES: tuple[StageName, ...] = ("scores", "attention", "mix", "walk", "walk_warm", "solve", "walk_exact")
REPEATS = 3
"""Runs of a stage on a frame; the least time counts, for noise only adds."""
KEYFRAME_EVERY = 8
FloatArray = NDArray[np.float32]


@dataclass(slots=True)
class _Sums:
    errors: list[float] = field(default_factory=list)
    """Mean over tokens of the L1 distance to the limit, of each frame."""
    agreements: list[float] = field(default_factory=list)
    frame_ms: list[float] = field(default_factory=list)
    keyframe_ms: list[float] = field(default_factory=list)

    def add(self, found: Array, limit: Array) -> None:
        self.errors.append(float(np.abs(found - limit).sum(axis=0).mean()))
        self.agreements.append(100 * float((found.argmax(axis=0) == limit.argmax(axis=0)).mean()))


def measure_walks(
    bundle: Path, seed: int, frames: int, threads: int, progress: Callable[..., Any]
) -> Iterator[dict[str, Any]]:
    """Yield a record for `walk` (cold), `walk_warm` (from the result before) and `walk_exact` (with `solve` at keyframes).

    Scores are those of each frame, affinities those of a keyframe every `KEYFRAME_EVERY` frames, as video has them; the
    limit is that of the same scores and affinities, solved directly in float64.
    """
    manifest = load_manifest(bundle)
    tallies: dict[str, _Sums] = {name: _Sums() for name in ("walk", "walk_warm", "walk_exact")}
    with open_backend("ort", bundle, manifest, BackendOptions(threads=threads)) as backend:
        sessions = {stage: backend.open_session(stage) for stage in STAGES}
        bank = TextEncoder(bundle, manifest, backend, cache_dir=None).text_bank(list(CLASS_NAMES), ())
        scalars = {
            name: np.array(getattr(manifest.method, name), np.float32)
            for name in ("tau", "alpha", "beta", "head_temperature")
        }
        words: dict[str, Array] = {
            "text_embeddings": bank.text_embeddings,
            "class_rows": bank.class_rows,
            "class_mask": bank.class_mask,
        }
        known: dict[str, Array] = {**scalars, **words}
        clip = moving_scene(seed, frames, size_px=manifest.geometry.working_hw[0], cuts=0)
        for index, frame in enumerate(progress(clip, "walking", total=frames)):
            known["frame"] = frame.rgb[None]
            known |= _run(sessions["scores"], known)[0]
            if index % KEYFRAME_EVERY == 0:
                known |= _run(sessions["attention"], known)[0]
                known |= _run(sessions["mix"], known)[0]
                closed, spent_ms = _run(sessions["solve"], known)
                known |= closed
                tallies["walk_exact"].keyframe_ms.append(spent_ms)
                S = _dense(known, manifest.geometry.grid_hw, manifest.method.baked.model_dump()["pooled_hw"])
            limit = closed_form(torch.from_numpy(known["seed_scores"]), S, manifest.method.alpha).numpy()
            for stage, tally in tallies.items():
                known["previous_scores"] = known.get(f"{stage}.scores", known["seed_scores"])
                outputs, spent_ms = _run(sessions[stage], known)  # type: ignore[index]  # the keys are stage names
                known[f"{stage}.scores"] = outputs["label_scores"]
                tally.frame_ms.append(spent_ms)
                tally.add(outputs["label_scores"], limit)
    for stage, tally in tallies.items():
        yield _record(stage, tally, frames)


def _run(session: Session, known: dict[str, Array]) -> tuple[dict[str, Array], float]:
    tensors = {spec.name: known[spec.name] for spec in session.spec.inputs}
    least_ms, outputs = float("inf"), {}
    for _ in range(REPEATS):
        started = time.perf_counter()
        outputs = session.run(tensors)
        least_ms = min(least_ms, 1000 * (time.perf_counter() - started))
    return outputs, least_ms


def _dense(known: dict[str, Array], grid_hw: tuple[int, int], pooled_hw: Any) -> torch.Tensor:
    S_global = MixedPooled(torch.from_numpy(known["affinity"]), grid_hw, tuple(pooled_hw))
    return mixed_dense(S_global, torch.from_numpy(known["local_weights"]), float(known["beta"]))


def _record(stage: str, tally: _Sums, frames: int) -> dict[str, Any]:
    keyframe_ms = float(np.median(tally.keyframe_ms)) if tally.keyframe_ms else 0.0
    per_frame_ms = float(np.median(tally.frame_ms))
    return {
        "bench": "video_walks",
        "walk": stage,
        "ms_per_frame": round(per_frame_ms, 3),
        "ms_per_keyframe": round(keyframe_ms, 3),
        "mean_ms": round(per_frame_ms + keyframe_ms / KEYFRAME_EVERY, 3),
        "error_l1": float(f"{np.mean(tally.errors):.2e}"),
        "worst_error_l1": float(f"{np.max(tally.errors):.2e}"),
        "labels_as_limit_percent": round(float(np.mean(tally.agreements)), 3),
        "keyframe_every": KEYFRAME_EVERY,
        "frames": frames,
    }
