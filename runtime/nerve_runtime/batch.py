"""Unrelated frames, each segmented by itself: the networks run for several at a time where the bundle was built for that."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from nerve_runtime.backends.base import Tensor, item_of
from nerve_runtime.errors import ResourceError
from nerve_runtime.frames import Frame, UInt8Array, check_pixels, working_frame
from nerve_runtime.graphs import ActiveVocabulary, Graphs, Timings
from nerve_runtime.labels import no_labels
from nerve_runtime.result import FrameResult


@dataclass(frozen=True, slots=True)
class _Picture:
    """A frame to be segmented: its number, presentation time, pixels, RGB, and uint8 (1, h, w, 3) at the bundle's size."""

    index: int
    time_s: Fraction | None
    rgb: UInt8Array
    working: UInt8Array


def segment_frames(
    graphs: Graphs, vocabulary: ActiveVocabulary, frames: Sequence[Frame | UInt8Array], *, bgr: bool
) -> Iterator[FrameResult]:
    """Label every pixel of each frame, in order, up to `max_batch` of the bundle in a run of the networks.

    Raises:
        UsageError: the pixels of a frame are not uint8 (H, W, 3).
        ResourceError: memory ran out.
    """
    checked = [
        (frame, check_pixels(frame.rgb if isinstance(frame, Frame) else frame, place))
        for place, frame in enumerate(frames)
    ]
    for start in range(0, len(checked), graphs.max_batch):
        chosen = checked[start : start + graphs.max_batch]
        try:
            yield from _segment_run(graphs, vocabulary, chosen, start, bgr=bgr)
        except MemoryError as error:
            raise ResourceError(
                f"frames {start} to {start + len(chosen) - 1} of {len(checked)} ran out of memory together; use smaller "
                "frames, or a bundle of a smaller --max-batch"
            ) from error


def _segment_run(
    graphs: Graphs,
    vocabulary: ActiveVocabulary,
    frames: Sequence[tuple[Frame | UInt8Array, UInt8Array]],
    first: int,
    *,
    bgr: bool,
) -> Iterator[FrameResult]:
    started, timings_ms = time.perf_counter(), Timings()
    pictures = [_picture(graphs, frame, pixels, first + place, bgr=bgr) for place, (frame, pixels) in enumerate(frames)]
    timings_ms["resize"] = 1000 * (time.perf_counter() - started)
    working = graphs.upload(np.concatenate([picture.working for picture in pictures]))
    attention = graphs.run_items("attention", {"frame": working}, timings_ms)
    seen = attention[graphs.seen_name] if graphs.has_one_tower else working
    words = graphs.words_of(vocabulary, len(pictures))
    scores = graphs.run_items("scores", {graphs.seen_name: seen, **words}, timings_ms)
    shared_ms = {name: spent / len(pictures) for name, spent in timings_ms.items()}
    shared_s = (time.perf_counter() - started) / len(pictures)
    for place, picture in enumerate(pictures):
        inputs = {**graphs.of_item(attention, place), **graphs.of_item(scores, place)}
        own = item_of(working, place, keep_axis=True) if len(pictures) > 1 else working
        yield _labelled(graphs, vocabulary, picture, own, inputs, dict(shared_ms), shared_s)


def _picture(graphs: Graphs, frame: Frame | UInt8Array, pixels: UInt8Array, place: int, *, bgr: bool) -> _Picture:
    working = working_frame(pixels, graphs.manifest.geometry.working_hw, bgr=bgr)
    index, time_s = (frame.index, frame.time_s) if isinstance(frame, Frame) else (place, None)
    return _Picture(index, time_s, pixels[..., ::-1] if bgr else pixels, working)


def _labelled(
    graphs: Graphs,
    vocabulary: ActiveVocabulary,
    picture: _Picture,
    working: Tensor,
    inputs: dict[str, Tensor],
    timings_ms: Timings,
    shared_s: float,
) -> FrameResult:
    """The rest of a frame's work, which no other frame shares; `inputs` are its outputs of `attention` and `scores`."""
    started = time.perf_counter()
    size_hw = picture.rgb.shape[0], picture.rgb.shape[1]
    seeds = inputs["seed_scores"]
    heads = {"head_affinity": inputs["head_affinity"], "head_temperature": vocabulary.scalars["head_temperature"]}
    affinity = graphs.run("mix", {**heads, "seed_scores": seeds}, timings_ms)["affinity"]
    graph = {"seed_scores": seeds, "affinity": affinity, "local_weights": inputs["local_weights"]}
    label_scores = graphs.run("walk", {**graph, **vocabulary.walk_scalars}, timings_ms)["label_scores"]
    readings = graphs.read_out(label_scores, working, vocabulary, size_hw, timings_ms)
    labels, confidence = readings or no_labels(size_hw, vocabulary.label_dtype)
    timings_ms["total"] = 1000 * (shared_s + time.perf_counter() - started)
    return FrameResult(
        labels=labels, confidence=confidence, class_names=vocabulary.bank.class_names, index=picture.index,
        time_s=picture.time_s, timings_ms=timings_ms, keyframe=True, affinity_age=0, valid=readings is not None,
        rgb=picture.rgb,
    )  # fmt: skip
