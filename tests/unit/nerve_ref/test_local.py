"""S_local against a matrix written pair by pair, and the three kinds of features."""

import numpy as np
import pytest
import torch
from torch import Tensor

from nerve_ref.local import local_apply, local_dense, local_features, local_weights
from nerve_ref.providers.stable_diffusion import LayerHeads
from tests.unit.nerve_ref.by_hand import local_matrix, pool_matrix, resize_matrix, unit


@pytest.fixture(scope="module")
def features() -> Tensor:
    return torch.nn.functional.normalize(torch.randn(5, 4, 6, generator=torch.Generator().manual_seed(0)), dim=0)


def test_local_weights_equal_the_matrix_made_pair_by_pair(features: Tensor) -> None:
    W = local_weights(features, 0.5)
    np.testing.assert_allclose(local_dense(W), local_matrix(features.double().numpy(), 0.5), atol=1e-6)


def test_one_local_step_is_the_matrix_times_the_labels(features: Tensor) -> None:
    P = torch.rand(3, 24, generator=torch.Generator().manual_seed(1))
    expected = P.double().numpy() @ local_matrix(features.double().numpy(), 0.5).T
    np.testing.assert_allclose(local_apply(local_weights(features, 0.5), P), expected, atol=1e-6)


@pytest.mark.parametrize("sigma", [1e-4, 0.1, 100.0])
def test_weights_sum_to_one_at_every_token_for_any_sigma(features: Tensor, sigma: float) -> None:
    torch.testing.assert_close(local_weights(features, sigma).sum(0), torch.ones(4, 6))


def test_a_corner_weighs_its_three_neighbours_only(features: Tensor) -> None:
    corner = local_weights(features, 0.1)[:, 0, 0]
    assert (corner > 0).tolist() == [False, False, False, False, True, False, True, True]


def test_equal_features_leave_only_the_distance() -> None:
    centre = local_weights(torch.ones(2, 3, 3), 0.1)[:, 1, 1]
    diagonal, straight = 2**-0.5, 1.0
    expected = np.array([diagonal, straight, diagonal, straight, straight, diagonal, straight, diagonal])
    np.testing.assert_allclose(centre, expected / expected.sum(), rtol=1e-6)


def test_features_of_no_length_give_finite_weights() -> None:
    assert local_weights(torch.zeros(2, 3, 3), 0.1).isfinite().all()


def test_a_single_token_is_refused() -> None:
    with pytest.raises(ValueError, match="has no neighbours"):
        local_weights(torch.ones(2, 1, 1), 0.1)


def test_key_features_are_all_keys_side_by_side_coarser_layers_upsampled() -> None:
    generator = torch.Generator().manual_seed(2)
    fine, coarse = torch.randn(2, 24, 3, generator=generator), torch.randn(1, 6, 4, generator=generator)
    heads = (LayerHeads("fine", fine, fine, (4, 6)), LayerHeads("coarse", coarse, coarse, (2, 3)))
    latent, frame = torch.zeros(1, 4, 8, 12), torch.zeros(16, 24, 3, dtype=torch.uint8)
    joined = np.concatenate([fine[0].numpy(), fine[1].numpy(), resize_matrix((2, 3), (4, 6)) @ coarse[0].numpy()], 1)
    expected = unit(joined).T.reshape(10, 4, 6)
    np.testing.assert_allclose(local_features("keys", heads, latent, frame, (4, 6)), expected, atol=1e-5)


def test_latent_and_colour_features_are_means_over_the_token() -> None:
    generator = torch.Generator().manual_seed(3)
    latent = torch.randn(1, 4, 8, 12, generator=generator)
    frame = torch.randint(0, 256, (16, 24, 3), dtype=torch.uint8, generator=generator)
    pooled_latent = pool_matrix((8, 12), (4, 6)) @ latent[0].flatten(1).numpy().T
    centred = frame.numpy().reshape(-1, 3) / 255 - 0.5
    pooled_rgb = pool_matrix((16, 24), (4, 6)) @ centred
    for kind, pooled in (("latent", pooled_latent), ("rgb", pooled_rgb)):
        taken = local_features(kind, (), latent, frame, (4, 6))  # type: ignore[arg-type]  # str of a literal loop
        np.testing.assert_allclose(taken, unit(pooled).T.reshape(-1, 4, 6), atol=1e-5)
