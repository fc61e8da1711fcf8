"""One tower that says both: `attention` gives the patch features that `scores` takes, on every frame that needs scores."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nerve_runtime import Segmenter, Temporal
from nerve_runtime.backends.fake import FakeBackend
from nerve_runtime.bundle.manifest import Manifest
from nerve_runtime.bundle.spec import StageName, StageSpec, TensorSpec
from tests.data.clips import halves
from tests.data.fake_bundle import STAGES, TEXT_WIDTH, TOKENS, make_fake_bundle

FEATURES = TensorSpec(name="patch_features", dtype="float32", axes=(TOKENS, TEXT_WIDTH))
CLASSES = ("red", "grass", "sky")


@pytest.fixture
def one_tower(tmp_path: Path, manifest: Manifest) -> Path:
    """The fake bundle with a tower in `attention` alone."""
    stages = {name: stage.model_dump(mode="json") for name, stage in manifest.stages.items()}
    scores, attention = STAGES["scores"], STAGES["attention"]
    changed: tuple[tuple[StageName, StageSpec], ...] = (
        ("scores", scores.model_copy(update={"inputs": (FEATURES, *scores.inputs[1:])})),
        ("attention", attention.model_copy(update={"outputs": (*attention.outputs, FEATURES)})),
    )
    for name, spec in changed:
        stages[name]["spec"] = spec.model_dump(mode="json")
    return make_fake_bundle(tmp_path / "bundle", stages=stages)


def opened(bundle: Path, temporal: Temporal, backend: Any = "fake") -> Segmenter:
    return Segmenter.open(bundle, CLASSES, backend=backend, temporal=temporal, cache_dir=None)


@pytest.mark.parametrize("between", ["warm", "exact", "hold"])
def test_labels_are_those_of_two_towers(bundle: Path, one_tower: Path, between: Any) -> None:
    """Where W between keyframes is that of the keyframe, one tower changes nothing but what it costs."""
    temporal = Temporal(3, between=between, change=0, cut=0)
    with opened(bundle, temporal) as two, opened(one_tower, temporal) as one:
        for shift in range(7):
            rgb = np.roll(halves(), 3 * shift, axis=1)
            np.testing.assert_array_equal(one.segment(rgb).labels, two.segment(rgb).labels)
        for segmenter in (one, two):
            segmenter.set_classes(["zebra", "road"])
        np.testing.assert_array_equal(one.segment(halves()).labels, two.segment(halves()).labels)


def test_the_tower_runs_on_frames_between_too_and_gives_their_near_affinity(one_tower: Path) -> None:
    with opened(one_tower, Temporal(4, change=0, cut=0)) as segmenter:
        results = [segmenter.segment(np.roll(halves(), shift, axis=1)) for shift in range(4)]
    assert [result.keyframe for result in results] == [True, False, False, False]
    for result in results[1:]:
        assert {"attention", "scores", "walk_carried"} <= set(result.timings_ms)
        assert not {"local", "mix"} & set(result.timings_ms)


def test_it_rests_where_no_scores_are_due_and_runs_for_new_classes(one_tower: Path) -> None:
    with opened(one_tower, Temporal(8, scores_every=3, change=0, cut=0)) as segmenter:
        ran = ["attention" in segmenter.segment(halves()).timings_ms for _ in range(5)]
        assert ran == [True, False, False, True, False]
        segmenter.set_classes(["zebra", "road"])
        result = segmenter.segment(halves())
    assert "attention" in result.timings_ms
    assert not result.keyframe


def test_a_keyframe_that_was_lost_is_made_anew_with_its_features(one_tower: Path, manifest: Manifest) -> None:
    with opened(one_tower, Temporal(4, change=0, cut=0)) as segmenter:
        video = segmenter.new_video()
        video.encode(halves())  # never decoded
        assert video.decode(video.encode(halves())).keyframe


def test_a_back_end_that_counts_runs_sees_one_run_of_the_tower_a_frame(one_tower: Path) -> None:
    from nerve_runtime.bundle.manifest import load_manifest

    backend = FakeBackend(load_manifest(one_tower))
    with opened(one_tower, Temporal.plain(1), backend) as segmenter:
        for _ in range(3):
            segmenter.segment(halves())
        assert backend.runs["attention"] == backend.runs["scores"] == 3
