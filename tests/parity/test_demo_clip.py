"""What `nerve-segment demo` shows first: a clip whose things are named rightly."""

from importlib.resources import files
from pathlib import Path

import pytest

from nerve_bench.cli.main import LIVELY_CLIP
from nerve_bench.measure.video_scores import VideoScore
from nerve_bench.world import CLASS_NAMES, SEEDS, moving_scene
from nerve_runtime import Segmenter, Temporal
from nerve_stream import open_frames

DEMO = Path(str(files("nerve_stream"))) / "demo"
FRAMES, SIDE_PX = 75, 256

pytestmark = pytest.mark.onnx


def test_large_things_have_their_right_names_in_nine_of_ten_frames_of_the_demo(bundle: Path) -> None:
    lines = (DEMO / "classes.txt").read_text(encoding="utf-8").splitlines()
    names = [line for line in lines if line and not line.startswith("#")]
    assert names == list(CLASS_NAMES)
    truths = list(moving_scene(SEEDS["clips"][LIVELY_CLIP], FRAMES, size_px=SIDE_PX))
    score = VideoScore()
    with Segmenter.open(bundle, names, backend="ort", temporal=Temporal()) as segmenter:
        for truth, result in zip(truths, segmenter.stream(open_frames(DEMO / "clip.mp4")), strict=True):
            score.add(truth, result.labels, result.affinity_age)
    assert score.named_percent() >= 90
    assert score.table.pixel_accuracy() > 90
