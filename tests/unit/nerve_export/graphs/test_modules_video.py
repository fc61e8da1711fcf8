"""Stages between keyframes against the reference, and what says that scores are finite."""

import pytest
import torch

from nerve_export.graphs.arithmetic import all_finite
from nerve_export.graphs.modules_video import LocalCarriedStage
from nerve_export.parity.reference import synthetic_motion
from nerve_ref.local import local_weights
from nerve_ref.motion import carried_neighbours

GRID_HW = (6, 8)


def test_the_near_affinity_of_the_keyframe_is_carried_as_the_reference_does() -> None:
    W = local_weights(torch.nn.functional.normalize(torch.rand(5, *GRID_HW), dim=0), sigma=0.1)
    motion = synthetic_motion(GRID_HW)
    carried = LocalCarriedStage(GRID_HW)(W, motion.origin_tokens)
    torch.testing.assert_close(carried, carried_neighbours(W, motion))
    torch.testing.assert_close(carried.sum(0), torch.ones(GRID_HW))
    assert carried[:3, 0].max() == 0, "above the first row"
    assert carried[[0, 3, 5], :, 0].max() == 0, "left of the first column"
    assert not torch.allclose(carried, W), "or standing still would pass"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_entry_that_is_no_number_is_found(value: float) -> None:
    scores = torch.rand(3, 20)
    assert all_finite(scores)
    assert all_finite(torch.full((2, 2), torch.finfo(torch.float32).max))
    scores[1, 7] = value
    assert not all_finite(scores)
