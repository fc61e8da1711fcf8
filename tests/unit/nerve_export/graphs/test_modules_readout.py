"""Both read-outs, run as plain torch, against the reference that they must equal."""

import pytest
import torch
from torch import Tensor

from nerve_export.graphs.modules_readout import (
    FixedGuidedReadoutStage,
    FixedReadoutStage,
    GuidedMaps,
    GuidedReadoutStage,
    ReadoutStage,
)
from nerve_ref.guided import guided_scores
from nerve_ref.walk import bilinear_scores, labels_of

GRID_HW, WORKING_HW = (4, 6), (32, 48)
SIZES = [(32, 48), (4, 6), (37, 91), (7, 5), (100, 33)]
WIDTH = 0.3


def random_scores(seed: int, classes: int = 5) -> Tensor:
    """P (c,p) of which some class is nearly sure at each token."""
    return (12 * torch.rand(classes, 24, generator=torch.Generator().manual_seed(seed))).softmax(0)


def random_frame(seed: int) -> Tensor:
    return torch.randint(0, 256, (1, *WORKING_HW, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def scalar(value: float) -> Tensor:
    return torch.tensor(value)


def assert_same(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    """Equal, but for confidences that rounding moved over half a level."""
    assert found[0].dtype == found[1].dtype == torch.uint8
    assert torch.equal(found[0], expected[0])
    assert len(found[0].unique()) > 1
    assert ((found[1].int() - expected[1].int()).abs() <= 1).all()


@pytest.mark.parametrize("size_hw", SIZES)
def test_the_bilinear_read_out_equals_the_references_at_any_size(size_hw: tuple[int, int]) -> None:
    P = random_scores(0)
    found = ReadoutStage(GRID_HW)(P, torch.tensor(size_hw), scalar(0.0))
    expected = labels_of(bilinear_scores(P, GRID_HW, size_hw), 0.0, has_background=False)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize("size_hw", SIZES)
@pytest.mark.parametrize("threshold", [0.0, 0.6])
def test_the_guided_read_out_equals_the_references_at_any_size(size_hw: tuple[int, int], threshold: float) -> None:
    P, frame = random_scores(0), random_frame(1)
    found = GuidedReadoutStage(GRID_HW, WORKING_HW, WIDTH)(P, frame, torch.tensor(size_hw), scalar(threshold))
    scores = guided_scores(P, frame[0], GRID_HW, size_hw, WIDTH)
    assert_same(found, labels_of(scores, threshold, has_background=True))


@pytest.mark.parametrize("colour_width", [0.001, 0.06, 10.0])
@pytest.mark.parametrize("classes", [1, 9, 40])
def test_guided_scores_are_the_references_whatever_the_width(colour_width: float, classes: int) -> None:
    """Rounding of the colours is divided by the width twice: of 1.5e6, the largest logit at 0.001, 0.1 is left."""
    P, frame = random_scores(2, classes), random_frame(3)
    maps = GuidedMaps(GRID_HW, WORKING_HW, colour_width)(P, frame)
    expected = guided_scores(P, frame[0], GRID_HW, WORKING_HW, colour_width)
    torch.testing.assert_close(maps, expected, atol=0.05 if colour_width < 0.01 else 2e-5, rtol=0)
    torch.testing.assert_close(maps.sum(0), torch.ones(WORKING_HW), atol=1e-5, rtol=0)


def test_the_read_outs_of_a_fixed_size_are_those_of_any_size() -> None:
    P, frame, size = random_scores(4), random_frame(5), torch.tensor(WORKING_HW)
    plain, fixed_plain = ReadoutStage(GRID_HW), FixedReadoutStage(GRID_HW, WORKING_HW)
    assert_same(fixed_plain(P, scalar(0.1)), plain(P, size, scalar(0.1)))
    guided, fixed_guided = (kind(GRID_HW, WORKING_HW, WIDTH) for kind in (GuidedReadoutStage, FixedGuidedReadoutStage))
    assert_same(fixed_guided(P, frame, scalar(0.1)), guided(P, frame, size, scalar(0.1)))


def test_the_guide_moves_labels_where_colours_say_so() -> None:
    """One token is undecided; its left half is black as class 0's side, its right half white as class 1's."""
    P = torch.zeros(2, *GRID_HW)
    P[0, :, :2], P[1, :, 3:], P[:, :, 2] = 1, 1, 0.5
    frame = torch.zeros(1, *WORKING_HW, 3, dtype=torch.uint8)
    frame[:, :, 20:] = 255
    labels, _ = FixedGuidedReadoutStage(GRID_HW, WORKING_HW, 0.1)(P.flatten(1), frame, scalar(0.0))
    assert torch.equal(labels, (torch.arange(48) >= 20).to(torch.uint8).expand(32, 48))


def test_labels_of_16_bit_are_those_of_8_and_number_more_classes() -> None:
    P, frame, size = random_scores(9, classes=300), random_frame(10), torch.tensor([32, 48])
    P[:, 0] = float("nan")
    for narrow, wide in (
        (ReadoutStage(GRID_HW)(P, size, scalar(0.0)), ReadoutStage(GRID_HW, "uint16")(P, size, scalar(0.0))),
        (
            FixedReadoutStage(GRID_HW, WORKING_HW)(P, scalar(0.0)),
            FixedReadoutStage(GRID_HW, WORKING_HW, "uint16")(P, scalar(0.0)),
        ),
        (
            GuidedReadoutStage(GRID_HW, WORKING_HW, WIDTH)(P, frame, size, scalar(0.0)),
            GuidedReadoutStage(GRID_HW, WORKING_HW, WIDTH, "uint16")(P, frame, size, scalar(0.0)),
        ),
        (
            FixedGuidedReadoutStage(GRID_HW, WORKING_HW, WIDTH)(P, frame, scalar(0.0)),
            FixedGuidedReadoutStage(GRID_HW, WORKING_HW, WIDTH, "uint16")(P, frame, scalar(0.0)),
        ),
    ):
        labels = wide[0].numpy()
        assert (narrow[0].dtype, wide[0].dtype) == (torch.uint8, torch.uint16)
        assert (labels.astype("uint8") == narrow[0].numpy()).all()
        assert labels[0, 0] == 65535
        assert 255 < labels[labels != 65535].max() < 300
        assert torch.equal(narrow[1], wide[1])


@pytest.mark.parametrize("threshold", [0.0, 0.25, 0.3, 1.0])
def test_what_is_below_the_threshold_becomes_background(threshold: float) -> None:
    P = random_scores(6) ** 0.3
    P = P / P.sum(0)
    found, *_ = ReadoutStage(GRID_HW)(P, torch.tensor([40, 40]), scalar(threshold))
    expected, _ = labels_of(bilinear_scores(P, GRID_HW, (40, 40)), threshold, has_background=True)
    assert torch.equal(found, expected)


def test_equal_scores_get_the_first_class() -> None:
    P, size = torch.full((4, 24), 0.25), torch.tensor([8, 8])
    labels, confidence, _ = ReadoutStage(GRID_HW)(P, size, scalar(0.0))
    assert (labels == 0).all()
    assert (confidence == 64).all()


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
def test_tokens_whose_numbers_are_broken_get_no_label(broken: float) -> None:
    """The guided read-out looks one token further, so of four rows of tokens the last alone stays whole."""
    P, frame, size = random_scores(7), random_frame(8), torch.tensor([32, 48])
    P[1, :12] = broken  # the upper two rows of tokens
    plain = ReadoutStage(GRID_HW)(P, size, scalar(0.0))
    guided = GuidedReadoutStage(GRID_HW, WORKING_HW, WIDTH)(P, frame, size, scalar(0.0))
    for (labels, confidence, finite), whole_from in ((plain, 20), (guided, 24)):
        assert not finite
        assert (labels[:12] == 255).all()
        assert (confidence[:12] == 0).all()
        assert (labels[whole_from:] < 5).all()
        assert (confidence[whole_from:] > 0).all()
