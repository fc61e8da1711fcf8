"""Frames in, labels out: `Segmenter` opens a bundle once; each `Video` of it keeps what its next frame needs."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nerve_runtime.backends import Backend, BackendOptions, open_backend
from nerve_runtime.batch import segment_frames
from nerve_runtime.bundle.hub import bundle_folder
from nerve_runtime.bundle.manifest import Manifest, Method, load_manifest
from nerve_runtime.bundle.spec import READOUT_STAGES, Array, Readout
from nerve_runtime.errors import UsageError
from nerve_runtime.frames import Frame
from nerve_runtime.graphs import Graphs, Transfers
from nerve_runtime.images import Picture, read_pictures
from nerve_runtime.result import FrameResult
from nerve_runtime.temporal import EVERY_FRAME, Temporal
from nerve_runtime.video import Video
from nerve_runtime.vocabulary.text_bank import EmbeddingProgress, TextBank, pad_classes
from nerve_runtime.vocabulary.text_encoder import Classes, TextEncoder, default_cache_dir

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
        for name, (expected, in_range) in RANGES.items():
            chosen = getattr(self, name)
            value = getattr(method, name) if chosen is None else chosen
            if not in_range(value):
                raise UsageError(f"{name} is {value}, expected {expected}")
            scalars[name] = np.array(value, dtype=np.float32)
        return scalars


class Segmenter(AbstractContextManager["Segmenter"]):
    """Segments frames with one bundle; opens its graphs once. A context manager.

    Its own `segment` is for one video and one thread at a time; `new_video` gives as many more as there are sources,
    which share the graphs.

    State: the class list, and a video of its own.

    >>> with Segmenter.open("bundles/tiny", classes=["ladybug", "grass"]) as segmenter:   # doctest: +SKIP
    ...     result = segmenter.segment(rgb)

    Attributes:
        manifest: of the bundle.
        temporal: how the frames of a video help each other.
        readout: how pixels get the scores of the tokens around them.
        invalid_frames: how many frames came out with scores that are not finite.
    """

    def __init__(
        self,
        manifest: Manifest,
        backend: Backend,
        encoder: TextEncoder,
        bank: TextBank,
        *,
        temporal: Temporal,
        constants: Constants,
        readout: Readout | None = None,
    ) -> None:
        self.manifest = manifest
        self.temporal = temporal
        self.readout = _chosen_readout(readout, manifest)
        self.invalid_frames = 0
        self._invalid_in_a_row = 0
        self._backend = backend
        self._encoder = encoder
        self._threshold_given = constants.threshold is not None
        self._scalars = constants.scalars(manifest.method)
        fitted = self._fitted(bank)
        self._graphs = Graphs(manifest, backend, temporal, self.readout)
        self._vocabulary = self._graphs.vocabulary(fitted, self._scalars)
        self._video = self.new_video()
        self._closed = False

    @classmethod
    def open(
        cls,
        bundle: str | Path,
        classes: Classes,
        *,
        background: str | Iterable[str] = (),
        backend: str | Backend = "auto",
        backend_options: BackendOptions | None = None,
        temporal: Temporal = EVERY_FRAME,
        templates: str | Iterable[str] | None = None,
        constants: Constants | None = None,
        readout: Readout | None = None,
        cache_dir: str | Path | None = "default",
        strict: bool = False,
        progress: EmbeddingProgress | None = None,
    ) -> "Segmenter":
        """Verify a bundle, embed the class list and open the graphs.

        Args:
            bundle: folder with `manifest.json`, or `hf://owner/name@revision` (see `nerve_runtime.bundle.bundle_folder`).
            classes: an iterable with one string a class, each may list synonyms after commas; or `"a; b, c"`; or a
                ClassList; or the Path of a vocabulary file. Labels count in this order, from 0.
            background: words for everything else, an iterable or one string with commas or semicolons; they become class 0 and the
                others start at 1.
            backend: "auto" may choose; any other name is that one or an error. Or a Backend, closed with the segmenter.
            backend_options: for a back end that is opened by name; None for the defaults.
            temporal: how the frames of a video help each other; by default each frame is segmented by itself. For
                video use `Temporal()`, several times as fast.
            templates: name of a template set, templates with `{}`, or None for the bundle's default.
            constants: of the method, instead of the bundle's defaults.
            readout: "bilinear" mixes the scores of the tokens around a pixel by distance, "guided" by the colours of the
                working frame too, so that borders follow edges; None for the bundle's default.
            cache_dir: where text embeddings are kept; "default" is the user's cache folder, None keeps none.
            strict: refuse what is otherwise a warning.
            progress: called with how many prompts of a class list are embedded and how many there are, before the first
                batch of them and after each; not for a list that is in the cache.

        Raises:
            UsageError: the classes or a setting make no sense.
            BundleError: the bundle, or a file in it, is not what its manifest says.
            CompatibilityError: the back end cannot run here.
        """
        folder = bundle_folder(bundle, strict=strict)
        manifest = load_manifest(folder)
        cache = default_cache_dir() if cache_dir == "default" else Path(cache_dir) if cache_dir else None
        with ExitStack() as undo:
            if isinstance(backend, str):
                backend = open_backend(backend, folder, manifest, backend_options)
            elif backend_options is not None:
                raise UsageError("backend_options are for a back end opened by name; give them to the back end itself")
            undo.enter_context(backend)
            encoder = TextEncoder(
                folder, manifest, backend, templates=templates, cache_dir=cache, strict=strict, progress=progress
            )
            bank = encoder.text_bank(classes, _background_words(background))
            constants = constants or Constants()
            segmenter = cls(manifest, backend, encoder, bank, temporal=temporal, constants=constants, readout=readout)
            undo.pop_all()
            return segmenter

    @property
    def backend(self) -> str:
        """The back end's description; says so when "auto" chose it."""
        return self._backend.describe()

    @property
    def ready(self) -> bool:
        """False once closed, and after `INVALID_FRAMES_LIMIT` frames in a row without finite scores, until a good one."""
        return not self._closed and self._invalid_in_a_row < INVALID_FRAMES_LIMIT

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each label."""
        return self._vocabulary.bank.class_names

    @property
    def transfers(self) -> Transfers:
        """What crossed between the host and the back end so far, over all videos."""
        return self._graphs.transfers

    def new_video(self) -> Video:
        """Start another video that goes through the same graphs and shares the class list."""
        return Video(self._graphs, lambda: self._vocabulary, self.temporal, self._count)

    def set_classes(self, classes: Classes, background: str | Iterable[str] = ()) -> None:
        """Use another class list from the next frame on; no graph is rebuilt, and attention is not computed anew.

        Raises:
            UsageError: the list is not usable; the old one stays in use.
        """
        self._refuse_if_closed()
        bank = self._fitted(self._encoder.text_bank(classes, _background_words(background)))
        self._vocabulary = self._graphs.vocabulary(bank, self._scalars)

    def _fitted(self, bank: TextBank) -> TextBank:
        """The vocabulary with as many classes as the graphs take."""
        if self._threshold_given and not bank.has_background:
            raise UsageError("a threshold gives pixels to the background; name background words, or leave it out")
        slots = self._backend.class_slots
        return bank if slots is None else pad_classes(bank, slots)

    def segment(self, frame: Frame | UInt8Array, *, bgr: bool = False) -> FrameResult:
        """Label every pixel of a frame, or of pixels uint8 (H, W, 3), RGB, or BGR as OpenCV gives them where `bgr`.

        Raises:
            UsageError: the pixels are not uint8 (H, W, 3), or the segmenter is closed.
            ResourceError: memory ran out; the next frame can be tried.
        """
        self._refuse_if_closed()
        return self._video.segment(frame, bgr=bgr)

    def __call__(self, pictures: Picture | Sequence[Picture]) -> list[FrameResult]:
        """Segment pictures, as `segment_batch` does; one result each, in their order.

        Args:
            pictures: the path of an image file, pixels uint8 (H, W, 3), RGB, or a Frame; or a sequence of those.

        Raises:
            SourceError: a file is no image, or is damaged; see `nerve_runtime.images.read_image`.
            UsageError: pixels are not uint8 (H, W, 3), or the segmenter is closed.
            ResourceError: memory ran out.
        """
        return self.segment_batch(read_pictures(pictures))

    def segment_batch(self, frames: Iterable[Frame | UInt8Array], *, bgr: bool = False) -> list[FrameResult]:
        """Label every pixel of unrelated frames of any sizes, such as pictures, or one frame of each camera.

        Each is segmented by itself, whatever `temporal` is, and this segmenter's video stays as it is. The networks run for
        several frames at a time where the bundle was built with `--max-batch`, and else for one after another. The time of
        what frames share is split evenly in their `timings_ms`.

        Args:
            frames: as `segment` takes them.
            bgr: the pixels are BGR, as OpenCV gives them.

        Returns:
            One result a frame, in order; a frame whose scores are not finite does not touch the others.

        Raises:
            UsageError: the pixels of a frame are not uint8 (H, W, 3), or the segmenter is closed.
            ResourceError: memory ran out.
        """
        self._refuse_if_closed()
        results = []
        for result in segment_frames(self._graphs, self._vocabulary, list(frames), bgr=bgr):
            self._count(result.valid)
            results.append(result)
        return results

    def stream(self, frames: Iterable[Frame]) -> Iterator[FrameResult]:
        """Segment frames one after another; what has a `close`, as the sources of nerve_stream do, is closed at the end."""
        with ExitStack() as stack:
            if close := getattr(frames, "close", None):
                stack.callback(close)
            yield from map(self.segment, frames)

    def reset(self) -> None:
        """Forget the last keyframe: the next frame is computed from nothing, as after a cut."""
        self._video.reset()

    def stop(self) -> None:
        """From another thread: end the frame under way with an error soon; the segmenter cannot be used afterwards."""
        self._backend.stop()

    def close(self) -> None:
        """Release the graphs; closing twice is fine."""
        if not self._closed:
            self._closed = True
            self._graphs.close()
            self.reset()
            self._backend.close()

    def __exit__(self, *raised: object) -> None:
        """Close the segmenter."""
        self.close()

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise UsageError("this segmenter was closed; open it again")

    def _count(self, valid: bool) -> None:
        self._invalid_in_a_row = 0 if valid else self._invalid_in_a_row + 1
        self.invalid_frames += not valid


def _chosen_readout(readout: Readout | None, manifest: Manifest) -> Readout:
    if readout is None:
        return manifest.method.readout
    if readout not in READOUT_STAGES:
        raise UsageError(f"readout is {readout!r}, expected one of {', '.join(READOUT_STAGES)}, or None")
    return readout


def _background_words(background: str | Iterable[str]) -> Iterable[str]:
    """A single string is one list of words, not a sequence of letters."""
    return [background] if isinstance(background, str) else background
