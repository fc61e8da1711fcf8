"""Frames in, labels out. `Segmenter` is the only object of the runtime that has state."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nerve_runtime.backends import Backend, Providers, Session, open_backend
from nerve_runtime.candidates import possible_winners
from nerve_runtime.errors import ResourceError, UsageError
from nerve_runtime.frames import Frame, FrameSource, resize_frame
from nerve_runtime.manifest import Manifest, Method, load_manifest
from nerve_runtime.readout import enlarged, readout_size_hw
from nerve_runtime.result import IGNORE_LABEL, FrameResult
from nerve_runtime.spec import Array, StageName
from nerve_runtime.temporal import Decision, KeyframePolicy
from nerve_runtime.text_encoder import Classes, TextEncoder, default_cache_dir
from nerve_runtime.vocabulary import TextBank, pad_classes

INVALID_FRAMES_LIMIT = 5  # in a row; then nobody should wait for the next one to be good
RANGES: Mapping[str, tuple[str, Callable[[float], bool]]] = {
    "tau": ("above 0", lambda value: 0 < value < np.inf),
    "alpha": ("0 to below 1", lambda value: 0 <= value < 1),
    "beta": ("0 to 1", lambda value: 0 <= value <= 1),
    "head_temperature": ("above 0", lambda value: 0 < value < np.inf),
    "threshold": ("0 to 1", lambda value: 0 <= value <= 1),
}

UInt8Array = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Constants:
    """Constants of the method to use instead of the bundle's defaults; None keeps the default.

    Attributes:
        tau: sharpness of the comparison with the words, above 0.
        alpha: how far labels travel, 0 (not at all) to below 1.
        beta: share of the far affinity against that of the eight neighbours, 0 to 1.
        head_temperature: above 0; 1e9 gives all heads the same weight.
        threshold: probability below which a pixel becomes background, 0 to 1; needs background words.
    """

    tau: float | None = None
    alpha: float | None = None
    beta: float | None = None
    head_temperature: float | None = None
    threshold: float | None = None

    def scalars(self, method: Method) -> dict[str, Array]:
        """The graphs' scalar inputs, float32 (), by name.

        Raises:
            UsageError: a constant is out of its range.
        """
        scalars: dict[str, Array] = {}
        for name, (wanted, holds) in RANGES.items():
            chosen = getattr(self, name)
            value = getattr(method, name) if chosen is None else chosen
            if not holds(value):
                raise UsageError(f"{name} is {value}, expected {wanted}")
            scalars[name] = np.array(value, dtype=np.float32)
        return scalars


@dataclass(slots=True)
class _Kept:
    """What outlives a frame: attention of the keyframe, mixed affinity and label scores, frames since the keyframe."""

    frame_size_hw: tuple[int, int]
    head_affinity: Array
    local_weights: Array
    affinity: Array
    label_scores: Array
    frames_since_keyframe: int


class Segmenter:
    """Segments frames with one bundle; opens its graphs once. A context manager; not for use by two threads at a time.

    State: the class list, and since the last keyframe its attention, the mixed affinity and the latest label scores.

    >>> with Segmenter.open("bundles/tiny", classes=["ladybug", "grass"]) as segmenter:   # doctest: +SKIP
    ...     result = segmenter.segment(rgb)

    Attributes:
        manifest: of the bundle.
        invalid_frames: how many frames came out with scores that are not finite.
    """

    def __init__(
        self,
        manifest: Manifest,
        backend: Backend,
        encoder: TextEncoder,
        bank: TextBank,
        *,
        policy: KeyframePolicy,
        constants: Constants,
    ) -> None:
        self.manifest = manifest
        self.invalid_frames = 0
        self._invalid_in_a_row = 0
        self._backend = backend
        self._encoder = encoder
        self._policy = policy
        self._threshold_given = constants.threshold is not None
        self._scalars = constants.scalars(manifest.method)
        self._take_bank(bank)
        needed: tuple[StageName, ...] = ("scores", "attention", "mix", "walk", "readout")
        stages = (*needed, "walk_warm") if policy.every > 1 else needed
        self._sessions: dict[StageName, Session] = {stage: backend.open_session(stage) for stage in stages}
        self._kept: _Kept | None = None
        self._frames_seen = 0
        self._closed = False

    @classmethod
    def open(
        cls,
        bundle: str | Path,
        classes: Classes,
        *,
        background: str | Sequence[str] = (),
        backend: str | Backend = "auto",
        providers: Providers = "cpu",
        threads: int = 0,
        spinning: bool = False,
        trust_engines: bool = False,
        allow_unchecked: bool = False,
        keyframe_every: int = 1,
        templates: str | Sequence[str] | None = None,
        constants: Constants | None = None,
        cache_dir: Path | Literal["default"] | None = "default",
        strict: bool = False,
    ) -> "Segmenter":
        """Verify a bundle, embed the class list and open the graphs.

        Args:
            bundle: folder with `manifest.json`.
            classes: a list with one string a class, each may list synonyms after commas; or `"a; b, c"`; or a
                ClassList; or the Path of a vocabulary file. Labels count in this order, from 0.
            background: words for everything else, a list or one string with commas; they become class 0 and the others start at 1.
            backend: "auto" may choose; any other name is that one or an error. Or a Backend, closed with the segmenter.
            providers: "cpu" or "cuda", for ONNX Runtime.
            threads: threads of one graph run, 0 lets the library choose.
            spinning: idle threads wait by spinning: a third faster on cores of their own, half as fast where decoding
                or anything else shares them.
            trust_engines: run compiled engines that were not built here; they are executable code.
            allow_unchecked: run compiled engines that were never compared with the reference.
            keyframe_every: attention is computed every so many frames; frames between take a few steps from the last.
            templates: name of a template set, templates with `{}`, or None for the bundle's default.
            constants: of the method, where the bundle's defaults are not wanted.
            cache_dir: where text embeddings are kept; "default" is the user's cache folder, None keeps none.
            strict: refuse what is otherwise a warning.

        Raises:
            UsageError: the classes or a setting make no sense.
            BundleError: the bundle, or a file in it, is not what its manifest says.
            CompatibilityError: the back end cannot run here.
        """
        policy = KeyframePolicy(keyframe_every)
        folder = Path(bundle)
        manifest = load_manifest(folder)
        cache = default_cache_dir() if cache_dir == "default" else cache_dir
        with ExitStack() as undo:
            if isinstance(backend, str):
                waived: dict[str, Any] = {"trust_engines": trust_engines, "allow_unchecked": allow_unchecked}
                backend = open_backend(
                    backend, folder, manifest, providers=providers, threads=threads, spinning=spinning, **waived
                )
            undo.enter_context(backend)
            encoder = TextEncoder(folder, manifest, backend, templates=templates, cache_dir=cache, strict=strict)
            bank = encoder.text_bank(classes, _as_words(background))
            segmenter = cls(manifest, backend, encoder, bank, policy=policy, constants=constants or Constants())
            undo.pop_all()
            return segmenter

    @property
    def backend(self) -> str:
        """What runs the graphs, in words; says so when "auto" chose it."""
        return self._backend.describe()

    @property
    def ready(self) -> bool:
        """False once closed, and after `INVALID_FRAMES_LIMIT` frames in a row without finite scores, until a good one."""
        return not self._closed and self._invalid_in_a_row < INVALID_FRAMES_LIMIT

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each label."""
        return self._bank.class_names

    def set_classes(self, classes: Classes, background: str | Sequence[str] = ()) -> None:
        """Use another class list from the next frame on; nothing is rebuilt and the kept attention stays of use.

        Raises:
            UsageError: the list is not usable; the old one stays in use.
        """
        self._refuse_if_closed()
        self._take_bank(self._encoder.text_bank(classes, _as_words(background)))

    def _take_bank(self, bank: TextBank) -> None:
        if self._threshold_given and not bank.has_background:
            raise UsageError("a threshold gives pixels to the background; name background words, or leave it out")
        slots = self._backend.class_slots
        self._bank = bank if slots is None else pad_classes(bank, slots)
        self._classes_changed = True

    def segment(self, frame: Frame | UInt8Array, *, bgr: bool = False) -> FrameResult:
        """Label every pixel of a frame.

        Args:
            frame: a Frame, or pixels uint8 (H, W, 3), RGB.
            bgr: the pixels are BGR, as OpenCV gives them.

        Raises:
            UsageError: the pixels are not uint8 (H, W, 3), or the segmenter is closed.
            ResourceError: memory ran out; the next frame can be tried.
        """
        self._refuse_if_closed()
        pixels, index, time_s = _taken_apart(frame, self._frames_seen)
        self._frames_seen += 1
        started = time.perf_counter()
        timings_ms: dict[str, float] = {}
        try:
            working = self._working_frame(pixels, timings_ms, bgr=bgr)
            size_hw = (pixels.shape[0], pixels.shape[1])
            scores, keyframe = self._label_scores(working, size_hw, timings_ms)
            valid = bool(np.isfinite(scores).all())
            labels, confidence = self._read_out(scores, size_hw, timings_ms) if valid else _no_labels(size_hw)
        except MemoryError as error:
            self.reset()
            raise ResourceError(f"frame {index} of {pixels.shape} ran out of memory; use smaller frames") from error
        except BaseException:
            self.reset()
            raise
        self._invalid_in_a_row = 0 if valid else self._invalid_in_a_row + 1
        if not valid:
            self.invalid_frames += 1
            self.reset()
        timings_ms["total"] = 1000 * (time.perf_counter() - started)
        return FrameResult(labels, confidence, self.class_names, index, time_s, timings_ms, keyframe, valid)

    def stream(self, frames: Iterable[Frame]) -> Iterator[FrameResult]:
        """Segment frames one after another; a FrameSource is closed at the end."""
        if isinstance(frames, FrameSource):
            with closing(frames):
                yield from map(self.segment, frames)
        else:
            yield from map(self.segment, frames)

    def reset(self) -> None:
        """Forget the last keyframe: the next frame is computed from nothing, as after a cut."""
        self._kept = None

    def stop(self) -> None:
        """From another thread: end the frame under way with an error soon; the segmenter is of no use afterwards."""
        self._backend.stop()

    def close(self) -> None:
        """Release the graphs; closing twice is fine."""
        if not self._closed:
            self._closed = True
            self._sessions.clear()
            self.reset()
            self._backend.close()

    def __enter__(self) -> "Segmenter":
        """Return the segmenter itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the segmenter."""
        self.close()

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise UsageError("this segmenter was closed; open it again")

    def _run(self, stage: StageName, timings_ms: dict[str, float], **tensors: Array) -> dict[str, Array]:
        started = time.perf_counter()
        outputs = self._sessions[stage].run(tensors)
        timings_ms[stage] = 1000 * (time.perf_counter() - started)
        return outputs

    def _working_frame(self, pixels: UInt8Array, timings_ms: dict[str, float], *, bgr: bool) -> UInt8Array:
        started = time.perf_counter()
        resized = resize_frame(pixels, self.manifest.geometry.working_hw)
        rgb = resized[..., ::-1] if bgr else resized
        timings_ms["resize"] = 1000 * (time.perf_counter() - started)
        return np.ascontiguousarray(rgb[None])

    def _label_scores(
        self, working: UInt8Array, size_hw: tuple[int, int], timings_ms: dict[str, float]
    ) -> tuple[Array, bool]:
        """Label scores P, float32 (c, p), and whether the attention was computed anew; keeps what the next frame needs."""
        bank, scalars, kept = self._bank, self._scalars, self._kept
        decision = self._decision(size_hw)
        seeds = self._run(
            "scores",
            timings_ms,
            frame=working,
            text_embeddings=bank.text_embeddings,
            class_rows=bank.class_rows,
            class_mask=bank.class_mask,
            tau=scalars["tau"],
        )["seed_scores"]
        if kept is None or decision == "cold":
            looked = self._run("attention", timings_ms, frame=working)
            empty = np.empty((0, 0), dtype=np.float32)
            kept = _Kept(size_hw, looked["head_affinity"], looked["local_weights"], empty, empty, 0)
        if decision != "warm":
            kept.affinity = self._mixed(kept.head_affinity, seeds, timings_ms)
        kept.label_scores = self._walked(kept, seeds, timings_ms, warm=decision == "warm")
        kept.frames_since_keyframe += 1
        self._kept, self._classes_changed = kept, False
        return kept.label_scores, decision == "cold"

    def _decision(self, size_hw: tuple[int, int]) -> Decision:
        kept = self._kept
        return self._policy.decide(
            kept.frames_since_keyframe if kept else None,
            size_changed=kept is not None and kept.frame_size_hw != size_hw,
            classes_changed=self._classes_changed,
        )

    def _mixed(self, head_affinity: Array, seeds: Array, timings_ms: dict[str, float]) -> Array:
        temperature = self._scalars["head_temperature"]
        tensors = {"head_affinity": head_affinity, "seed_scores": seeds, "head_temperature": temperature}
        return self._run("mix", timings_ms, **tensors)["affinity"]

    def _walked(self, kept: _Kept, seeds: Array, timings_ms: dict[str, float], *, warm: bool) -> Array:
        tensors = {
            "seed_scores": seeds,
            "affinity": kept.affinity,
            "local_weights": kept.local_weights,
            "alpha": self._scalars["alpha"],
            "beta": self._scalars["beta"],
        }
        if warm:
            tensors["previous_scores"] = kept.label_scores
        return self._run("walk_warm" if warm else "walk", timings_ms, **tensors)["label_scores"]

    def _read_out(
        self, scores: Array, size_hw: tuple[int, int], timings_ms: dict[str, float]
    ) -> tuple[UInt8Array, UInt8Array]:
        has_background = self._bank.has_background
        threshold = self._scalars["threshold"] if has_background else np.array(0, dtype=np.float32)
        rows: UInt8Array | None = None
        if self._backend.class_slots is None:
            rows = possible_winners(scores, self.manifest.geometry.grid_hw, keep_first=has_background)
            scores = scores[rows]
        bounded_hw = readout_size_hw(len(scores), size_hw, self._backend.readout_limit_px)
        asked_hw = np.array(bounded_hw, dtype=np.int64)
        outputs = self._run("readout", timings_ms, label_scores=scores, size_hw=asked_hw, threshold=threshold)
        labels, confidence = outputs["labels"], outputs["confidence"]
        labels = labels if rows is None else rows[labels]
        if bounded_hw == size_hw:
            return labels, confidence
        return enlarged(labels, size_hw), enlarged(confidence, size_hw)


def _as_words(background: str | Sequence[str]) -> Sequence[str]:
    """A single string is one list of words, not a sequence of letters."""
    return [background] if isinstance(background, str) else background


def _no_labels(size_hw: tuple[int, int]) -> tuple[UInt8Array, UInt8Array]:
    return np.full(size_hw, IGNORE_LABEL, dtype=np.uint8), np.zeros(size_hw, dtype=np.uint8)


def _taken_apart(frame: Frame | UInt8Array, index: int) -> tuple[UInt8Array, int, Fraction | None]:
    if isinstance(frame, Frame):
        return _checked_pixels(frame.rgb, frame.index), frame.index, frame.time_s
    return _checked_pixels(frame, index), index, None


def _checked_pixels(pixels: object, index: int) -> UInt8Array:
    if not isinstance(pixels, np.ndarray):
        raise UsageError(f"frame {index} is a {type(pixels).__name__}, expected an array uint8 (H, W, 3), RGB")
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise UsageError(f"frame {index} is {pixels.dtype} {pixels.shape}, expected uint8 (H, W, 3) pixels, RGB")
    return pixels
