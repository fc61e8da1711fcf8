"""Comparing engines: class slots are filled and cut back, and verdicts end up in the manifest of the bundle."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from nerve_export.cli.parity import record_engine_parity
from nerve_export.parity.album import Comparison, comparable_stages
from nerve_export.parity.measures import ParityReport, Tap
from nerve_export.parity.runners import engine_stages, with_class_slots
from nerve_runtime.bundle.manifest import EngineRecord, load_manifest
from nerve_runtime.bundle.spec import Array, StageName, StageSpec, TensorSpec
from nerve_runtime.errors import CompatibilityError, UsageError
from tests.data.fake_bundle import make_fake_bundle

SPEC = StageSpec(
    inputs=(
        TensorSpec(name="class_rows", dtype="int64", axes=("c", "k")),
        TensorSpec(name="class_mask", dtype="bool", axes=("c",)),
        TensorSpec(name="label_scores", dtype="float32", axes=("c", 4)),
        TensorSpec(name="alpha", dtype="float32", axes=()),
    ),
    outputs=(
        TensorSpec(name="seed_scores", dtype="float32", axes=("c", 4)),
        TensorSpec(name="head_weights", dtype="float32", axes=(2,)),
    ),
)
GIVEN: Mapping[str, Array] = {
    "class_rows": np.array([[3, 4], [5, 5], [6, 6]]),
    "class_mask": np.array([True, True, True]),
    "label_scores": np.arange(12, dtype=np.float32).reshape(3, 4),
    "alpha": np.array(0.5, np.float32),
    "not_an_input": np.zeros(3),
}


class Engine:
    """Doubles the scores; keeps what it was given."""

    def __init__(self) -> None:
        self.given: Mapping[str, Array] = {}

    def __call__(self, tensors: Mapping[str, Array]) -> Mapping[str, Array]:
        self.given = tensors
        return {"seed_scores": 2 * tensors["label_scores"], "head_weights": np.ones(2, np.float32)}


def test_classes_are_filled_up_with_slots_that_are_off_and_cut_back() -> None:
    engine = Engine()
    found = with_class_slots(engine, SPEC, 5)(GIVEN)
    assert set(engine.given) == {"class_rows", "class_mask", "label_scores", "alpha"}
    np.testing.assert_array_equal(engine.given["class_mask"], [True, True, True, False, False])
    np.testing.assert_array_equal(engine.given["class_rows"], [[3, 4], [5, 5], [6, 6], [3, 4], [3, 4]])
    np.testing.assert_array_equal(engine.given["label_scores"][3:], 0)
    np.testing.assert_array_equal(found["seed_scores"], 2 * GIVEN["label_scores"])
    assert found["head_weights"].shape == (2,)


def test_a_graph_takes_any_number_of_classes() -> None:
    engine = Engine()
    found = with_class_slots(engine, SPEC, None)(GIVEN)
    assert engine.given["label_scores"].shape == (3, 4)
    assert found["seed_scores"].shape == (3, 4)


def test_more_classes_than_slots_are_refused() -> None:
    with pytest.raises(UsageError, match=r"3 classes are given, the engine has 2 slots"):
        with_class_slots(Engine(), SPEC, 2)(GIVEN)


def engine_record(stage: StageName, gpu: str) -> EngineRecord:
    return EngineRecord(
        stage=stage,
        target=f"rtx-{gpu}",
        path=f"engines/rtx-{gpu}/{stage}.engine",
        key="0" * 64,
        onnx_sha256="0" * 64,
        backend_version="tensorrt-rtx 1.7",
        gpu=gpu,
        os_arch="linux-x86_64",
        precision="fp32",
        profile={},
        builder_options={},
    )


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle with engines of two stages for one GPU, and of one of them for another."""
    folder = make_fake_bundle(tmp_path / "bundle")
    records = [engine_record("walk", "sm89"), engine_record("mix", "sm89"), engine_record("walk", "sm120")]
    for record in records:
        path = folder / record.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(record.path.encode())
    from nerve_export.bundle import file_records, write_manifest

    engines = {"engines": tuple(records), "files": file_records(folder)}
    write_manifest(folder, load_manifest(folder).model_copy(update=engines))
    return folder


def verdicts_after(bundle: Path, *taps: tuple[str, bool]) -> dict[str, str]:
    """What the manifest says of each engine after the two of sm89 ran with these taps."""
    report = ParityReport("here", tuple(Tap(stage, "x", 0, 1.0, 0.0, None, passed=passed) for stage, passed in taps))
    ran: dict[StageName, str] = {name: f"engines/rtx-sm89/{name}.engine" for name in ("walk", "mix")}
    record_engine_parity(bundle, Comparison("bundle", {}, report, {}, (), (), ran))
    return {record.path.removeprefix("engines/"): record.parity for record in load_manifest(bundle).engines}


def test_engines_that_agree_are_marked_and_those_that_did_not_run_are_not(bundle: Path) -> None:
    files = load_manifest(bundle).files
    assert verdicts_after(bundle, ("walk", True), ("mix", True), ("chain", True)) == {
        "rtx-sm89/walk.engine": "passed",
        "rtx-sm89/mix.engine": "passed",
        "rtx-sm120/walk.engine": "not run",
    }
    assert load_manifest(bundle).files == files


def test_only_the_engine_whose_stage_breaks_fails(bundle: Path) -> None:
    found = verdicts_after(bundle, ("walk", True), ("mix", True), ("mix", False), ("chain", False))
    assert (found["rtx-sm89/walk.engine"], found["rtx-sm89/mix.engine"]) == ("passed", "failed")


def test_where_only_the_row_of_all_stages_breaks_no_engine_passes(bundle: Path) -> None:
    found = verdicts_after(bundle, ("walk", True), ("mix", True), ("chain", False))
    assert (found["rtx-sm89/walk.engine"], found["rtx-sm89/mix.engine"]) == ("failed", "failed")


def test_only_stages_with_an_engine_of_the_library_are_compared(bundle: Path) -> None:
    manifest = load_manifest(bundle)
    assert engine_stages(manifest, "rtx") == comparable_stages(manifest, "polygraphy:rtx") == ["mix", "walk"]
    with pytest.raises(
        CompatibilityError, match=r"no tensorrt engines to compare; build them with: .*--target tensorrt"
    ):
        engine_stages(manifest, "tensorrt")


def test_of_a_bf16_bundle_the_processor_runs_the_methods_own_stages_only(bundle: Path) -> None:
    manifest = load_manifest(bundle)
    assert comparable_stages(manifest, "polygraphy:ort") is None
    half = manifest.model_copy(update={"precision": "bf16"})
    assert comparable_stages(half, "polygraphy:ort") == [
        "mix", "walk", "walk_warm", "carry", "local", "local_carried", "walk_carried", "solve", "walk_exact", "readout",
        "readout_guided",
    ]  # fmt: skip


def test_an_engine_that_failed_may_pass_later(bundle: Path) -> None:
    verdicts_after(bundle, ("walk", False), ("mix", True))
    found = verdicts_after(bundle, ("walk", True), ("mix", True), ("chain", True))
    assert found["rtx-sm89/walk.engine"] == "passed"
