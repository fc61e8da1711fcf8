"""1,203 classes end to end: a bundle of the tiny preset for so many, ONNX Runtime, and the whole command."""

from collections.abc import Sequence
from importlib.resources import files
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from nerve_bench.world import CLASS_NAMES
from nerve_export.build import build
from nerve_export.plan import make_plan
from nerve_runtime import Segmenter, Temporal
from nerve_runtime.backends.ort import OrtBackend
from nerve_runtime.bundle.manifest import Manifest, load_manifest
from nerve_runtime.drawing.overlays import overlay
from nerve_runtime.frames import resize_frame
from nerve_runtime.result import FrameResult
from nerve_stream import open_frames
from nerve_stream.cli import segment as cli
from tests.data.many_names import many_names
from tests.parity.test_device_path import CrossingBackend

pytestmark = [pytest.mark.onnx, pytest.mark.slow]

MANY = 1203
NAMES = many_names(sorted({word for name in CLASS_NAMES for word in name.split()}), MANY)[::-1]
"""Single words last: what wins most has a label beyond 255."""
CLIP = Path(str(files("nerve_stream"))) / "demo" / "clip.mp4"
FRAMES = 4
WIDE_STAGES = {"readout", "readout_guided", "frame"}


@pytest.fixture(scope="module")
def wide_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compared with the reference by the build itself, as every bundle is."""
    folder = tmp_path_factory.mktemp("wide") / "tiny"
    build(make_plan("tiny", max_classes=MANY, out=folder), ())
    return folder


def segmented(bundle: Path, names: Sequence[str], temporal: Temporal | None = None) -> list[FrameResult]:
    settings = temporal or Temporal()
    with Segmenter.open(bundle, list(names), backend="ort", temporal=settings, cache_dir=None) as segmenter:
        return [segmenter.segment(frame) for frame in islice(open_frames(CLIP), FRAMES)]


def masks_of(bundle: Path, folder: Path, isolate: str) -> list[np.ndarray]:
    words = (CLIP, "--bundle", bundle, "--backend", "ort", "--classes", "; ".join(NAMES), "--limit", FRAMES, isolate)
    outputs = ("--masks", folder / "masks", "--overlay", folder / "overlay.mp4", "--jsonl", folder / "lines.jsonl")
    ended = CliRunner().invoke(cli.app, [str(word) for word in (*words, *outputs)])
    assert ended.exit_code == 0, ended.output
    assert (folder / "overlay.mp4").stat().st_size > 0
    return [
        np.asarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)) for path in sorted((folder / "masks").glob("*.png"))
    ]


def test_only_what_gives_labels_is_another_graph(bundle: Path, manifest: Manifest, wide_bundle: Path) -> None:
    wide = load_manifest(wide_bundle)
    other = {name for name in manifest.files if wide.files[name] != manifest.files[name] and name.endswith(".onnx")}
    assert other == {f"{stage}.onnx" for stage in WIDE_STAGES}
    for stage in WIDE_STAGES:
        assert wide.stages[stage].spec.outputs[0].dtype == "uint16"  # type: ignore[index]
        assert manifest.stages[stage].spec.outputs[0].dtype == "uint8"  # type: ignore[index]


def test_1203_classes_are_segmented_written_and_drawn(wide_bundle: Path, tmp_path: Path) -> None:
    results = segmented(wide_bundle, NAMES)
    assert {result.labels.dtype for result in results} == {np.dtype(np.uint16)}
    assert all(result.valid and result.labels.max() < MANY for result in results)
    assert all((result.labels > 255).any() for result in results)
    alone, isolated = (masks_of(wide_bundle, tmp_path / way, way) for way in ("--no-isolate", "--isolate"))
    for result, mask, other in zip(results, alone, isolated, strict=True):
        np.testing.assert_array_equal(mask, result.labels, strict=True)
        np.testing.assert_array_equal(other, result.labels, strict=True)
    frame = next(iter(open_frames(CLIP))).rgb
    assert (overlay(frame, results[0]) != frame).any(axis=2).mean() > 0.9


def test_the_graph_alone_numbers_1203_classes_as_the_possible_winners_do(wide_bundle: Path) -> None:
    """With slots as of an engine nothing is ruled out beforehand: the labels are the graph's own, uint16."""
    frames = [resize_frame(frame.rgb, (128, 128)) for frame in islice(open_frames(CLIP), FRAMES)]
    manifest = load_manifest(wide_bundle)
    labels = []
    for backend in (OrtBackend(wide_bundle, manifest), CrossingBackend(wide_bundle, manifest, class_slots=MANY)):
        with Segmenter.open(wide_bundle, NAMES, backend=backend, temporal=Temporal(), cache_dir=None) as segmenter:
            labels.append(np.stack([segmenter.segment(frame).labels for frame in frames]))
    np.testing.assert_array_equal(labels[0], labels[1], strict=True)
    assert len(np.unique(labels[0])) > 2


def test_the_classes_of_a_narrow_bundle_get_its_labels(bundle: Path, wide_bundle: Path) -> None:
    narrow, wide = segmented(bundle, CLASS_NAMES), segmented(wide_bundle, CLASS_NAMES)
    for expected, found in zip(narrow, wide, strict=True):
        np.testing.assert_array_equal(found.labels, expected.labels, strict=True)
        np.testing.assert_array_equal(found.confidence, expected.confidence, strict=True)


@pytest.mark.parametrize(("count", "dtype"), [(254, np.uint8), (255, np.uint16)])
def test_254_classes_have_labels_of_8_bit_and_255_of_16(wide_bundle: Path, count: int, dtype: type) -> None:
    found = segmented(wide_bundle, NAMES[-count:], Temporal.plain(1))
    assert {result.labels.dtype for result in found} == {np.dtype(dtype)}
    fewer = segmented(wide_bundle, NAMES[1 - count :], Temporal.plain(1))
    agreeing = [
        float((one.labels == 1 + other.labels.astype(int)).mean()) for one, other in zip(found, fewer, strict=True)
    ]
    assert min(agreeing) > 0.9, "one class more, at the beginning, moves each label by one and changes little else"
