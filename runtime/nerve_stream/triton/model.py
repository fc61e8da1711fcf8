"""The model `nerve` of a Triton server: sequences of frames in, labels out; its stages are models of the same server.

`nerve-build triton` writes a `model.py` that imports `TritonPythonModel` from here. The sequence batcher of Triton sends
all requests of a sequence here, one at a time; what is kept of a sequence is what a local segmenter keeps.
"""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fractions import Fraction
from importlib import import_module
from json import loads
from pathlib import Path
from typing import Any

import numpy as np

from nerve_runtime import (
    EVERY_FRAME,
    Frame,
    FrameResult,
    Labels,
    NerveError,
    ResourceError,
    Segmenter,
    UsageError,
    ignore_label,
)
from nerve_runtime.bundle import load_manifest
from nerve_stream.triton import messages
from nerve_stream.triton.messages import Facts, Options
from nerve_stream.triton.stages import StageBackend

IDLE_MARGIN_S = 1.0  # Triton forgets a sequence first, so that its own sentence is what a late client hears
MICROSECONDS = 1e6


@dataclass(slots=True)
class _Sequence:
    """One sequence: its segmenter, when it was last used, and a lock that a request of it holds."""

    segmenter: Segmenter
    used_s: float
    lock: threading.Lock = field(default_factory=threading.Lock)


class TritonPythonModel:
    """What Triton's Python back end calls: `initialize`, `execute`, `finalize`.

    State: one segmenter for each open sequence, dropped at its END, at another START, or when it was idle too long.
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Check the manifest beside `model.py` and read the settings from `config.pbtxt`.

        Raises:
            BundleError: the manifest is missing or damaged.
        """
        config = loads(args["model_config"])
        parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
        self._pb_utils: Any = import_module("triton_python_backend_utils")
        self._folder = Path(args["model_repository"]) / args["model_version"]
        self._manifest = load_manifest(self._folder)
        self._most_sequences = int(parameters["most_sequences"])
        self._idle_s = int(config["sequence_batching"]["max_sequence_idle_microseconds"]) / MICROSECONDS
        self._backend = {
            "on_gpu": parameters["stages_on_gpu"] == "true",
            "class_slots": int(parameters["class_slots"]) or None,
            "readout_limit_px": int(parameters["readout_limit_px"]) or None,
        }
        self._labels_dtype = next(
            np.dtype(output["data_type"].removeprefix("TYPE_").lower())
            for output in config["output"]
            if output["name"] == messages.LABELS
        )
        self._sequences: dict[int, _Sequence] = {}
        self._sequences_lock = threading.Lock()
        self._pool = ThreadPoolExecutor(int(config["max_batch_size"]), thread_name_prefix="sequence")
        self._ended = threading.Event()
        threading.Thread(target=self._drop_idle_ones, name="idle sequences", daemon=True).start()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer one request of each of several sequences, side by side: their stages then share runs."""
        if len(requests) == 1:
            return [self._answer(requests[0])]
        return list(self._pool.map(self._answer, requests))

    def finalize(self) -> None:
        """Forget all sequences."""
        self._ended.set()
        self._pool.shutdown()
        with self._sequences_lock:
            for sequence in self._sequences.values():
                sequence.segmenter.close()
            self._sequences.clear()

    def _answer(self, request: Any) -> Any:
        """The response to a request; what the client did wrong becomes an error response with its sentence."""
        if not self._flag(request, messages.READY):  # an empty place in Triton's batch
            return self._pb_utils.InferenceResponse(output_tensors=[])
        try:
            return self._pb_utils.InferenceResponse(output_tensors=self._outputs(request))
        except NerveError as error:
            codes = self._pb_utils.TritonError
            code = {UsageError: codes.INVALID_ARG, ResourceError: codes.UNAVAILABLE}.get(type(error), codes.INTERNAL)
            return self._pb_utils.InferenceResponse(
                output_tensors=[], error=self._pb_utils.TritonError(messages.error_text(error), code)
            )

    def _outputs(self, request: Any) -> list[Any]:
        key = int(self._tensor(request, messages.SEQUENCE).ravel()[0])
        ends = self._flag(request, messages.END)
        try:
            sequence = self._sequence(request, key)
            with sequence.lock:
                result = self._segmented(request, sequence.segmenter)
                sequence.used_s = time.monotonic()
                class_names = sequence.segmenter.class_names
            return self._tensors(result, class_names)
        finally:
            if ends:
                self._drop(key)

    def _sequence(self, request: Any, key: int) -> _Sequence:
        """The sequence of a request, opened where it starts, with the classes that the request brings."""
        words = self._words(request)
        text = self._optional(request, messages.OPTIONS)
        options = Options() if text is None else Options.of_json(bytes(text.ravel()[0]))
        if self._flag(request, messages.START):
            return self._started(key, words, options)
        sequence = self._sequences.get(key)
        if sequence is None:
            raise UsageError(messages.FORGOTTEN)
        sequence.used_s = time.monotonic()
        if options.model_dump(exclude={"background"}, exclude_defaults=True):
            raise UsageError("options other than background are for the first request of a sequence; send START again")
        if words is not None:
            with sequence.lock:
                sequence.segmenter.set_classes(words, options.background)
        return sequence

    def _started(self, key: int, words: list[str] | None, options: Options) -> _Sequence:
        self._drop(key)
        if words is None:
            raise UsageError(f"the first request of a sequence needs the input {messages.CLASSES!r}")
        with self._sequences_lock:
            open_ones = len(self._sequences)
        if open_ones >= self._most_sequences:
            raise ResourceError(
                f"{open_ones} sequences are open, which is all that this server takes; end one, or generate the "
                "repository with more --sequences"
            )
        segmenter = Segmenter.open(
            self._folder,
            words,
            background=options.background,
            backend=StageBackend(self._manifest, self._pb_utils, **self._backend),
            temporal=options.temporal or EVERY_FRAME,
            templates=options.templates,
            constants=options.constants,
            readout=options.readout,
        )
        sequence = _Sequence(segmenter, time.monotonic())
        with self._sequences_lock:
            self._sequences[key] = sequence
        return sequence

    def _segmented(self, request: Any, segmenter: Segmenter) -> FrameResult | None:
        """The result of the request's frame; None where it brings none, as to change classes or to end a sequence."""
        batch = self._optional(request, messages.FRAME)
        if batch is None:
            return None
        if len(batch) != 1:
            raise UsageError(
                f"input {messages.FRAME!r} is a batch of {len(batch)} frames, expected one frame a request"
            )
        index, time_s = (self._optional(request, name) for name in (messages.INDEX, messages.TIME_S))
        if index is None or time_s is None:
            return segmenter.segment(batch[0])
        seconds = float(time_s.ravel()[0])
        if not np.isfinite(seconds):
            raise UsageError(f"input {messages.TIME_S!r} is {seconds}, expected seconds of the video")
        return segmenter.segment(Frame(batch[0], int(index.ravel()[0]), Fraction(seconds)))

    def _tensors(self, result: FrameResult | None, class_names: Sequence[str]) -> list[Any]:
        names = np.array([[name.encode() for name in class_names]], dtype=np.object_)
        if result is None:
            nothing = np.zeros((1, 0, 0), dtype=np.uint8)
            labels: Labels = nothing.astype(self._labels_dtype)
            confidence, facts = nothing, Facts(-1, keyframe=False, affinity_age=0, valid=True, timings_ms={})
        else:
            labels, confidence = self._widened(result.labels)[None], result.confidence[None]
            facts = Facts(result.index, result.keyframe, result.affinity_age, result.valid, result.timings_ms)
        arrays = {
            messages.LABELS: labels,
            messages.CONFIDENCE: confidence,
            messages.CLASS_NAMES: names,
            messages.FACTS: np.array([[facts.to_json().encode()]], dtype=np.object_),
            messages.INDEX: np.array([[facts.index]], dtype=np.int64),
            messages.KEYFRAME: np.array([[facts.keyframe]]),
            messages.INVALID: np.array([[not facts.valid]]),
        }
        return [self._pb_utils.Tensor(name, array) for name, array in arrays.items()]

    def _widened(self, labels: Labels) -> Labels:
        """Labels of the dtype that the bundle's greatest vocabulary needs, which is the one that config.pbtxt says."""
        if labels.dtype == self._labels_dtype:
            return labels
        wide: Labels = labels.astype(self._labels_dtype)
        wide[labels == ignore_label(labels.dtype)] = ignore_label(wide.dtype)
        return wide

    def _words(self, request: Any) -> list[str] | None:
        words = self._optional(request, messages.CLASSES)
        if words is None:
            return None
        try:
            return [bytes(word).decode() for word in words.ravel()]
        except UnicodeDecodeError as error:
            raise UsageError(f"input {messages.CLASSES!r} has a word that is not UTF-8: {error}") from error

    def _optional(self, request: Any, name: str) -> Any:
        tensor = self._pb_utils.get_input_tensor_by_name(request, name)
        return None if tensor is None else tensor.as_numpy()

    def _tensor(self, request: Any, name: str) -> Any:
        return self._pb_utils.get_input_tensor_by_name(request, name).as_numpy()

    def _flag(self, request: Any, name: str) -> bool:
        return bool(self._tensor(request, name).ravel()[0])

    def _drop(self, key: int) -> None:
        with self._sequences_lock:
            sequence = self._sequences.pop(key, None)
        if sequence is not None:
            with sequence.lock:
                sequence.segmenter.close()

    def _drop_idle_ones(self) -> None:
        """Drop what Triton forgot without telling: sequences that had no request for longer than config.pbtxt allows."""
        limit_s = self._idle_s + IDLE_MARGIN_S
        while not self._ended.wait(min(limit_s, 1.0)):
            now_s = time.monotonic()
            with self._sequences_lock:
                idle = [
                    key
                    for key, sequence in self._sequences.items()
                    if now_s - sequence.used_s > limit_s and not sequence.lock.locked()
                ]
            for key in idle:
                self._drop(key)
