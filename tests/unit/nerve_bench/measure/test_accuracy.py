"""mIoU against a loop over classes, the oracle against its definition, variants against the whole method."""

from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from nerve_bench.measure.accuracy import (
    VARIANTS,
    Confusion,
    World,
    accuracy_record,
    measure_accuracy,
    oracle_labels,
    reference_labels,
    varied_params,
)
from nerve_bench.world import CLASS_NAMES, SEEDS, make_scene
from nerve_ref.pipeline import observe, seeds, segment, structure
from nerve_ref.walk import readout
from nerve_runtime import Readout
from tests.unit.nerve_bench.conftest import quietly

CLASSES = 7


def random_labels(seed: int, classes: list[int]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    rng = np.random.default_rng(seed)
    return tuple(rng.choice(classes, (20, 30)).astype(np.uint8) for _ in range(2))  # type: ignore[return-value]  # two


def iou_by_loop(pairs: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]) -> list[float]:
    """Intersection over union of each class, pixel sets over all scenes; NaN for a class that is nowhere."""
    ious = []
    for label in range(CLASSES):
        hits = sum(int(((truth == label) & (found == label)).sum()) for truth, found in pairs)
        union = sum(int(((truth == label) | (found == label)).sum()) for truth, found in pairs)
        ious.append(100 * hits / union if union else float("nan"))
    return ious


def filled(pairs: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]) -> Confusion:
    table = Confusion(CLASSES)
    for truth, found in pairs:
        table.add(truth, found)
    return table


def test_iou_of_each_class_equals_a_loop_over_pixels_of_all_scenes() -> None:
    pairs = [random_labels(seed, [0, 2, 3, 5]) for seed in range(4)]
    np.testing.assert_allclose(filled(pairs).class_iou(), iou_by_loop(pairs))


def test_a_class_that_is_nowhere_does_not_count_and_one_that_is_only_found_does() -> None:
    truth = np.array([[0, 0], [1, 1]], np.uint8)
    found = np.array([[0, 4], [1, 1]], np.uint8)
    table = filled([(truth, found)])
    assert np.isnan(table.class_iou()[[2, 3, 5, 6]]).all()
    assert table.miou() == pytest.approx((50 + 100 + 0) / 3)
    assert table.pixel_accuracy() == 75


def test_miou_is_taken_over_all_scenes_at_once_and_not_per_scene() -> None:
    ones = np.ones((4, 4), np.uint8)
    zeros = np.zeros((4, 4), np.uint8)
    table = filled([(ones, ones), (ones, zeros), (zeros, zeros)])
    assert table.miou() == pytest.approx(50)


def test_the_confusion_matrix_holds_truth_in_rows() -> None:
    table = filled([(np.array([[2]], np.uint8), np.array([[5]], np.uint8))])
    assert table.counts[2, 5] == table.counts.sum() == 1


def test_a_record_names_every_class_and_leaves_absent_ones_empty() -> None:
    table = Confusion(len(CLASS_NAMES))
    table.add(np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint8))
    record = accuracy_record(("nerve", "guided"), "reference", table, 1)
    assert record["class_iou"] == {name: 100.0 if index == 0 else None for index, name in enumerate(CLASS_NAMES)}
    assert (record["bench"], record["variant"], record["runner"], record["scenes"]) == (
        "accuracy",
        "nerve",
        "reference",
        1,
    )


def test_the_oracle_gives_each_true_region_the_class_of_its_mean_score() -> None:
    """Two regions; single tokens of the left one shout another class, the region as a whole does not."""
    truth = np.zeros((4, 8), np.uint8)
    truth[:, 4:] = 3
    G = torch.zeros(5, 4, 8)
    G[1, :, :4], G[2, :, 4:] = 0.6, 1.0
    G[4, 0, 0] = 0.9
    found = oracle_labels(G.flatten(1), (4, 8), truth)
    assert (found[:, :4] == 1).all()
    assert (found[:, 4:] == 2).all()


def test_the_oracle_takes_the_mean_of_scores_and_no_vote() -> None:
    """Three tokens of four lean to class 0 a little, the fourth to class 1 a lot."""
    G = torch.tensor([[0.55, 0.55, 0.55, 0.0], [0.45, 0.45, 0.45, 1.0]])
    assert (oracle_labels(G, (2, 2), np.zeros((2, 2), np.uint8)) == 1).all()


def test_the_oracle_is_right_wherever_a_regions_mean_is_right() -> None:
    truth = np.repeat(np.array([[0, 1], [2, 1]], np.uint8), 8, 0).repeat(8, 1)
    G = torch.rand(3, 16, generator=torch.Generator().manual_seed(0)) * 0.2
    small = torch.from_numpy(truth[2::4, 2::4].astype(np.int64)).flatten()
    G[small, torch.arange(16)] += 0.5
    np.testing.assert_array_equal(oracle_labels(G, (4, 4), truth), truth)


def test_the_variants_are_the_methods_parts() -> None:
    assert list(VARIANTS) == ["clip_only", "local", "global_mean", "global_entropy", "nerve"]
    scene = {
        name: (constants.alpha, constants.beta, constants.head_temperature) for name, constants in VARIANTS.items()
    }
    assert scene == {
        "clip_only": (0.0, None, None),
        "local": (None, 0.0, None),
        "global_mean": (None, 1.0, 1e9),
        "global_entropy": (None, 1.0, None),
        "nerve": (None, None, None),
    }


def test_a_variant_changes_only_its_own_constants(world: World) -> None:
    assert varied_params(world.params, VARIANTS["nerve"]) == world.params
    local = varied_params(world.params, VARIANTS["local"])
    assert (local.beta, local.alpha, local.head_temperature) == (0, world.params.alpha, world.params.head_temperature)


def test_clip_alone_is_the_read_out_of_g_and_nerve_is_the_whole_method(world: World) -> None:
    frame = torch.from_numpy(make_scene(SEEDS["validation"][0], size_px=128).rgb)
    observation = observe(world.models, frame, world.params)
    labels = reference_labels(world, observation, world.params)
    result = segment(world.models, frame, world.bank, world.params)
    by_clip = readout(result.G, result.grid_hw, world.params.size_hw, 0.0, has_background=False)[0].numpy()
    by_readout = {
        kind: segment(world.models, frame, world.bank, replace(world.params, readout=kind)).labels.numpy()
        for kind in get_args(Readout)
    }
    np.testing.assert_array_equal(labels["clip_only", "bilinear"], by_clip)
    np.testing.assert_array_equal(labels["nerve", "bilinear"], by_readout["bilinear"])
    np.testing.assert_array_equal(labels["nerve", "guided"], by_readout["guided"])
    assert (by_readout["bilinear"] != by_clip).any()
    assert (by_readout["bilinear"] != by_readout["guided"]).any()


def test_the_oracle_of_a_scene_uses_the_scenes_own_seeds(world: World) -> None:
    scene = make_scene(SEEDS["validation"][1], size_px=128)
    (*_, oracle) = measure_accuracy(world, SEEDS["validation"][1:2], None, quietly)
    observation = observe(world.models, torch.from_numpy(scene.rgb), world.params)
    grid_hw = structure(observation.heads, observation.latent, observation.frame, world.params).grid_hw
    G = seeds(observation.features, world.bank, world.params, grid_hw)
    found = oracle_labels(G, grid_hw, scene.labels)
    assert oracle["variant"] == "oracle"
    assert oracle["pixel_accuracy"] == pytest.approx(100 * (found == scene.labels).mean(), abs=1e-3)


@pytest.mark.onnx
def test_both_runners_are_rated_on_the_same_scenes_and_agree(world: World, bundle: Path) -> None:
    records = list(measure_accuracy(world, SEEDS["test"][:2], bundle, quietly))
    rated = [
        (record["runner"], record["variant"], record["readout"]) for record in records if record["bench"] == "accuracy"
    ]
    ways = [*((name, "bilinear") for name in VARIANTS), ("nerve", "guided")]
    assert sorted(rated) == sorted(
        [("reference", *way) for way in [*ways, ("oracle", "bilinear")]] + [("bundle_ort", *way) for way in ways]
    )
    percent = records[-1]["percent"]
    assert list(percent) == [*VARIANTS, "nerve, guided"]
    assert min(percent.values()) >= 99.5


def test_the_guided_line_says_what_it_wins_over_the_bilinear_one(world: World) -> None:
    records = list(measure_accuracy(world, SEEDS["validation"][:3], None, quietly))
    miou = {record["readout"]: record["miou"] for record in records if record["variant"] == "nerve"}
    (guided,) = [record for record in records if "miou_minus_bilinear" in record]
    assert (guided["variant"], guided["readout"]) == ("nerve", "guided")
    assert guided["miou_minus_bilinear"] == pytest.approx(miou["guided"] - miou["bilinear"], abs=0.0011)
    low, high = guided["interval"]
    assert low < guided["miou_minus_bilinear"] < high
