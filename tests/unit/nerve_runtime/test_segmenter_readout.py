"""Which read-out a segmenter runs, and what it gives it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nerve_runtime.backends.fake import FakeBackend
from nerve_runtime.bundle.manifest import Manifest
from nerve_runtime.bundle.spec import Array, StageName
from nerve_runtime.errors import BundleError, UsageError
from nerve_runtime.segmenter import Segmenter
from nerve_runtime.temporal import Temporal
from tests.data.clips import halves
from tests.data.fake_bundle import GRID_HW, WORKING_HW, make_fake_bundle, manifest_lines

CLASSES = ("red", "grass", "sky")


def opened(bundle: Path, **options: Any) -> Segmenter:
    return Segmenter.open(bundle, **{"classes": CLASSES, "backend": "fake", "cache_dir": None, **options})


def test_the_guided_read_out_is_run_where_it_is_asked_for(bundle: Path) -> None:
    with opened(bundle, readout="guided") as segmenter:
        guided = segmenter.segment(halves((47, 65)))
        assert segmenter.readout == "guided"
    assert list(guided.timings_ms) == ["resize", "attention", "scores", "mix", "walk", "readout_guided", "total"]
    assert guided.labels.shape == guided.confidence.shape == (47, 65)
    assert guided.labels.max() < 3


def test_without_a_choice_the_read_out_is_the_bundles(tmp_path: Path) -> None:
    method = {**manifest_lines()["method"], "readout": "guided"}
    with opened(make_fake_bundle(tmp_path / "guided", method=method)) as segmenter:
        assert "readout_guided" in segmenter.segment(halves()).timings_ms
    with opened(tmp_path / "guided", readout="bilinear") as segmenter:
        assert "readout" in segmenter.segment(halves()).timings_ms


def test_the_guide_is_the_frame_itself_on_keyframes_and_between(bundle: Path, manifest: Manifest) -> None:
    guides: list[bytes] = []

    class Watched(FakeBackend):
        def compute(self, stage: StageName, tensors: Mapping[str, Array]) -> dict[str, Array]:
            if stage == "readout_guided":
                guides.append(tensors["frame"].tobytes())
            return super().compute(stage, tensors)

    frames = [np.full((*WORKING_HW, 3), level, np.uint8) for level in (10, 20, 30)]
    with opened(bundle, readout="guided", backend=Watched(manifest), temporal=Temporal(keyframe_every=3)) as segmenter:
        for frame in frames:
            segmenter.segment(frame)
    assert guides == [frame.tobytes() for frame in frames]


def test_a_read_out_that_is_unknown_or_not_in_the_bundle_is_refused(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="readout is 'sharp', expected one of bilinear, guided, or None"):
        opened(bundle, readout="sharp")
    stages = {name: stage for name, stage in manifest_lines()["stages"].items() if name != "readout_guided"}
    older = make_fake_bundle(tmp_path / "older", stages=stages)
    with pytest.raises(BundleError, match="no graph readout_guided, which readout='guided' needs; build it again"):
        opened(older, readout="guided")
    with opened(older) as segmenter:
        assert segmenter.readout == "bilinear"


def test_a_bundle_whose_default_has_no_graph_is_refused(tmp_path: Path) -> None:
    lines = manifest_lines()
    stages = {name: stage for name, stage in lines["stages"].items() if name != "readout_guided"}
    with pytest.raises(ValueError, match=r"method\.readout is 'guided', but there is no stage 'readout_guided'"):
        make_fake_bundle(tmp_path, stages=stages, method={**lines["method"], "readout": "guided"})


def test_the_fakes_guided_read_out_gives_a_pixel_the_scores_of_a_token_of_its_colour(manifest: Manifest) -> None:
    """Black tokens left of white ones; the last black token's right half is white, and so takes the white ones' class."""
    width = WORKING_HW[1]
    frame = np.zeros((1, *WORKING_HW, 3), dtype=np.uint8)
    frame[:, :, width // 2 - 4 :] = 255
    scores = np.zeros((2, *GRID_HW), dtype=np.float32)
    scores[0, :, : GRID_HW[1] // 2] = 1
    scores[1] = 1 - scores[0]
    tensors: dict[str, Array] = {
        "label_scores": scores.reshape(2, -1),
        "frame": frame,
        "size_hw": np.array(WORKING_HW, dtype=np.int64),
        "threshold": np.array(0, dtype=np.float32),
    }
    with FakeBackend(manifest) as backend:
        outputs = backend.open_session("readout_guided").run(tensors)
    expected = np.broadcast_to(np.arange(width) >= width // 2 - 4, WORKING_HW)
    np.testing.assert_array_equal(outputs["labels"], expected.astype(np.uint8))
    assert (outputs["confidence"] == 255).all()
