"""A back end without models, shipped for tests of applications: lawful numbers from colours, and faults on demand.

Words become colours (by a hash of their token ids), seed scores compare colours, attention joins tokens of like colour,
and the walk is the real one. Labels mean nothing; shapes, dtypes, sums to 1 and the names of timings are those of a real back end.
"""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nerve_runtime.backends.base import Backend, Session, item_of
from nerve_runtime.bundle.manifest import Manifest
from nerve_runtime.bundle.spec import NEIGHBOURS, READOUT_STAGES, Array, StageName
from nerve_runtime.errors import BundleError
from nerve_runtime.labels import label_dtype
from nerve_runtime.opencv import cv2

STEPS_COLD = 20
STEPS_WARM = 3
SMALL = 1e-6
COLOUR_SHARPNESS = 40.0
DIAGONAL_WEIGHT = 0.707  # method.md, section 7
FARTHEST = 4.0  # squared: more than two colours of 0 to 1 can differ by

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong, and when: numbers count from 0.

    Attributes:
        nan_scores_at: frames whose `scores` are NaN, in the order in which they are scored.
        errors_at: by stage and run of it, the error to raise, such as `{("walk", 3): MemoryError()}`.
        seconds_per_run: time each run takes longer; ends early when the back end is told to stop.
    """

    nan_scores_at: frozenset[int] = frozenset()
    errors_at: Mapping[tuple[StageName, int], Exception] | None = None
    seconds_per_run: float = 0.0


class FakeBackend(Backend):
    """Computes every stage in numpy from the manifest's geometry; opens no file of the bundle.

    Args:
        manifest: of the bundle.
        faults: what goes wrong.
        class_slots: behave like an engine whose class axis is fixed.

    Attributes:
        runs: how often each stage was run.
    """

    name = "fake"

    def __init__(self, manifest: Manifest, faults: Faults | None = None, *, class_slots: int | None = None) -> None:
        self.class_slots = class_slots
        self.runs: dict[StageName, int] = {}
        self._manifest = manifest
        self._faults = faults or Faults()
        self._stopped = False
        self._scored = 0

    def describe(self) -> str:
        """One line that says that labels mean nothing."""
        return "fake: numpy stand-in for tests, its labels mean nothing"

    def open_session(self, stage: StageName) -> Session:
        """Open a stage of the manifest."""
        if stage not in self._manifest.stages:
            raise BundleError(f"the bundle has no stage {stage!r}, only {', '.join(self._manifest.stages)}")
        return _FakeSession(self, stage)

    def stop(self) -> None:
        """End the run in flight; later runs fail."""
        self._stopped = True

    def close(self) -> None:
        """Nothing to release."""

    def compute(self, stage: StageName, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """Run a stage, faults included."""
        number = self.runs.get(stage, 0)
        self.runs[stage] = number + 1
        ready_at = time.monotonic() + self._faults.seconds_per_run
        while time.monotonic() < ready_at and not self._stopped:
            time.sleep(0.005)
        if self._stopped:
            raise BundleError(f"stage {stage!r} was told to stop")
        error = (self._faults.errors_at or {}).get((stage, number))
        if error is not None:
            raise error
        if not self._manifest.geometry.batches(stage):
            return self._computed(stage, tensors)
        items = range(len(next(iter(tensors.values()))))
        made = [
            self._computed(
                stage, {name: item_of(each, item, keep_axis=name == "frame") for name, each in tensors.items()}
            )
            for item in items
        ]
        return {name: np.stack([outputs[name] for outputs in made]) for name in made[0]}

    def _computed(self, stage: StageName, tensors: Mapping[str, Any]) -> dict[str, Array]:
        """What a stage gives for one frame."""
        outputs = _STAGES[stage](self._manifest, tensors)
        if stage == "scores":
            if self._scored in self._faults.nan_scores_at:
                outputs["seed_scores"] = np.full_like(outputs["seed_scores"], np.nan)
            self._scored += 1
        return outputs


class _FakeSession(Session):
    def __init__(self, backend: FakeBackend, stage: StageName) -> None:
        super().__init__(stage, backend._manifest.stages[stage].spec)
        self._backend = backend

    def compute(
        self, tensors: Mapping[str, Array], sizes: Mapping[str, int], host: Collection[str]
    ) -> dict[str, Array]:
        return self._backend.compute(self.stage, tensors)


def _softmax(scores: FloatArray, axis: int) -> FloatArray:
    exponents = np.exp(scores - scores.max(axis=axis, keepdims=True))
    return np.asarray(exponents / exponents.sum(axis=axis, keepdims=True), dtype=np.float32)


def _unit(rows: NDArray[Any]) -> FloatArray:
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.asarray(rows / np.maximum(lengths, SMALL), dtype=np.float32)


def _embedded(manifest: Manifest, colours: NDArray[Any]) -> FloatArray:
    """Colours (n, 3) around 0 as embeddings (n, d): a fixed random projection."""
    projection = np.random.default_rng(0).standard_normal((3, manifest.geometry.text_width))
    return _unit(colours @ projection)


def _token_colours(manifest: Manifest, frame: Array) -> FloatArray:
    """Mean colour of each token, float32 (p, 3), 0 to 1."""
    height, width = manifest.geometry.grid_hw
    pooled = cv2.resize(frame[0], (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(pooled, dtype=np.float32).reshape(-1, 3) / np.float32(255)


def _cells(tokens: int, cells: int) -> FloatArray:
    """Averages of runs of neighbouring tokens, float32 (m, p), rows sum to 1."""
    cell_of_token = np.arange(tokens) * cells // tokens
    member = (cell_of_token[None] == np.arange(cells)[:, None]).astype(np.float32)
    return np.asarray(member / member.sum(axis=1, keepdims=True), dtype=np.float32)


def _text(manifest: Manifest, tensors: Mapping[str, Array]) -> dict[str, Array]:
    seeds = [[int(token) for token in row] for row in tensors["token_ids"]]
    colours = np.stack([np.random.default_rng(seed).random(3) - 0.5 for seed in seeds])
    return {"text_embeddings": _embedded(manifest, colours)}


def _patch_features(manifest: Manifest, frame: Array) -> FloatArray:
    return _embedded(manifest, _token_colours(manifest, frame) - 0.5)


def _scores(manifest: Manifest, tensors: Mapping[str, Array]) -> dict[str, Array]:
    features = tensors["patch_features"] if "patch_features" in tensors else _patch_features(manifest, tensors["frame"])
    logits = tensors["tau"] * (tensors["text_embeddings"] @ features.T)
    rows = _softmax(logits, axis=0)[tensors["class_rows"]].max(axis=1) + np.float32(SMALL)
    active = rows * tensors["class_mask"][:, None]
    return {"seed_scores": np.asarray(active / active.sum(axis=0), dtype=np.float32)}


def _attention(manifest: Manifest, tensors: Mapping[str, Array]) -> dict[str, Array]:
    geometry = manifest.geometry
    colours = _token_colours(manifest, tensors["frame"])
    cell_colours = _cells(geometry.tokens, geometry.pooled_keys) @ colours
    distances = ((colours[:, None] - cell_colours[None]) ** 2).sum(axis=2)
    heads = [_softmax(-np.float32(COLOUR_SHARPNESS / (1 + head)) * distances, axis=1) for head in range(geometry.heads)]
    height, width = geometry.grid_hw
    grid = colours.reshape(height, width, 3)
    planes = []
    for down, right in NEIGHBOURS:
        difference = ((_neighbour(grid, down, right) - grid) ** 2).sum(axis=2)
        inside = _neighbour(np.ones((height, width), dtype=np.float32), down, right)
        nearness = DIAGONAL_WEIGHT if down and right else 1.0
        planes.append((np.exp(-COLOUR_SHARPNESS * difference) * nearness + SMALL) * inside)
    weights = np.stack(planes)
    weights = np.asarray(weights / np.maximum(weights.sum(axis=0), SMALL), dtype=np.float32)
    outputs: dict[str, Array] = {"head_affinity": np.stack(heads), "local_weights": weights}
    if "patch_features" in manifest.stages["attention"].spec.names[1]:
        outputs["patch_features"] = _patch_features(manifest, tensors["frame"])
    return outputs


def _neighbour(grid: NDArray[Any], down: int, right: int) -> NDArray[Any]:
    """For each token the value of its neighbour, 0 beyond the border; the first two axes are h and w."""
    height, width = grid.shape[:2]
    padded = np.pad(grid, [(1, 1), (1, 1)] + [(0, 0)] * (grid.ndim - 2))
    return padded[1 + down : 1 + down + height, 1 + right : 1 + right + width]


def _mix(manifest: Manifest, tensors: Mapping[str, Array]) -> dict[str, Array]:
    geometry = manifest.geometry
    affinity, seeds = tensors["head_affinity"], tensors["seed_scores"]
    pooled = _cells(geometry.tokens, geometry.pooled_keys) @ seeds.T
    one_step = np.maximum(affinity @ pooled, SMALL)
    active = max(2, int((seeds.max(axis=1) > 0).sum()))
    entropies = -(one_step * np.log(one_step)).sum(axis=2).mean(axis=1) / np.log(active)
    standard = (entropies - entropies.mean()) / (entropies.std() + 1e-3)
    weights = _softmax(np.asarray(-standard / tensors["head_temperature"], dtype=np.float32), axis=0)
    return {
        "affinity": np.einsum("t,tpm->pm", weights, affinity),
        "head_weights": weights,
        "head_entropies": entropies.astype(np.float32),
    }


def _carry(manifest: Manifest, tensors: Mapping[str, Array]) -> dict[str, Array]:
    weights = tensors["keep"] * tensors["previous_weights"]
    moved = np.einsum("ckp,kp->cp", tensors["previous_scores"][:, tensors["previous_tokens"]], weights)
    carried = (1 - weights.sum(axis=0)) * tensors["seed_scores"] + moved
    return {"carried_scores": np.asarray(carried, dtype=np.float32)}


def _local_carried(manifest: Manifest, tensors: Mapping[str, Array]) -> dict[str, Array]:
    weights = tensors["keyframe_weights"]
    moved = weights.reshape(len(NEIGHBOURS), -1)[:, tensors["origin_tokens"]].reshape(weights.shape)
    inside = np.stack([_neighbour(np.ones(weights.shape[1:], dtype=np.float32), *offset) for offset in NEIGHBOURS])
    weights = (moved + SMALL) * inside
    return {"local_weights": np.asarray(weights / weights.sum(axis=0), dtype=np.float32)}


def _walk_carried(manifest: Manifest, tensors: Mapping[str, Array]) -> dict[str, Array]:
    """The far affinity of what is not visible is left out, and the rest taken from the origins."""
    visible = tensors["origin_visible"][:, None]
    origins = tensors["affinity"][tensors["origin_tokens"]]
    affinity = origins * visible + (1 - visible) / origins.shape[1]
    return _walk(manifest, {**tensors, "affinity": affinity}, STEPS_WARM, "previous_scores")


def _solve(manifest: Manifest, tensors: Mapping[str, Array]) -> dict[str, Array]:
    keys = manifest.geometry.pooled_keys
    return {"local_affinity": tensors["affinity"], "closed_sum": np.eye(keys, dtype=np.float32)}


def _walk_exact(manifest: Manifest, tensors: Mapping[str, Array]) -> dict[str, Array]:
    return _walk(manifest, {**tensors, "affinity": tensors["local_affinity"] @ tensors["closed_sum"]})


def _walk(
    manifest: Manifest, tensors: Mapping[str, Array], steps: int = STEPS_COLD, start: str = "seed_scores"
) -> dict[str, Array]:
    alpha, beta, scores = tensors["alpha"], tensors["beta"], tensors[start]
    height, width = manifest.geometry.grid_hw
    averages = _cells(manifest.geometry.tokens, manifest.geometry.pooled_keys)
    for _ in range(steps):
        far = (tensors["affinity"] @ (averages @ scores.T)).T
        grid = np.moveaxis(scores.reshape(-1, height, width), 0, 2)
        shifted = np.stack([_neighbour(grid, *offset) for offset in NEIGHBOURS])
        near = np.einsum("nhw,nhwc->chw", tensors["local_weights"], shifted).reshape(scores.shape)
        scores = (1 - alpha) * tensors["seed_scores"] + alpha * (beta * far + (1 - beta) * near)
    return {"label_scores": np.asarray(scores, dtype=np.float32)}


def _readout(manifest: Manifest, tensors: Mapping[str, Array]) -> dict[str, Array]:
    height, width = (int(side) for side in tensors["size_hw"])
    planes = tensors["label_scores"].reshape(-1, *manifest.geometry.grid_hw)
    return _labels(manifest, planes, (height, width), tensors["threshold"])


def _readout_guided(manifest: Manifest, tensors: Mapping[str, Array]) -> dict[str, Array]:
    """A pixel of the working frame takes the scores of that of the 9 tokens around it whose colour is nearest."""
    geometry, (height, width) = manifest.geometry, (int(side) for side in tensors["size_hw"])
    colours, scores = _token_colours(manifest, tensors["frame"]), tensors["label_scores"].T
    inside = np.ones((geometry.tokens, 1), dtype=np.float32)
    grid = np.concatenate([inside, colours, scores], axis=1).reshape(*geometry.grid_hw, -1)
    around = np.stack(
        [_at_pixels(_neighbour(grid, *offset), geometry.working_hw) for offset in ((0, 0), *NEIGHBOURS)]
    )  # (9, h, w, 1 + 3 + c)
    pixels = np.asarray(tensors["frame"][0], dtype=np.float32) / 255
    unlike = ((pixels - around[..., 1:4]) ** 2).sum(axis=3) + FARTHEST * (1 - around[..., 0])
    nearest = np.take_along_axis(around, unlike.argmin(axis=0)[None, ..., None], axis=0)[0]
    return _labels(manifest, np.moveaxis(nearest[..., 4:], 2, 0), (height, width), tensors["threshold"])


def _at_pixels(grid: NDArray[Any], working_hw: tuple[int, int]) -> NDArray[Any]:
    """Values of tokens (h, w, n) at the pixels that they hold, (H, W, n)."""
    rows, columns = (np.arange(side) * tokens // side for side, tokens in zip(working_hw, grid.shape, strict=False))
    return grid[rows[:, None], columns]


def _labels(manifest: Manifest, planes: FloatArray, size_hw: tuple[int, int], threshold: Array) -> dict[str, Array]:
    height, width = size_hw
    large = np.stack([cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR) for plane in planes])
    confidence = large.max(axis=0)
    labels = np.where(confidence < threshold, 0, large.argmax(axis=0))
    return {
        "labels": labels.astype(label_dtype(manifest.geometry.max_classes)),
        "confidence": np.rint(np.clip(confidence, 0, 1) * 255).astype(np.uint8),
        "finite": np.array(np.isfinite(planes).all()),
    }


def _frame(manifest: Manifest, tensors: Mapping[str, Array]) -> dict[str, Array]:
    known = dict(tensors)
    known["size_hw"] = np.array(manifest.geometry.working_hw, dtype=np.int64)
    readout = _STAGES[READOUT_STAGES[manifest.method.readout]]
    for stage in (_scores, _attention, _mix, _walk, readout):
        known |= stage(manifest, known)
    return {name: known[name] for name in ("labels", "confidence")}


_STAGES: Mapping[StageName, Callable[[Manifest, Mapping[str, Array]], dict[str, Array]]] = {
    "text": _text, "scores": _scores, "attention": _attention, "mix": _mix, "walk": _walk, "carry": _carry,
    "local_carried": _local_carried, "walk_carried": _walk_carried, "solve": _solve, "walk_exact": _walk_exact,
    "readout": _readout, "readout_guided": _readout_guided, "frame": _frame,
    "walk_warm": partial(_walk, steps=STEPS_WARM, start="previous_scores"),
    "local": lambda manifest, tensors: {"local_weights": _attention(manifest, tensors)["local_weights"]},
}  # fmt: skip
