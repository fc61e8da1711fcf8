"""The guided read-out follows colours, stays a convex mix of tokens, and is plain upsampling where colours are equal."""

import numpy as np
import pytest
import torch

from nerve_ref.guided import AROUND, REACH_TOKENS, guide_weights, guided_maps, guided_scores

GRID_HW = (4, 5)
TOKEN_PX = 4


def random_frame(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (16, 20, 3), generator=generator, dtype=torch.uint8)


def random_scores(seed: int) -> torch.Tensor:
    return torch.rand(3, 20, generator=torch.Generator().manual_seed(seed)).softmax(0)


def slow_maps(P: np.ndarray, frame: np.ndarray, colour_width: float) -> np.ndarray:
    """The definition, pixel by pixel, in float64."""
    pixels = frame.astype(np.float64) / 255
    height, width = GRID_HW
    colours = pixels.reshape(height, TOKEN_PX, width, TOKEN_PX, 3).mean((1, 3))
    scores = P.reshape(-1, height, width)
    found = np.zeros((len(P), *frame.shape[:2]))
    for y, x in np.ndindex(*frame.shape[:2]):
        place = (y + 0.5) / TOKEN_PX, (x + 0.5) / TOKEN_PX
        total = 0.0
        for dy, dx in AROUND:
            row, column = int(place[0]) + dy, int(place[1]) + dx
            if 0 <= row < height and 0 <= column < width:
                away = (place[0] - row - 0.5) ** 2 + (place[1] - column - 0.5) ** 2
                unlike = ((pixels[y, x] - colours[row, column]) ** 2).sum()
                weight = np.exp(-away / (2 * REACH_TOKENS**2) - unlike / (2 * colour_width**2))
                found[:, y, x] += weight * scores[:, row, column]
                total += weight
        found[:, y, x] /= total
    return found


@pytest.mark.parametrize("colour_width", [0.3, 5.0])
def test_the_maps_are_those_of_the_definition(colour_width: float) -> None:
    frame, P = random_frame(0), random_scores(1)
    maps = guided_maps(P, GRID_HW, guide_weights(frame, GRID_HW, colour_width))
    np.testing.assert_allclose(maps.numpy(), slow_maps(P.numpy(), frame.numpy(), colour_width), atol=2e-5)


def test_weights_sum_to_one_even_where_no_token_is_like_the_pixel() -> None:
    """At a width of 0.001 every plain exponential underflows."""
    weights = guide_weights(random_frame(2), GRID_HW, 0.001)
    np.testing.assert_allclose(weights.sum(0).numpy(), 1, atol=1e-5)
    maps = guided_maps(random_scores(3), GRID_HW, weights)
    np.testing.assert_allclose(maps.sum(0).numpy(), 1, atol=1e-5)


def test_a_border_runs_where_the_colours_change_and_not_where_tokens_meet() -> None:
    """Black until column 9, white from there on; the token that holds columns 8 to 11 is undecided by itself."""
    frame = torch.zeros(16, 20, 3, dtype=torch.uint8)
    frame[:, 9:] = 255
    P = torch.zeros(2, *GRID_HW)
    P[0, :, :2], P[1, :, 3:], P[:, :, 2] = 1, 1, 0.5
    labels = guided_maps(P.flatten(1), GRID_HW, guide_weights(frame, GRID_HW, 0.1)).argmax(0)
    np.testing.assert_array_equal(labels.numpy(), np.repeat((np.arange(20) >= 9)[None], 16, axis=0))


def test_constant_scores_stay_as_they_are() -> None:
    P = torch.tensor([0.2, 0.7, 0.1])[:, None].expand(-1, 20)
    maps = guided_maps(P, GRID_HW, guide_weights(random_frame(4), GRID_HW, 0.1))
    np.testing.assert_allclose(maps.numpy(), np.broadcast_to(P[:, :1, None].numpy(), (3, 16, 20)), atol=1e-6)


def test_a_frame_that_tokens_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a frame of \(16, 20\) pixels is no multiple of a grid of \(3, 5\) tokens"):
        guide_weights(random_frame(0), (3, 5), 0.1)


def test_scores_at_the_size_of_the_frame_are_the_maps_themselves() -> None:
    frame, P = random_frame(5), random_scores(6)
    scores = guided_scores(P, frame, GRID_HW, (16, 20), 0.3)
    assert torch.equal(scores, guided_maps(P, GRID_HW, guide_weights(frame, GRID_HW, 0.3)))


def test_scores_at_another_size_are_those_of_the_frame_enlarged_by_distance_alone() -> None:
    """At twice the size a pixel lies a quarter of a pixel of the frame away from its own; at the corner it is that."""
    frame, P = random_frame(5), random_scores(6)
    maps, scores = guided_scores(P, frame, GRID_HW, (16, 20), 0.3), guided_scores(P, frame, GRID_HW, (32, 40), 0.3)
    np.testing.assert_allclose(scores[:, 0, 0].numpy(), maps[:, 0, 0].numpy(), atol=1e-6)
    expected = 0.75 * (0.75 * maps[:, 3, 5] + 0.25 * maps[:, 3, 6]) + 0.25 * (
        0.75 * maps[:, 4, 5] + 0.25 * maps[:, 4, 6]
    )
    np.testing.assert_allclose(scores[:, 7, 11].numpy(), expected.numpy(), atol=1e-6)
    np.testing.assert_allclose(scores.sum(0).numpy(), 1, atol=1e-5)
