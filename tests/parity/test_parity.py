"""A sound bundle agrees with the reference, and no damage that matters gets past the comparison."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from nerve_export.parity import ParityReport, check_parity, compared, parity_frames
from nerve_export.plan import Preset
from nerve_export.stages import Tolerance
from nerve_ref.weights import Models
from nerve_runtime.manifest import Manifest
from nerve_runtime.spec import StageName
from tests.parity import damage

pytestmark = pytest.mark.onnx

TIGHT = Tolerance(cosine=0.9999, max_abs=1e-3)
CHAIN = {"chain"}
SLOW = pytest.mark.slow  # a second each, together too long for every run
ReportOf = Callable[[StageName, damage.Edit], ParityReport]


@pytest.fixture
def report_of(bundle: Path, manifest: Manifest, models: Models, preset: Preset, tmp_path: Path) -> ReportOf:
    """Parity of the bundle after one graph was edited."""

    def report(stage: StageName, edit: damage.Edit) -> ParityReport:
        broken = damage.damaged_bundle(bundle, manifest, tmp_path / "broken", stage, edit)
        return check_parity(tmp_path / "broken", broken, models, preset.params, preset.parity_classes)

    return report


def failed_stages(report: ParityReport) -> set[str]:
    """Stages with a tap that failed on its own; the chain of all stages may or may not feel it in its labels."""
    return {tap.stage for tap in report.taps if not tap.passed} - CHAIN


def test_the_sound_bundle_agrees_at_every_tap(bundle: Path, manifest: Manifest, models: Models, preset: Preset) -> None:
    report = check_parity(bundle, manifest, models, preset.params, preset.parity_classes)
    assert failed_stages(report) == set()
    assert report.passed
    assert {tap.stage for tap in report.taps} == set(manifest.stages) | CHAIN
    outputs = {(stage, tensor.name) for stage, record in manifest.stages.items() for tensor in record.spec.outputs}
    assert {(tap.stage, tap.tensor) for tap in report.taps if tap.stage != "chain"} == outputs


@SLOW
def test_an_edit_that_changes_nothing_passes(report_of: ReportOf) -> None:
    assert report_of("walk", damage.shifted("alpha", 0.0)).passed


def test_a_broken_head_fails(report_of: ReportOf, manifest: Manifest) -> None:
    sizes = manifest.geometry
    report = report_of("attention", damage.broken_head(sizes.heads, sizes.tokens, sizes.pooled_keys))
    assert failed_stages(report) == {"attention"}


def test_transposed_local_weights_fail(report_of: ReportOf) -> None:
    assert failed_stages(report_of("attention", damage.transposed_weights())) == {"attention"}


@SLOW
def test_neighbours_in_another_order_fail(report_of: ReportOf) -> None:
    assert failed_stages(report_of("attention", damage.reversed_neighbours())) == {"attention"}


@pytest.mark.parametrize("stage", ["scores", "attention", pytest.param("frame", marks=SLOW)])
def test_red_and_blue_exchanged_fails(stage: StageName, report_of: ReportOf) -> None:
    assert failed_stages(report_of(stage, damage.swapped_colors())) == {stage}


@pytest.mark.parametrize("stage", ["walk", *(pytest.param(name, marks=SLOW) for name in ("walk_warm", "frame"))])
def test_an_alpha_that_is_off_by_two_hundredths_fails(stage: StageName, report_of: ReportOf) -> None:
    assert failed_stages(report_of(stage, damage.shifted("alpha", -0.02))) == {stage}


@SLOW
@pytest.mark.parametrize("stage", ["walk", "walk_warm"])
def test_a_beta_that_is_off_by_two_hundredths_fails(stage: StageName, report_of: ReportOf) -> None:
    assert failed_stages(report_of(stage, damage.shifted("beta", 0.02))) == {stage}


@pytest.mark.parametrize("stage", ["walk", pytest.param("walk_warm", marks=SLOW)])
def test_a_walk_of_one_step_less_fails(stage: StageName, report_of: ReportOf) -> None:
    assert failed_stages(report_of(stage, damage.one_step_less)) == {stage}


def test_a_softmax_temperature_that_is_off_by_five_percent_fails(report_of: ReportOf, manifest: Manifest) -> None:
    sizes = manifest.geometry
    edit = damage.tempered(1.05, (sizes.heads, sizes.tokens, sizes.pooled_keys))
    assert failed_stages(report_of("attention", edit)) == {"attention"}


def test_text_embeddings_of_two_prompts_exchanged_fail(report_of: ReportOf) -> None:
    assert failed_stages(report_of("text", damage.swapped_results("text_embeddings"))) == {"text"}


@SLOW
@pytest.mark.parametrize("name", ["text_embeddings", "class_rows"])
def test_two_classes_exchanged_fail(name: str, report_of: ReportOf) -> None:
    assert failed_stages(report_of("scores", damage.swapped_rows(name))) == {"scores"}


@SLOW
def test_a_head_temperature_that_is_off_by_five_percent_fails(report_of: ReportOf) -> None:
    assert failed_stages(report_of("mix", damage.shifted("head_temperature", 0.05))) == {"mix"}


@SLOW
def test_a_read_out_that_is_upside_down_fails(report_of: ReportOf) -> None:
    flip = helper.make_node("Slice", ["sound", "start", "end", "axis", "step"], ["labels"])
    ends = {name: np.array([value]) for name, value in (("start", -1), ("end", -(1 << 30)), ("axis", 0), ("step", -1))}
    report = report_of("readout", damage.before_output("labels", flip, **ends))
    assert failed_stages(report) == {"readout"}
    assert not report.passed


@SLOW
def test_damage_shows_in_the_chain_of_all_stages_too(report_of: ReportOf) -> None:
    report = report_of("scores", damage.swapped_rows("class_rows"))
    assert next(tap.tensor for tap in report.taps if tap.stage == "chain" and not tap.passed) == "labels_cold"


def test_the_worst_tap_is_the_first_that_failed(report_of: ReportOf) -> None:
    report = report_of("walk", damage.shifted("alpha", -0.02))
    worst = report.worst()
    assert (worst.stage, worst.tensor, worst.frame, worst.passed) == ("walk", "label_scores", 0, False)
    assert report.as_json()["passed"] is False


def test_numbers_that_are_not_finite_fail() -> None:
    expected = np.ones(4, np.float32)
    found = np.array([1, 1, 1, np.nan], np.float32)
    assert not compared("walk", "label_scores", 0, expected, found, TIGHT).passed
    assert not compared("walk", "label_scores", 0, expected, np.array([1, 1, 1, np.inf], np.float32), TIGHT).passed


def test_another_shape_fails() -> None:
    assert not compared("walk", "label_scores", 0, np.ones((2, 3)), np.ones((3, 2)), TIGHT).passed


def test_one_wrong_element_among_many_fails_by_its_distance() -> None:
    expected = np.ones(100_000, np.float32)
    found = expected.copy()
    found[7] += 0.01
    tap = compared("walk", "label_scores", 0, expected, found, TIGHT)
    assert tap.cosine is not None
    assert tap.cosine > TIGHT.cosine
    assert not tap.passed


def test_confidence_may_differ_by_one_level_and_labels_not_at_all() -> None:
    expected = np.zeros(200, np.uint8)
    found = expected + np.uint8(1)
    assert compared("readout", "confidence", 0, expected, found, TIGHT).passed
    assert not compared("readout", "confidence", 0, expected, found + np.uint8(1), TIGHT).passed
    assert not compared("readout", "labels", 0, expected, found, TIGHT).passed


def test_one_label_in_two_hundred_may_differ_and_two_may_not() -> None:
    expected = np.zeros(200, np.uint8)
    one, two = expected.copy(), expected.copy()
    one[:1], two[:2] = 1, 1
    assert compared("frame", "labels", 0, expected, one, TIGHT).passed
    assert not compared("frame", "labels", 0, expected, two, TIGHT).passed


def test_parity_frames_are_fixed_and_no_two_are_the_same() -> None:
    first, again = parity_frames((64, 96)), parity_frames((64, 96))
    assert {frame.shape for frame in first} == {(64, 96, 3)}
    np.testing.assert_array_equal(np.stack(first), np.stack(again))
    assert len({frame.tobytes() for frame in first}) == len(first)
