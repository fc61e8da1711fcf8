"""A sound bundle agrees with the reference, and no damage that matters gets past the comparison."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from nerve_export.parity.compare import chain_stages, check_parity, compare_bundle
from nerve_export.parity.frames import FRAMES
from nerve_export.parity.measures import CHAIN, ParityReport
from nerve_export.presets.files import Preset
from nerve_ref.weights.networks import Models
from nerve_runtime.bundle.manifest import Manifest
from nerve_runtime.bundle.spec import StageName
from nerve_runtime.errors import CompatibilityError
from tests.parity import damage

pytestmark = pytest.mark.onnx

SLOW = pytest.mark.slow  # a second each, together too long for every run
ReportOf = Callable[[StageName, damage.Edit], ParityReport]
INNER = {"latent", "features", *(f"{letter}{layer}" for letter in "qk" for layer in range(3))}


@pytest.fixture
def report_of(bundle: Path, manifest: Manifest, taps: Path, tmp_path: Path) -> ReportOf:
    """Parity of one stage, after its graph was edited; the other stages' graphs are the sound bundle's."""

    def report(stage: StageName, edit: damage.Edit) -> ParityReport:
        broken = damage.damaged_bundle(bundle, manifest, tmp_path / "broken", stage, edit)
        return compare_bundle(tmp_path / "broken", broken, taps, stages=[stage])

    return report


def failed_stages(report: ParityReport) -> set[str]:
    """Stages with a tap that failed on its own; the chain of all stages may or may not feel it in its labels."""
    return {tap.stage for tap in report.taps if not tap.passed} - {CHAIN}


def first_broken(report: ParityReport) -> tuple[str, str]:
    """Stage and tensor of the first tap that broke."""
    tap = report.first_broken()
    assert tap is not None
    return tap.stage, tap.tensor


@pytest.fixture(scope="module")
def report(bundle: Path, manifest: Manifest, models: Models, preset: Preset) -> ParityReport:
    """Parity of the sound bundle."""
    return check_parity(bundle, manifest, models, preset.params, preset.parity_classes)


def test_the_sound_bundle_agrees_at_every_tap(report: ParityReport, manifest: Manifest) -> None:
    assert failed_stages(report) == set()
    assert report.passed
    assert report.first_broken() is None
    assert {tap.stage for tap in report.taps} == set(manifest.stages) | {CHAIN}
    outputs = {(stage, tensor.name) for stage, record in manifest.stages.items() for tensor in record.spec.outputs}
    seen = {(tap.stage, tap.tensor) for tap in report.taps if tap.stage != CHAIN and tap.tensor not in INNER}
    assert seen == outputs
    assert {tap.tensor for tap in report.taps if tap.tensor in INNER} == INNER
    assert {tap.frame for tap in report.taps} == set(range(FRAMES))


def test_the_taps_come_in_the_order_of_the_method(report: ParityReport) -> None:
    tensors = [tap.tensor for tap in report.in_method_order() if tap.frame == 0]
    heads = [f"{letter}{layer}" for layer in range(3) for letter in "qk"]
    expected = ["text_embeddings", "latent", *heads, "features", "seed_scores", "head_affinity", "local_weights"]
    expected += ["head_entropies", "head_weights", "affinity", "local_affinity", "closed_sum", "carried_scores"]
    expected += ["label_scores", "labels", "confidence", "finite"]
    expected += ["label_scores_cold", "labels_cold"]
    assert list(dict.fromkeys(tensors)) == expected


@pytest.mark.parametrize(
    ("stage", "value"),
    [
        ("attention", "latent"),
        pytest.param("attention", "q0", marks=SLOW),
        ("attention", "k1"),
        ("scores", "features"),
        pytest.param("attention", "local_weights", marks=SLOW),
        pytest.param("mix", "affinity", marks=SLOW),
    ],
)
def test_the_first_tensor_that_is_off_is_named(stage: StageName, value: str, report_of: ReportOf) -> None:
    assert first_broken(report_of(stage, damage.scaled(value, 1.05))) == (stage, value)


def test_what_comes_before_the_first_broken_tensor_is_sound(report_of: ReportOf) -> None:
    report = report_of("attention", damage.scaled("k1", 1.05))
    verdicts = {tap.tensor: tap.passed for tap in report.taps if tap.stage == "attention" and tap.frame == 0}
    assert all(verdicts[name] for name in ("latent", "q0", "k0", "q1"))
    assert not verdicts["head_affinity"]


def test_the_comparison_itself_needs_no_torch(bundle: Path, taps: Path) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "for name in ('torch', 'transformers', 'diffusers'): sys.modules[name] = None\n"
        "from nerve_export.parity.compare import compare_bundle\n"
        "from nerve_runtime.bundle.manifest import load_manifest\n"
        "bundle = Path(sys.argv[1])\n"
        "report = compare_bundle(bundle, load_manifest(bundle), Path(sys.argv[2]), stages=['walk', 'scores'])\n"
        "print(report.passed, len(report.taps))\n"
        "import torch\n"
    )
    done = subprocess.run([sys.executable, "-c", program, bundle, taps], capture_output=True, text=True, check=False)
    assert done.stdout == "True 5\n"
    assert "No module named 'torch'" in done.stderr or "import of torch halted" in done.stderr


def test_only_the_named_stages_are_compared(bundle: Path, manifest: Manifest, taps: Path) -> None:
    report = compare_bundle(bundle, manifest, taps, stages=["mix", "walk"])
    assert {tap.stage for tap in report.taps} == {"mix", "walk"}


def test_a_precision_without_tolerances_is_refused(bundle: Path, manifest: Manifest, taps: Path) -> None:
    other = manifest.model_copy(update={"precision": "fp8"})
    with pytest.raises(CompatibilityError, match=r"stage 'walk' has no tolerance for fp8, only for fp32"):
        compare_bundle(bundle, other, taps, stages=["walk"])


def test_polygraphys_runner_gives_the_same_figures_as_our_sessions(
    bundle: Path, manifest: Manifest, taps: Path
) -> None:
    stages = ["mix", "walk", "readout", "readout_guided"]
    ours = compare_bundle(bundle, manifest, taps, "ort", stages)
    theirs = compare_bundle(bundle, manifest, taps, "polygraphy:ort", stages)
    assert theirs.backend.startswith("polygraphy ")
    assert [(tap.tensor, tap.frame) for tap in ours.taps] == [(tap.tensor, tap.frame) for tap in theirs.taps]
    np.testing.assert_array_equal([tap.max_abs for tap in ours.taps], [tap.max_abs for tap in theirs.taps])


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


@pytest.mark.parametrize(
    "stage", ["walk", "walk_carried", *(pytest.param(name, marks=SLOW) for name in ("walk_warm", "frame"))]
)
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


@pytest.mark.parametrize("stage", [pytest.param("readout", marks=SLOW), "readout_guided"])
def test_a_read_out_that_is_upside_down_fails(stage: StageName, report_of: ReportOf) -> None:
    flip = helper.make_node("Slice", ["sound", "start", "end", "axis", "step"], ["labels"])
    ends = {name: np.array([value]) for name, value in (("start", -1), ("end", -(1 << 30)), ("axis", 0), ("step", -1))}
    report = report_of(stage, damage.before_output("labels", flip, **ends))
    assert failed_stages(report) == {stage}
    assert not report.passed


def test_the_chain_ends_with_the_read_out_of_the_manifest(manifest: Manifest) -> None:
    assert manifest.method.readout == "guided"
    assert chain_stages(manifest)[-1] == "readout_guided"
    plain = manifest.model_copy(update={"method": manifest.method.model_copy(update={"readout": "bilinear"})})
    assert chain_stages(plain)[-1] == "readout"


@SLOW
def test_damage_shows_in_the_chain_of_all_stages_too(
    bundle: Path, manifest: Manifest, taps: Path, tmp_path: Path
) -> None:
    broken = damage.damaged_bundle(bundle, manifest, tmp_path / "broken", "scores", damage.swapped_rows("class_rows"))
    report = compare_bundle(tmp_path / "broken", broken, taps)
    failed = [tap.tensor for tap in report.taps if tap.stage == CHAIN and not tap.passed]
    assert failed[:2] == ["label_scores_cold", "labels_cold"]
    assert first_broken(report) == ("scores", "seed_scores")


def test_the_worst_tap_is_the_first_that_failed(report_of: ReportOf) -> None:
    report = report_of("walk", damage.shifted("alpha", -0.02))
    worst = report.worst()
    assert (worst.stage, worst.tensor, worst.frame, worst.passed) == ("walk", "label_scores", 0, False)
    assert report.as_json()["passed"] is False
    assert report.as_json()["first_broken"] == "walk.label_scores"
