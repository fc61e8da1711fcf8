"""Both workers with the real segmenter: the same labels as one after another, whatever runs side by side."""

import threading
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from nerve_runtime.errors import BundleError, UsageError
from nerve_runtime.frames import Frame
from nerve_runtime.result import FrameResult
from nerve_runtime.segmenter import Constants, Segmenter
from nerve_runtime.temporal import Temporal
from nerve_stream.pipeline import LocalWorker, ProcessWorker, SegmenterOptions, StreamJob, Worker, run_streams

CLASSES = ("grass, green", "blue sky", "red ball")


def frames(seed: int, count: int = 6) -> list[Frame]:
    """A coarse random picture that moves to the right by a pixel a frame."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    picture = np.kron(coarse, np.ones((8, 8, 1), dtype=np.uint8))
    return [Frame(np.roll(picture, index, axis=1), index, Fraction(index, 25)) for index in range(count)]


def options(bundle: Path) -> SegmenterOptions:
    constants, temporal = Constants(tau=50.0), Temporal(keyframe_every=3)
    return SegmenterOptions(
        str(bundle), CLASSES, backend="fake", cache_dir=None, constants=constants, temporal=temporal
    )


def finished(worker: Worker) -> dict[str, list[FrameResult]]:
    results: dict[str, list[FrameResult]] = {"a": [], "b": []}
    jobs = [
        StreamJob("a", frames(1), lambda frame, result: results["a"].append(result)),
        StreamJob("b", frames(2), lambda frame, result: results["b"].append(result)),
    ]
    run_streams(jobs, worker, stop=threading.Event())
    return results


@pytest.mark.parametrize("kind", ["side by side", "in one thread", "in a process"])
def test_two_videos_side_by_side_come_out_as_each_alone(kind: str, bundle: Path) -> None:
    with options(bundle).open() as segmenter:
        if kind == "in a process":
            worker: Worker = ProcessWorker(options(bundle).open)
        else:
            worker = LocalWorker(segmenter, overlap=kind == "side by side")
        with worker:
            results = finished(worker)
            assert worker.describe() == segmenter.backend
            assert worker.class_names == segmenter.class_names
        for seed, name in ((1, "a"), (2, "b")):
            video = segmenter.new_video()
            alone = [video.segment(frame) for frame in frames(seed)]
            for expected, result in zip(alone, results[name], strict=True):
                np.testing.assert_array_equal(result.labels, expected.labels)
                np.testing.assert_array_equal(result.confidence, expected.confidence)
                assert (result.keyframe, result.affinity_age) == (expected.keyframe, expected.affinity_age)
    assert [result.keyframe for result in results["a"]] == [True, False, False] * 2


def test_a_bundle_that_is_none_is_refused_across_the_border_as_here(bundle: Path, tmp_path: Path) -> None:
    for wrong, kind in (
        (SegmenterOptions(str(tmp_path), CLASSES), BundleError),
        (SegmenterOptions(str(bundle), (), backend="fake"), UsageError),
    ):
        with pytest.raises(kind) as here:
            wrong.open()
        with pytest.raises(kind) as there:
            ProcessWorker(wrong.open)
        assert str(there.value) == str(here.value)


def test_options_have_every_argument_of_the_segmenter_and_can_be_sent(bundle: Path) -> None:
    import inspect
    import pickle

    arguments = set(inspect.signature(Segmenter.open).parameters)
    assert set(SegmenterOptions.__dataclass_fields__) == arguments
    for classes in (("a", "b"), "a; b", Path("words.txt")):
        sent = replace(options(bundle), classes=classes)
        assert pickle.loads(pickle.dumps(sent)) == sent
