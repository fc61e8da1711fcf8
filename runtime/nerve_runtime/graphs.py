"""The opened graphs of a bundle, shared by all its videos."""

import threading
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from nerve_runtime.backends.base import Backend, DeviceTensor, Session, Tensor, item_of
from nerve_runtime.bundle.manifest import Manifest
from nerve_runtime.bundle.spec import READOUT_STAGES, Array, Readout, StageName
from nerve_runtime.errors import BundleError
from nerve_runtime.frames import UInt8Array
from nerve_runtime.labels import Labels, cast_labels, label_dtype
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

PATCH_FEATURES = "patch_features"
READ_OUT = ("labels", "confidence", "finite")
"""What comes down to the host of a frame."""
NEAR_AFFINITY_STAGES: tuple[StageName, ...] = ("local", "local_carried")

Timings = dict[str, float]


@dataclass(slots=True)
class Transfers:
    """What crossed between the host and the back end since the graphs were opened.

    Counted are NumPy arrays that were given to the back end or taken from it; where it computes in host memory, as ONNX
    Runtime does on a processor, these are the copies that a GPU would need.

    Attributes:
        h2d_bytes: bytes from the host to the device.
        d2h_bytes: bytes from the device to the host.
        waits: how often the host waited for the device.
    """

    h2d_bytes: int = 0
    d2h_bytes: int = 0
    waits: int = 0


@dataclass(frozen=True, slots=True)
class ActiveVocabulary:
    """The vocabulary in use with all that the graphs take of it; another vocabulary is another object.

    Attributes:
        bank: the vocabulary.
        tau: sharpness of the comparison with the words, float32 ().
        embeddings: inputs of stage `scores` for one frame: `text_embeddings`, `class_rows`, `class_mask`, `tau`.
        of_items: the same for several frames in a run, by their number; made when they are first asked for.
        scalars: scalar inputs of the other graphs, float32 () each; `threshold` is 0 where there is no background.
    """

    bank: TextBank
    tau: Array
    embeddings: dict[str, Tensor]
    scalars: dict[str, Tensor]
    of_items: dict[int, dict[str, Tensor]] = field(default_factory=dict)

    @property
    def label_dtype(self) -> np.dtype[Any]:
        """Of the labels of frames: uint8 up to 254 classes, uint16 beyond."""
        return label_dtype(len(self.bank.class_names))

    @property
    def walk_scalars(self) -> dict[str, Tensor]:
        """What every walk takes, float32 () each."""
        return {name: self.scalars[name] for name in ("alpha", "beta")}


class Graphs:
    """Opens the stages that a temporal policy and a read-out need and runs them; different ones may run in different threads.

    Tensors stay with the back end from stage to stage; a frame is given to it once, and labels are taken from it once.

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
        if "walk_carried" in stages:
            stages = (*stages, _near_affinity(manifest))
        if "finite" not in manifest.stages[READOUT_STAGES[readout]].spec.names[1]:
            raise BundleError(
                f"the bundle's graph {READOUT_STAGES[readout]} has no output 'finite'; build it again with this version"
            )
        self._sessions: dict[StageName, Session] = {stage: backend.open_session(stage) for stage in stages}
        # A compiled engine has one context; two videos, or two threads of one, must not run it at once.
        self._locks = {stage: threading.Lock() for stage in stages}
        self._transfers = Transfers()
        self._transfers_lock = threading.Lock()
        self._constants: dict[float, Tensor] = {}

    @property
    def transfers(self) -> Transfers:
        """A copy of the counts so far."""
        with self._transfers_lock:
            return replace(self._transfers)

    def __contains__(self, stage: StageName) -> bool:
        """Whether a stage was opened."""
        return stage in self._sessions

    def upload(self, array: Array) -> Tensor:
        """Give an array to the back end once, for several runs."""
        tensor = self._backend.upload(array)
        if tensor is not array:  # else it is copied, and counted, by each run that takes it
            self._count(Transfers(h2d_bytes=array.nbytes))
        return tensor

    def constant(self, value: float) -> Tensor:
        """A float32 () with the back end, kept."""
        if value not in self._constants:
            self._constants[value] = self.upload(np.array(value, dtype=np.float32))
        return self._constants[value]

    def vocabulary(self, bank: TextBank, scalars: Mapping[str, Array]) -> ActiveVocabulary:
        """Give a vocabulary and the constants of the method to the back end."""
        threshold = scalars["threshold"] if bank.has_background else np.array(0, dtype=np.float32)
        words = self._words(bank, scalars["tau"], 1 if self.max_batch > 1 else None)
        others = {name: array for name, array in scalars.items() if name != "tau"}
        return ActiveVocabulary(bank, scalars["tau"], words, self._uploaded({**others, "threshold": threshold}))

    def words_of(self, vocabulary: ActiveVocabulary, items: int) -> dict[str, Tensor]:
        """The inputs of stage `scores` for so many frames in a run, all of one vocabulary."""
        if items == 1:
            return vocabulary.embeddings
        if items not in vocabulary.of_items:
            vocabulary.of_items[items] = self._words(vocabulary.bank, vocabulary.tau, items)
        return vocabulary.of_items[items]

    def _words(self, bank: TextBank, tau: Array, items: int | None) -> dict[str, Tensor]:
        arrays: dict[str, Array] = {
            "text_embeddings": bank.text_embeddings,
            "class_rows": bank.class_rows,
            "class_mask": bank.class_mask,
            "tau": tau,
        }
        if items is not None:
            arrays = {name: np.repeat(array[None], items, axis=0) for name, array in arrays.items()}
        return self._uploaded(arrays)

    def _uploaded(self, arrays: Mapping[str, Array]) -> dict[str, Tensor]:
        return {name: self.upload(array) for name, array in arrays.items()}

    @property
    def max_batch(self) -> int:
        """Most frames in a run of `scores` and of `attention`."""
        return self.manifest.geometry.max_batch

    def run(
        self, stage: StageName, tensors: Mapping[str, Tensor], timings_ms: Timings, host: Collection[str] = ()
    ) -> dict[str, Any]:
        """Run a stage on one frame; adds its milliseconds to `timings_ms`. Outputs in `host` come as arrays."""
        outputs = self.run_items(stage, tensors, timings_ms, host)
        return self.of_item(outputs, 0) if self.manifest.geometry.batches(stage) else outputs

    def of_item(self, outputs: Mapping[str, Tensor], index: int) -> dict[str, Any]:
        """One frame's share of the outputs of a stage that takes several; patch features keep the axis for `scores`."""
        if self.max_batch == 1:
            return dict(outputs)
        return {name: item_of(tensor, index, keep_axis=name == PATCH_FEATURES) for name, tensor in outputs.items()}

    def run_items(
        self, stage: StageName, tensors: Mapping[str, Tensor], timings_ms: Timings, host: Collection[str] = ()
    ) -> dict[str, Any]:
        """As `run`, on tensors as the graph takes and gives them: of several frames where the bundle has a `max_batch`."""
        with self._locks[stage]:
            started = time.perf_counter()
            outputs = self._sessions[stage].run(tensors, host)
            timings_ms[stage] = timings_ms.get(stage, 0.0) + 1000 * (time.perf_counter() - started)
        down = _array_bytes(outputs)
        waited = down > 0 or self._backend.waits_for_each_run
        self._count(Transfers(_array_bytes(tensors), down, int(waited)))
        return outputs

    def _count(self, more: Transfers) -> None:
        with self._transfers_lock:
            self._transfers.h2d_bytes += more.h2d_bytes
            self._transfers.d2h_bytes += more.d2h_bytes
            self._transfers.waits += more.waits

    @property
    def has_one_tower(self) -> bool:
        """Whether `attention` gives the patch features that `scores` takes, so that it runs on every frame."""
        return PATCH_FEATURES in self.manifest.stages["scores"].spec.names[0]

    def seed_scores(self, seen: Tensor, vocabulary: ActiveVocabulary, timings_ms: Timings) -> Tensor:
        """G of a working frame, or where one tower says both of its patch features; float32 (c, p)."""
        tensors = {self.seen_name: seen, **vocabulary.embeddings}
        scores: Tensor = self.run("scores", tensors, timings_ms)["seed_scores"]
        return scores

    @property
    def seen_name(self) -> str:
        """What stage `scores` takes of a frame."""
        return PATCH_FEATURES if self.has_one_tower else "frame"

    def read_out(
        self,
        scores: Tensor,
        working: Tensor,
        vocabulary: ActiveVocabulary,
        size_hw: tuple[int, int],
        timings_ms: Timings,
    ) -> tuple[Labels, UInt8Array] | None:
        """Labels and confidence (H, W) of label scores float32 (c, p) of a working frame.

        Labels are of `ActiveVocabulary.label_dtype`, whatever the graph gives; confidence is uint8.

        None where a score is not finite.

        Raises:
            BundleError: there are not as many scores as classes and tokens.
        """
        expected = len(vocabulary.bank.class_rows), self.manifest.geometry.tokens
        if scores.dtype != np.float32 or tuple(scores.shape) != expected:
            raise BundleError(
                f"the graphs gave 'label_scores' as {scores.dtype} {tuple(scores.shape)}, expected float32 {expected}; "
                "rebuild the bundle"
            )
        rows: Labels | None = None
        in_host_memory = scores.host_view if isinstance(scores, DeviceTensor) else scores
        if self._backend.class_slots is None and in_host_memory is not None:
            if not np.isfinite(in_host_memory).all():
                return None
            grid_hw, keep_first = self.manifest.geometry.grid_hw, vocabulary.bank.has_background
            rows = possible_winners(in_host_memory, grid_hw, self.readout, keep_first=keep_first)
            scores = self._backend.upload(in_host_memory[rows])  # not counted: a GPU reads out all classes
        bounded_hw = readout_size_hw(scores.shape[0], size_hw, self._backend.readout_limit_px)
        tensors = {"label_scores": scores, "size_hw": np.array(bounded_hw, dtype=np.int64)}
        tensors["threshold"] = vocabulary.scalars["threshold"]
        if self.readout == "guided":
            tensors["frame"] = working
        outputs = self.run(READOUT_STAGES[self.readout], tensors, timings_ms, host=READ_OUT)
        if not outputs["finite"]:
            return None
        labels, confidence = outputs["labels"], outputs["confidence"]
        labels = cast_labels(labels, vocabulary.label_dtype) if rows is None else rows[labels]
        if bounded_hw == size_hw:
            return labels, confidence
        return enlarged(labels, size_hw), enlarged(confidence, size_hw)

    def release_unused(self) -> None:
        """Give back what the back end keeps for tensors of other sizes."""
        self._backend.release_unused()

    def close(self) -> None:
        """Drop the sessions; the back end stays open."""
        self._sessions.clear()
        self._constants.clear()


def _array_bytes(tensors: Mapping[str, Any]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values() if isinstance(tensor, np.ndarray))


def _near_affinity(manifest: Manifest) -> StageName:
    """The stage that gives W between keyframes: from the frame's colours, or else from the keyframe.

    Raises:
        BundleError: the bundle has neither.
    """
    for stage in NEAR_AFFINITY_STAGES:
        if stage in manifest.stages:
            return stage
    raise BundleError(
        f"the bundle has no graph {' or '.join(NEAR_AFFINITY_STAGES)}, which between='follow' needs; build it again "
        "with this version, or choose another `between`"
    )


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
