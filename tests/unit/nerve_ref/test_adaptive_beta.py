"""Beta follows the clearer of two affinities, stays within 0 and 1, and fades to the given beta."""

import inspect

import numpy as np
import pytest
import torch

from nerve_ref.adaptive_beta import adaptive_beta, adaptive_step, token_entropies
from nerve_ref.affinity import MixedPooled
from nerve_ref.head_weights import mean_entropies
from nerve_ref.local import local_weights
from nerve_ref.walk import mixed_step, walk

SURE, TORN, BLANK = [0.98, 0.01, 0.01], [0.5, 0.49, 0.01], [1 / 3, 1 / 3, 1 / 3]
THREE = torch.tensor(3.0)


def tokens(*rows: list[float]) -> torch.Tensor:
    """Distributions (c,p), one per token."""
    return torch.tensor(rows).T


def random_labels(seed: int) -> torch.Tensor:
    return torch.rand(3, 16, generator=torch.Generator().manual_seed(seed)).softmax(0)


def small_affinities() -> tuple[MixedPooled, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    rows = torch.rand(16, 4, generator=generator)
    features = torch.randn(3, 4, 4, generator=generator)
    return MixedPooled(rows / rows.sum(1, keepdim=True), (4, 4), (2, 2)), local_weights(features, 0.5)


def test_entropies_of_tokens_average_to_those_of_a_head() -> None:
    labels = random_labels(0)
    own = token_entropies(labels, THREE)
    expected = -(labels.double() * labels.double().log()).sum(0) / np.log(3)
    torch.testing.assert_close(own.double(), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(own.mean()[None], mean_entropies(labels[None], THREE))


def test_the_clearer_affinity_weighs_more_at_each_token() -> None:
    betas = adaptive_beta(tokens(SURE, TORN, BLANK), tokens(TORN, SURE, BLANK), THREE, 0.4, 0.5, "per_pixel")
    assert betas[0] > 0.4 > betas[1]
    assert betas[2] == pytest.approx(0.4)


def test_beta_moves_by_the_log_odds_of_the_two_entropies() -> None:
    """Entropies 0 against 1 at temperature 0.5: the odds of 1 to 3 are multiplied by e squared."""
    betas = adaptive_beta(tokens([1.0, 0.0, 0.0]), tokens(BLANK), THREE, 0.25, 0.5, "per_pixel")
    odds = float(betas[0] / (1 - betas[0]))
    assert odds == pytest.approx(np.e**2 / 3, rel=1e-4)


def test_per_image_gives_all_tokens_the_beta_of_the_mean_difference() -> None:
    far, near = tokens(SURE, TORN), tokens(TORN, BLANK)
    betas = adaptive_beta(far, near, THREE, 0.3, 0.2, "per_image")
    lead = float((token_entropies(near, THREE) - token_entropies(far, THREE)).mean())
    odds = 0.3 / 0.7 * np.exp(lead / 0.2)
    np.testing.assert_allclose(betas.numpy(), odds / (1 + odds), rtol=1e-5)


@pytest.mark.parametrize("mode", ["per_image", "per_pixel"])
def test_a_great_temperature_leaves_beta_alone_and_0_and_1_stay(mode: str) -> None:
    far, near = random_labels(1), random_labels(2)
    still = adaptive_beta(far, near, THREE, 0.2, 1e6, mode)  # type: ignore[arg-type]
    np.testing.assert_allclose(still.numpy(), 0.2, atol=1e-5)
    for end in (0.0, 1.0):
        np.testing.assert_array_equal(adaptive_beta(far, near, THREE, end, 0.1, mode).numpy(), end)  # type: ignore[arg-type]


def test_a_step_with_one_beta_everywhere_is_the_mixed_step() -> None:
    S_global, W = small_affinities()
    labels = random_labels(3)
    step = adaptive_step(S_global, W, torch.full((16,), 0.3))
    torch.testing.assert_close(step(labels), mixed_step(S_global, W, 0.3)(labels))


def test_a_walk_with_a_beta_of_its_own_at_each_token_keeps_distributions() -> None:
    S_global, W = small_affinities()
    G = random_labels(4)
    P = walk(G, adaptive_step(S_global, W, torch.linspace(0, 1, 16)), 0.9, 30)
    torch.testing.assert_close(P.sum(0), torch.ones(16))
    assert float(P.min()) >= 0


def test_a_token_of_beta_1_takes_far_rows_and_one_of_beta_0_near_ones() -> None:
    S_global, W = small_affinities()
    betas = torch.zeros(16)
    betas[7] = 1.0
    labels = random_labels(5)
    stepped = adaptive_step(S_global, W, betas)(labels)
    torch.testing.assert_close(stepped[:, 7], S_global.apply(labels)[:, 7])
    torch.testing.assert_close(stepped[:, 6], mixed_step(S_global, W, 0.0)(labels)[:, 6])


def test_another_mode_is_refused() -> None:
    unchecked = inspect.unwrap(adaptive_beta)
    with pytest.raises(ValueError, match="mode is 'per_class', expected per_image or per_pixel"):
        unchecked(random_labels(1), random_labels(2), THREE, 0.2, 1.0, "per_class")
