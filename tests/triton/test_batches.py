"""Cameras whose bundle takes several frames in a run share runs by Triton's dynamic batching, and labels stay theirs."""

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from nerve_export.triton.settings import Settings
from nerve_runtime import EVERY_FRAME, FrameResult, Segmenter
from nerve_runtime.backends import BackendOptions
from nerve_runtime.frames import UInt8Array
from nerve_stream import TritonSegmenter
from tests.triton.conftest import MakeRepository
from tests.triton.server import Server, running_server

pytestmark = pytest.mark.slow
NEEDED = ["text", "scores", "attention", "mix", "walk", "readout_guided", "nerve"]
DELAY_US = 50_000


@pytest.fixture(scope="module")
def repository(batched_bundle: Path, make_repository: MakeRepository) -> Path:
    return make_repository(batched_bundle, Settings(sequences=4, processes=2, queue_delay_us=DELAY_US))


@pytest.fixture(scope="module")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    words = ["--model-control-mode=explicit", *(f"--load-model={model}" for model in NEEDED)]
    with running_server(repository, NEEDED, tmp_path_factory.mktemp("server"), *words) as running:
        yield running


def runs(repository: Path, stage: str) -> Counter[int]:
    """How often a graph was run for how many frames, the runs of zeros included."""
    return Counter(int(line) for line in (repository / stage / "batches.txt").read_text().split())


def test_a_camera_alone_gets_the_labels_of_the_local_runtime(
    server: Server, batched_bundle: Path, frames: list[UInt8Array]
) -> None:
    classes = ["ladybug", "grass", "road"]
    options = BackendOptions(threads=1)
    with (
        Segmenter.open(batched_bundle, classes, backend="ort", backend_options=options, cache_dir=None) as local,
        TritonSegmenter.open(server.addresses["grpc"], classes) as there,
    ):
        for rgb in frames:
            result, expected = there.segment(rgb), local.segment(rgb)
            np.testing.assert_array_equal(result.labels, expected.labels)
            np.testing.assert_array_equal(result.confidence, expected.confidence)


def test_two_cameras_share_runs_and_keep_their_labels(
    server: Server, repository: Path, frames: list[UInt8Array]
) -> None:
    cameras = [
        TritonSegmenter.open(server.addresses["grpc"], ["ladybug", "grass", "road"], temporal=EVERY_FRAME)
        for _ in range(2)
    ]
    alone = [
        [camera.segment(rgb) for rgb in order] for camera, order in zip(cameras, (frames, frames[::-1]), strict=True)
    ]
    before = {stage: runs(repository, stage) for stage in ("scores", "attention")}
    together: list[list[FrameResult]] = [[], []]
    gate = threading.Barrier(2, timeout=60)

    def watch(number: int) -> None:
        for rgb in (frames, frames[::-1])[number]:
            gate.wait()
            together[number].append(cameras[number].segment(rgb))

    threads = [threading.Thread(target=watch, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    for camera in cameras:
        camera.close()
    for expected, results in zip(alone, together, strict=True):
        for one, two in zip(expected, results, strict=True):
            assert (one.labels == two.labels).mean() > 0.999  # sums of another order in a larger run
            assert np.abs(one.confidence.astype(int) - two.confidence).max() <= 2
    for stage, counts in before.items():
        shared = runs(repository, stage) - counts
        print(f"{stage}: runs by frames in them {dict(shared)}")  # noqa: T201  # a figure to read
        assert shared[2] > 0
