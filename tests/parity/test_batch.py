"""Bundles for several frames in a run: each frame is segmented as alone, with its own words, and no mix-up gets past."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from nerve_bench.world import moving_scene
from nerve_export.parity.compare import compare_bundle
from nerve_export.parity.frames import parity_frames
from nerve_export.parity.measures import ParityReport
from nerve_export.parity.reference import reference_taps
from nerve_export.presets.files import Preset
from nerve_ref.weights.networks import Models
from nerve_runtime import Segmenter, Temporal
from nerve_runtime.backends import open_backend
from nerve_runtime.bundle.manifest import Manifest, load_manifest
from nerve_runtime.bundle.spec import BATCHED_STAGES, StageName
from nerve_runtime.frames import UInt8Array
from tests.data.tiny_bundle import MAX_BATCH, batch_bundle_folder
from tests.parity import damage, test_graphs
from tests.parity.test_graphs import promised, shapes_of, signature

pytestmark = [pytest.mark.onnx, pytest.mark.slow]  # a bundle of their own, and a reference of as many frames

BATCHED = sorted(BATCHED_STAGES)
CLASSES = "zebra; sand; water, sea; grass; ladybug"
CONTROL_FLOW = {"Loop", "Scan", "If"}
ReportOf = Callable[[StageName, damage.Edit], ParityReport]


@pytest.fixture(scope="module")
def batch_bundle() -> Path:
    return batch_bundle_folder()


@pytest.fixture(scope="module")
def batch_manifest(batch_bundle: Path) -> Manifest:
    return load_manifest(batch_bundle)


@pytest.fixture(scope="module")
def batch_taps(models: Models, preset: Preset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the reference says of one frame alone, and of four with words and constants of their own."""
    folder = tmp_path_factory.mktemp("batch_taps")
    reference_taps(models, preset.params, preset.parity_classes, 1, folder, MAX_BATCH)
    return folder


@pytest.fixture
def report_of(batch_bundle: Path, batch_manifest: Manifest, batch_taps: Path, tmp_path: Path) -> ReportOf:
    """Parity of one stage, after its graph was edited."""

    def report(stage: StageName, edit: damage.Edit) -> ParityReport:
        broken = damage.damaged_bundle(batch_bundle, batch_manifest, tmp_path / "broken", stage, edit)
        return compare_bundle(tmp_path / "broken", broken, batch_taps, stages=[stage])

    return report


def broken_frames(report: ParityReport) -> set[int]:
    """The frames with a tap that failed; 0 is the one alone, those of the run count from 1."""
    return {tap.frame for tap in report.taps if not tap.passed}


@pytest.mark.parametrize("stage", BATCHED)
def test_a_graph_for_several_frames_is_what_the_manifest_says(
    stage: StageName, batch_bundle: Path, batch_manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, sizes = batch_manifest.stages[stage], batch_manifest.geometry
    model = onnx.load(batch_bundle / record.onnx)
    found = signature(model.graph.input)
    assert found == promised(record.spec.inputs)
    assert all(axes[0] == "b" for _, _, axes in found)
    assert not CONTROL_FLOW & {node.op_type for node in model.graph.node}
    monkeypatch.setitem(test_graphs.FREE_AXES, "b", 1)
    shapes = shapes_of(model)
    assert {name: shape for name, shape in shapes.items() if shape.count(sizes.tokens) > 1} == {}


def test_the_graphs_that_take_one_frame_keep_their_bytes(manifest: Manifest, batch_manifest: Manifest) -> None:
    assert batch_manifest.geometry == manifest.geometry.model_copy(update={"max_batch": MAX_BATCH})
    kept = {
        stage
        for stage, record in manifest.stages.items()
        if manifest.files[record.onnx] == batch_manifest.files[batch_manifest.stages[stage].onnx]
    }
    assert set(manifest.stages) - kept == BATCHED_STAGES
    costs = [
        {stage: round(record.gmac, 4) for stage, record in each.stages.items()} for each in (manifest, batch_manifest)
    ]
    assert costs[0] == costs[1], "a frame costs what it costs alone"


def test_every_frame_of_a_run_agrees_with_the_reference_on_its_own_words(
    batch_bundle: Path, batch_manifest: Manifest, batch_taps: Path
) -> None:
    report = compare_bundle(batch_bundle, batch_manifest, batch_taps, stages=BATCHED)
    assert report.passed
    for stage in BATCHED:
        assert {tap.frame for tap in report.taps if tap.stage == stage} == set(range(1 + MAX_BATCH))


def first_for_all(name: str) -> damage.Edit:
    """Every item reads the input of the first: nothing is wrong in a run of one."""
    nodes = (
        helper.make_node("Slice", [name, "start", "end", "axis"], ["first"]),
        helper.make_node("Shape", [name], ["shape"]),
        helper.make_node("Expand", ["first", "shape"], ["damaged"]),
    )
    return damage.behind_input(name, *nodes, start=np.array([0]), end=np.array([1]), axis=np.array([0]))


def reversed_items(name: str) -> damage.Edit:
    """Results in the opposite order: nothing is wrong in a run of one."""
    flip = helper.make_node("Slice", ["sound", "start", "end", "axis", "step"], [name])
    ends = {each: np.array([value]) for each, value in (("start", -1), ("end", -(1 << 30)), ("axis", 0), ("step", -1))}
    return damage.before_output(name, flip, **ends)


@pytest.mark.parametrize(
    ("stage", "edit"),
    [
        ("scores", first_for_all("text_embeddings")),
        ("scores", first_for_all("class_mask")),
        ("scores", first_for_all("tau")),
        ("frame", first_for_all("alpha")),
        ("frame", first_for_all("text_embeddings")),
        ("attention", reversed_items("head_affinity")),
        ("attention", reversed_items("local_weights")),
        ("frame", reversed_items("labels")),
    ],
    ids=["words", "mask", "tau", "alpha", "words of frame", "affinity", "weights", "labels"],
)
def test_items_that_are_mixed_up_fail_where_a_run_of_one_passes(
    stage: StageName, edit: damage.Edit, report_of: ReportOf
) -> None:
    broken = broken_frames(report_of(stage, edit))
    assert broken
    assert 0 not in broken


def test_a_damage_to_every_frame_fails_alone_too(report_of: ReportOf) -> None:
    assert 0 in broken_frames(report_of("scores", damage.swapped_colors()))


def test_labels_of_a_run_are_those_of_runs_of_one(batch_bundle: Path, batch_manifest: Manifest) -> None:
    """One graph, all numbers of frames: words, constants and frames differ from item to item."""
    items = [_inputs(batch_manifest, item) for item in range(MAX_BATCH)]
    with open_backend("ort", batch_bundle, batch_manifest) as backend:
        session = backend.open_session("frame")
        alone = [session.run({name: array[None] for name, array in item.items()}) for item in items]
        for count in range(1, MAX_BATCH + 1):
            together = session.run({name: np.stack([item[name] for item in items[:count]]) for name in items[0]})
            for index in range(count):
                np.testing.assert_array_equal(together["labels"][index], alone[index]["labels"][0])


def _inputs(manifest: Manifest, item: int) -> dict[str, np.ndarray]:
    rng, method = np.random.default_rng(item), manifest.method
    embeddings = rng.normal(size=(6, manifest.geometry.text_width)).astype(np.float32)
    return {
        "frame": parity_frames(manifest.geometry.working_hw, MAX_BATCH)[item],
        "text_embeddings": embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True),
        "class_rows": rng.integers(0, 6, (5, 2)),
        "class_mask": np.array([True] * 4 + [item % 2 == 0]),
        **{name: np.array(getattr(method, name), np.float32) for name in ("tau", "alpha", "beta", "head_temperature")},
        "threshold": np.array(0.1 * item, np.float32),
    }


def pictures() -> list[UInt8Array]:
    rng = np.random.default_rng(8)
    return [
        *parity_frames((128, 128), 4), *parity_frames((90, 200), 3), rng.integers(0, 256, (64, 48, 3), dtype=np.uint8),
        *parity_frames((300, 120), 2),
    ]  # fmt: skip


@pytest.mark.parametrize("readout", ["bilinear", "guided"])
@pytest.mark.parametrize("background", ["", "road"])
def test_labels_equal_those_of_the_bundle_for_one_frame(
    readout: str, background: str, bundle: Path, batch_bundle: Path
) -> None:
    options = {"backend": "ort", "readout": readout, "background": background or (), "cache_dir": None}
    with (
        Segmenter.open(bundle, CLASSES, **options) as one,  # type: ignore[arg-type]  # a Literal
        Segmenter.open(batch_bundle, CLASSES, **options) as several,  # type: ignore[arg-type]  # a Literal
    ):
        expected = [one.segment(picture) for picture in pictures()]
        ways = ([several.segment(picture) for picture in pictures()], several.segment_batch(pictures()))
        for results in (*ways, one.segment_batch(pictures())):
            for found, wanted in zip(results, expected, strict=True):
                np.testing.assert_array_equal(found.labels, wanted.labels)
    assert len({label for result in expected for label in np.unique(result.labels)}) > 2


@pytest.mark.parametrize("between", ["follow", "warm", "exact", "hold"])
def test_a_video_has_the_labels_of_the_bundle_for_one_frame(between: str, bundle: Path, batch_bundle: Path) -> None:
    temporal = replace(Temporal(keyframe_every=4), between=between)  # type: ignore[arg-type]  # a Literal
    frames = [np.ascontiguousarray(frame.rgb) for frame in moving_scene(5, frames=7)]
    labels = []
    for folder in (bundle, batch_bundle):
        with Segmenter.open(folder, CLASSES, backend="ort", temporal=temporal, cache_dir=None) as segmenter:
            labels.append([segmenter.segment(frame).labels for frame in frames])
    for found, expected in zip(*labels, strict=True):
        np.testing.assert_array_equal(found, expected)
