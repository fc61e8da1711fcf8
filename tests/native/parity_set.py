"""The parity set: frames, flows, vocabularies and the labels that the Python runtime gives, as files for every language.

`cases.txt` is read line by line:

    case NAME KEYFRAME_EVERY LONGEST_S BETWEEN SCORES_EVERY SMOOTHING CHANGE CUT    a new video; BETWEEN as in nerve.h
    vocabulary FILE                                                       the classes from the next frame on
    frame FILE.ppm FLOW LABELS.pgm TIME_S       FLOW is a file of float32 (h, w, 2), or -
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from nerve_bench.world import moving_scene
from nerve_runtime import Frame, FrameResult, Segmenter, Temporal
from nerve_runtime.backends import BackendOptions
from nerve_runtime.frames import UInt8Array
from nerve_runtime.motion import FloatArray
from nerve_runtime.vocabulary import text_sha256
from nerve_stream.vocabulary_file import save_vocabulary
from tests.native.binding import BETWEEN, NativeResult, NativeSegmenter

WAYS = {
    "cold": Temporal.plain(1),
    "follow": Temporal(keyframe_every=6),
    "follow_seldom_scores": Temporal(keyframe_every=6, scores_every=2),
    "warm": Temporal.plain(4),
    "warm_smoothed": Temporal(keyframe_every=5, between="warm"),
    "exact": Temporal(keyframe_every=5, between="exact", smoothing=0, change=0, cut=0),
    "hold": Temporal(keyframe_every=5, between="hold", smoothing=0, change=0, cut=0),
    "short": Temporal(keyframe_every=9, longest_s=0.1),
}
CLASSES = {
    "few": "ladybug; grass, lawn; road; sky",
    "many": "zebra; grass; water, sea; snow; dog, puppy; house; tree; tiger; bus",
}
BACKGROUND = {"few": "asphalt", "many": ""}
FRAMES = 14
CUT_AT = 4
CHANGE_AT = 8
"""The frame from which on the other vocabulary is used."""
OTHER_SIZE_FROM = 12
FRAME_S = Fraction(1, 25)


@dataclass(slots=True)
class Step:
    """One frame of a case with what the Python runtime makes of it."""

    rgb: UInt8Array
    time_s: Fraction
    vocabulary: str
    flow: FloatArray | None
    result: FrameResult


@dataclass(slots=True)
class Recorder:
    """Stands for OpenCV's DIS and keeps what it measures."""

    flow: Any
    latest: FloatArray | None = field(default=None)

    def calc(self, grey: UInt8Array, previous: UInt8Array, first: None) -> FloatArray:
        """The flow from `grey` to `previous`."""
        self.latest = np.ascontiguousarray(self.flow.calc(grey, previous, first))
        return self.latest


def parity_frames() -> list[UInt8Array]:
    """A clip with a cut in it, whose last frames are of another size."""
    shots = chain(moving_scene(3, CUT_AT, cuts=0), moving_scene(4, FRAMES - CUT_AT, cuts=0))
    frames = [np.ascontiguousarray(frame.rgb) for frame in shots]
    return [
        np.asarray(cv2.resize(rgb, (331, 187)), dtype=np.uint8) if number >= OTHER_SIZE_FROM else rgb
        for number, rgb in enumerate(frames)
    ]


def write_vocabularies(bundle: Path, folder: Path) -> dict[str, Path]:
    """A vocabulary file for each list of `CLASSES`."""
    paths = {name: folder / f"{name}.safetensors" for name in CLASSES}
    for name, path in paths.items():
        with Segmenter.open(bundle, CLASSES[name], background=BACKGROUND[name] or (), cache_dir=None) as segmenter:
            save_vocabulary(path, segmenter._vocabulary.bank, text_sha256(segmenter.manifest))
    return paths


def case_steps(
    bundle: Path, temporal: Temporal, vocabularies: dict[str, Path], frames: list[UInt8Array], **options: Any
) -> Iterator[Step]:
    """Run the Python runtime over the frames, changing the vocabulary on the way."""
    threads = BackendOptions(threads=1)
    with Segmenter.open(
        bundle,
        vocabularies["few"],
        backend="ort",
        backend_options=threads,
        temporal=temporal,
        cache_dir=None,
        **options,
    ) as segmenter:
        tracker = segmenter._video._tracker
        recorder = Recorder(tracker._flow)
        tracker._flow = recorder  # type: ignore[assignment]  # in its place
        for number, rgb in enumerate(frames):
            name = "few" if number < CHANGE_AT else "many"
            if number == CHANGE_AT:
                segmenter.set_classes(vocabularies[name])
            recorder.latest = None
            result = segmenter.segment(Frame(rgb, number, number * FRAME_S))
            yield Step(rgb, number * FRAME_S, name, recorder.latest, result)


def native_steps(
    native: NativeSegmenter, steps: Iterator[Step], vocabularies: dict[str, Path]
) -> Iterator[tuple[Step, NativeResult]]:
    """Each step with what the C library makes of it; the vocabulary is set where it changes, as setting it is a change."""
    used = None
    for step in steps:
        if step.vocabulary != used:
            used = step.vocabulary
            native.set_vocabulary(vocabularies[used])
        yield step, native.segment(step.rgb, flow=step.flow, time_s=float(step.time_s))


def write_parity_set(bundle: Path, folder: Path) -> Path:
    """Write all cases into a folder; returns `cases.txt`."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabularies, frames, lines = write_vocabularies(bundle, folder), parity_frames(), []
    for number, rgb in enumerate(frames):
        header = f"P6\n{rgb.shape[1]} {rgb.shape[0]}\n255\n".encode()
        (folder / f"{number:02d}.ppm").write_bytes(header + rgb.tobytes())
    for name, temporal in WAYS.items():
        lines.append(
            f"case {name} {temporal.keyframe_every} {temporal.longest_s} {BETWEEN.index(temporal.between)} "
            f"{temporal.scores_every} {temporal.smoothing} {temporal.change} {temporal.cut}"
        )
        vocabulary = None
        for number, step in enumerate(case_steps(bundle, temporal, vocabularies, frames)):
            if step.vocabulary != vocabulary:
                vocabulary = step.vocabulary
                lines.append(f"vocabulary {vocabularies[vocabulary].name}")
            flow = f"{name}-{number:02d}.flow" if step.flow is not None else "-"
            if step.flow is not None:
                (folder / flow).write_bytes(step.flow.astype("<f4").tobytes())
            labels = step.result.labels
            header = f"P5\n{labels.shape[1]} {labels.shape[0]}\n255\n".encode()
            (folder / f"{name}-{number:02d}.pgm").write_bytes(header + labels.tobytes())
            lines.append(f"frame {number:02d}.ppm {flow} {name}-{number:02d}.pgm {float(step.time_s)!r}")
    cases = folder / "cases.txt"
    cases.write_text("\n".join(lines) + "\n", encoding="ascii")
    return cases
