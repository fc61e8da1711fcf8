"""Labels are those of the former data path, on which every tensor crossed the host, to the bit and at true values."""

from collections.abc import Collection, Mapping
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from nerve_bench.doubles.engines import IMITATED_SLOTS, FakeCudaBackend
from nerve_bench.world import CLASS_NAMES, SEEDS, moving_scene
from nerve_runtime import Segmenter, Temporal
from nerve_runtime.backends import Backend, BackendOptions, Session
from nerve_runtime.backends.ort import OrtBackend
from nerve_runtime.bundle.manifest import Manifest
from nerve_runtime.bundle.spec import Array, StageName
from nerve_runtime.frames import resize_frame
from nerve_stream import open_frames
from nerve_stream.cli import segment as cli

pytestmark = pytest.mark.onnx

ONE_THREAD = BackendOptions(threads=1)
WAYS = {
    "cold": Temporal.plain(1),
    "follow": Temporal(4),
    "follow, scores carried": Temporal(6, scores_every=2),
    "warm": Temporal(4, between="warm"),
    "exact": Temporal(4, between="exact"),
    "hold": Temporal(4, between="hold"),
}


def slow_but(way: str, quick: str) -> Any:
    """One way goes with the quick tests, the others with the slow ones."""
    return way if way == quick else pytest.param(way, marks=pytest.mark.slow)


class CrossingSession(Session):
    """Gives every output as an array, and so gets every input as one."""

    def __init__(self, session: Session) -> None:
        super().__init__(session.stage, session.spec)
        self._session = session

    def compute(
        self, tensors: Mapping[str, Array], sizes: Mapping[str, int], host: Collection[str]
    ) -> Mapping[str, Array]:
        assert all(isinstance(tensor, np.ndarray) for tensor in tensors.values())
        return self._session.run(tensors)


class CrossingBackend(Backend):
    """ONNX Runtime as before: nothing stays with it from stage to stage."""

    name = "crossing"

    def __init__(self, bundle: Path, manifest: Manifest, class_slots: int | None = None) -> None:
        self.class_slots = class_slots
        self._processor = OrtBackend(bundle, manifest, ONE_THREAD)

    def describe(self) -> str:
        return self.name

    def open_session(self, stage: StageName) -> Session:
        return CrossingSession(self._processor.open_session(stage))

    def stop(self) -> None:
        self._processor.stop()

    def close(self) -> None:
        self._processor.close()


def all_labels(bundle: Path, backend: Backend, temporal: Temporal) -> list[Array]:
    """Labels and confidence of two videos in turns, of other classes, and of frames of another size."""
    clip = [frame.rgb for frame in moving_scene(SEEDS["clips"][0], 9, size_px=128, cuts=1)]
    wide = [resize_frame(rgb, (90, 160)) for rgb in clip]
    results: list[Any] = []
    with Segmenter.open(bundle, list(CLASS_NAMES), backend=backend, temporal=temporal, cache_dir=None) as segmenter:
        other = segmenter.new_video()
        for index in range(6):
            results += [segmenter.segment(clip[index]), other.segment(wide[-index - 1])]
        segmenter.set_classes(list(CLASS_NAMES)[9:14], background=list(CLASS_NAMES)[:3])
        results += [segmenter.segment(rgb) for rgb in (*clip[6:], *wide[6:])]
    return [np.stack([result.labels, result.confidence]) for result in results]


@pytest.mark.parametrize("way", [slow_but(way, "follow") for way in WAYS])
def test_tensors_that_stay_give_the_labels_of_tensors_that_cross(bundle: Path, manifest: Manifest, way: str) -> None:
    found = all_labels(bundle, OrtBackend(bundle, manifest, ONE_THREAD), WAYS[way])
    expected = all_labels(bundle, CrossingBackend(bundle, manifest), WAYS[way])
    for index, (one, other) in enumerate(zip(found, expected, strict=True)):
        np.testing.assert_array_equal(one, other, err_msg=f"frame {index}")
    assert len({planes.tobytes() for planes in found}) > len(found) // 3, "or equal frames would prove little"


@pytest.mark.parametrize("way", [slow_but(way, "follow") for way in ("cold", "follow", "exact")])
def test_streams_and_device_memory_give_the_same_labels(bundle: Path, manifest: Manifest, way: str) -> None:
    backend = FakeCudaBackend(bundle, manifest, ONE_THREAD)
    found = all_labels(bundle, backend, WAYS[way])
    expected = all_labels(bundle, CrossingBackend(bundle, manifest, IMITATED_SLOTS), WAYS[way])
    for index, (one, other) in enumerate(zip(found, expected, strict=True)):
        np.testing.assert_array_equal(one, other, err_msg=f"frame {index}")
    assert backend.cudart.leaks() == []


def test_a_process_of_its_own_gives_the_same_labels(bundle: Path, manifest: Manifest, tmp_path: Path) -> None:
    """The whole command on the demo's clip, isolated and not, against tensors that cross."""
    demo = Path(str(files("nerve_stream"))) / "demo"
    masks = []
    for isolate in ("--isolate", "--no-isolate"):
        folder = tmp_path / isolate
        words = (
            "--classes",
            ";".join(CLASS_NAMES),
            "--masks",
            folder,
            "--mask-format",
            "labels",
            "--limit",
            8,
            isolate,
        )
        ended = CliRunner().invoke(cli.app, [str(word) for word in (demo / "clip.mp4", "--bundle", bundle, *words)])
        assert ended.exit_code == 0, ended.output
        masks.append([np.asarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)) for path in sorted(folder.glob("*.png"))])
    backend, frames = CrossingBackend(bundle, manifest), islice(open_frames(demo / "clip.mp4"), 8)
    with Segmenter.open(bundle, list(CLASS_NAMES), backend=backend, temporal=Temporal(), cache_dir=None) as segmenter:
        expected = [segmenter.segment(frame).labels for frame in frames]
    for found in masks:
        np.testing.assert_array_equal(np.stack(found), np.stack(expected))
