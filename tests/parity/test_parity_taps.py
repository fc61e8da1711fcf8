"""What the reference writes down: complete, in the form that the stages give it, and rebuilt from a manifest."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nerve_export.graphs.modules import MixStage
from nerve_export.parity.compare import compare_bundle
from nerve_export.parity.frames import parity_frames
from nerve_export.parity.reference import open_reference, params_of, reference_of_bundle, reference_taps
from nerve_export.parity.taps import FACTS_NAME, TapFolder
from nerve_export.presets.files import Preset, bundle_preset, presets
from nerve_ref.guided import guided_scores
from nerve_ref.pipeline import segment
from nerve_ref.templates import TEMPLATE_SETS
from nerve_ref.text import parse_classes, text_bank
from nerve_ref.weights.files import WeightChoice
from nerve_ref.weights.networks import Models
from nerve_runtime.bundle.manifest import BakedConstants, Manifest
from nerve_runtime.errors import BundleError, CompatibilityError, UsageError

SAME_GRID = ("up_blocks.1.attentions.0", "up_blocks.1.attentions.1")


def test_taps_are_the_references_own_tensors(models: Models, preset: Preset, taps: Path) -> None:
    bank = text_bank(
        models.clip, models.tokenizer, parse_classes(preset.parity_classes), TEMPLATE_SETS[preset.params.template_set]
    )
    second = parity_frames(preset.params.size_hw, 2)[1]
    expected = segment(models, torch.from_numpy(second), bank, preset.params)
    with TapFolder.open(taps).frame(1) as tensors:
        np.testing.assert_array_equal(tensors["frame"][0], second)
        np.testing.assert_allclose(tensors["seed_scores"], expected.G.numpy(), atol=1e-6)
        np.testing.assert_allclose(tensors["label_scores"], expected.P.numpy(), atol=1e-6)
        np.testing.assert_allclose(tensors["k2"], expected.heads[2].k.numpy(), atol=1e-5)
        np.testing.assert_array_equal(tensors["labels"], expected.labels.numpy())
        np.testing.assert_array_equal(tensors["readout_guided.labels"], tensors["labels"])
        assert (tensors["readout.labels"] != tensors["labels"]).any()


def test_the_short_videos_keyframe_is_the_first_frame_alone(taps: Path) -> None:
    reference = TapFolder.open(taps)
    with reference.frame(0) as alone, reference.chain(0) as keyframe:
        np.testing.assert_array_equal(alone["frame"], keyframe["frame"])
        np.testing.assert_array_equal(alone["labels"], keyframe["labels"])


def test_the_margin_is_small_exactly_where_two_classes_nearly_draw(
    models: Models, preset: Preset, tmp_path: Path
) -> None:
    """Bilinear scores pass through a draw where the label turns; guided ones may jump where the colour does."""
    reference_taps(models, replace(preset.params, readout="bilinear"), preset.parity_classes, 1, tmp_path)
    with TapFolder.open(tmp_path).frame(0) as tensors:
        margin, labels = tensors["margin"], tensors["labels"]
    edges = np.zeros(labels.shape, bool)
    edges[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edges[1:] |= labels[1:] != labels[:-1]
    assert margin.shape == labels.shape
    assert (margin >= 0).all()
    assert margin[edges].mean() < margin[~edges].mean() / 2


def test_the_margin_is_that_of_the_read_out_of_the_constants(taps: Path, preset: Preset) -> None:
    reference = TapFolder.open(taps)
    with reference.frame(0) as tensors:
        P, frame, margin = (tensors[name] for name in ("label_scores", "frame", "margin"))
    size_hw, width = preset.params.size_hw, preset.params.guide_width
    scores = guided_scores(torch.tensor(P), torch.tensor(frame[0]), reference.facts.grid_hw, size_hw, width).numpy()
    second, best = np.sort(scores, axis=0)[-2:]
    np.testing.assert_allclose(margin, best - second, atol=1e-6)


def test_one_frame_gives_a_keyframe_and_a_warm_one(models: Models, preset: Preset, tmp_path: Path) -> None:
    reference_taps(models, preset.params, "grass; water", 1, tmp_path)
    facts = TapFolder.open(tmp_path).facts
    assert (facts.frames, facts.chain_frames) == (1, 2)
    assert facts.class_names == ("grass", "water")
    assert facts.size_hw == preset.params.size_hw
    assert [name.rsplit(".", 2)[0] for name in facts.layers] == list(preset.params.layers)


def test_an_unfinished_folder_is_refused(taps: Path, bundle: Path, manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"holds no finished reference"):
        compare_bundle(bundle, manifest, tmp_path)
    (tmp_path / FACTS_NAME).write_text('{"frames": 1', encoding="utf-8")
    with pytest.raises(BundleError, match=r"holds no finished reference"):
        TapFolder.open(tmp_path)
    assert TapFolder.open(taps).facts.frames == 2


def test_linear_factors_mix_as_the_graphs_mix_them(models: Models, preset: Preset, tmp_path: Path) -> None:
    params = replace(preset.params, layers=SAME_GRID, affinity="linear", sharpen=1.0, key_norm=False)
    reference_taps(models, params, "grass; water; road", 1, tmp_path)
    reference = TapFolder.open(tmp_path)
    grid_hw, tokens = reference.facts.grid_hw, reference.facts.grid_hw[0] * reference.facts.grid_hw[1]
    with reference.frame(0) as tensors:
        factors, mixed = tensors["head_affinity"], tensors["affinity"]
        given = [torch.from_numpy(tensors[name]) for name in ("head_affinity", "seed_scores", "head_temperature")]
    rows, columns = factors
    assert rows.shape == columns.shape
    assert mixed.shape == (2, tokens, rows.shape[0] * rows.shape[2])
    np.testing.assert_allclose(np.einsum("npe,ne->np", rows, columns.sum(1)), 1, atol=1e-4)
    found, *_ = MixStage(params, grid_hw)(*given)
    np.testing.assert_allclose(found.numpy(), mixed, atol=1e-5)


def test_a_dense_affinity_has_nothing_to_compare_with(models: Models, preset: Preset, tmp_path: Path) -> None:
    params = replace(preset.params, affinity="softmax_dense")
    with pytest.raises(UsageError, match=r"a dense affinity has no graph to compare with"):
        reference_taps(models, params, "grass; water", 1, tmp_path)


def test_the_manifest_says_every_constant(manifest: Manifest, preset: Preset) -> None:
    assert params_of(manifest) == preset.params


def test_a_constant_that_the_manifest_lacks_is_named(manifest: Manifest) -> None:
    baked = BakedConstants(**manifest.method.baked.model_dump(exclude={"sigma"}))
    other = manifest.model_copy(update={"method": manifest.method.model_copy(update={"baked": baked})})
    with pytest.raises(BundleError, match=r"the manifest lacks sigma"):
        params_of(other)


@pytest.mark.parametrize(("sigma", "reason"), [(-1.0, r"NerveParams\.sigma is -1\.0"), ("wide", r"[^$]*'(str|wide)'")])
def test_constants_that_make_no_sense_are_refused(manifest: Manifest, sigma: float | str, reason: str) -> None:
    baked = manifest.method.baked.model_copy(update={"sigma": sigma})
    other = manifest.model_copy(update={"method": manifest.method.model_copy(update={"baked": baked})})
    with pytest.raises(BundleError, match=f"constants make no sense: {reason}"):
        params_of(other)


def test_the_packaged_weights_are_those_of_the_tiny_bundle(manifest: Manifest, preset: Preset) -> None:
    models, params = open_reference(manifest, preset, WeightChoice())
    assert params == preset.params
    assert models.random_seed is None


def test_other_weights_than_the_bundles_are_refused_by_their_role(manifest: Manifest, preset: Preset) -> None:
    first, *others = manifest.weights
    swapped = (first.model_copy(update={"sha256": "0" * 64}), *others)
    with pytest.raises(CompatibilityError, match=rf"made of other weights than these: {first.role} differ"):
        open_reference(manifest.model_copy(update={"weights": swapped}), preset, WeightChoice())


def test_random_weights_are_made_again_from_their_seed(manifest: Manifest) -> None:
    sd21 = presets()["sd21"]
    changes = {"preset": "sd21", "random_seed": 7, "weights": ()}
    models, params = open_reference(manifest.model_copy(update=changes), sd21, WeightChoice())
    assert models.random_seed == 7
    assert params != sd21.params  # the manifest's constants count, not the preset's


def test_a_preset_of_another_version_is_refused(bundle: Path) -> None:
    with pytest.raises(UsageError, match=r"preset 'sd99' of the bundle is unknown here, only tiny, sd21"):
        bundle_preset(bundle, "sd99")


def test_the_reference_of_a_bundle_is_written_from_plain_values(bundle: Path, taps: Path, tmp_path: Path) -> None:
    reference_of_bundle(bundle, WeightChoice(), 1, tmp_path)
    with TapFolder.open(tmp_path).frame(0) as found, TapFolder.open(taps).frame(0) as expected:
        assert set(found) == set(expected)
        np.testing.assert_array_equal(found["labels"], expected["labels"])
