import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nerve_ref.affinity import LayeredAffinity, LinearLayer, MixedLayers, MixedPooled
from nerve_ref.local import local_weights
from nerve_ref.motion import Motion, carried_dense, carried_neighbours, carried_walk, carry
from nerve_ref.walk import closed_form, closed_sum, mixed_dense, mixed_step, walk

GRID_HW = (4, 6)
P = 24
SEEDS = st.integers(0, 2**16)


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pooled(seed: int) -> MixedPooled:
    return MixedPooled(torch.rand(P, 6, generator=random(seed)).softmax(1), GRID_HW, (2, 3))


def linear(seed: int) -> MixedLayers:
    rows, columns = torch.rand(2, 1, P, 5, generator=random(seed))
    sums = (rows * columns.sum(1, keepdim=True)).sum(2, keepdim=True)
    return MixedLayers(LayeredAffinity((LinearLayer(rows / sums, columns, GRID_HW),), GRID_HW))


def neighbours(seed: int) -> Tensor:
    return local_weights(torch.randn(3, *GRID_HW, generator=random(seed)), 0.5)


def seeds(seed: int) -> Tensor:
    return torch.rand(3, P, generator=random(seed)).softmax(0)


def at_rest() -> Motion:
    tokens = torch.arange(P)
    weights = torch.zeros(4, P)
    weights[2] = 1
    return Motion(tokens, torch.ones(P), tokens.expand(4, P).clone(), weights)


def anywhere(seed: int) -> Motion:
    source = random(seed)
    weights = torch.rand(4, P, generator=source)
    return Motion(
        torch.randint(P, (P,), generator=source),
        torch.rand(P, generator=source),
        torch.randint(P, (4, P), generator=source),
        weights / weights.sum(0) * torch.rand(P, generator=source),
    )


def test_what_does_not_move_has_the_affinity_of_the_keyframe() -> None:
    for S_global in (pooled(0), linear(1)):
        expected = mixed_dense(S_global, neighbours(2), 0.7)
        torch.testing.assert_close(carried_dense(S_global, neighbours(2), at_rest(), 0.7), expected)


def test_what_does_not_move_keeps_its_scores() -> None:
    torch.testing.assert_close(carry(seeds(0), seeds(1), at_rest(), 1.0), seeds(1))
    torch.testing.assert_close(carry(seeds(0), seeds(1), at_rest(), 0.25), 0.75 * seeds(0) + 0.25 * seeds(1))


@settings(deadline=None, max_examples=30)
@given(SEEDS)
def test_rows_sum_to_1_however_things_move(seed: int) -> None:
    for S_global in (pooled(seed), linear(seed)):
        S = carried_dense(S_global, neighbours(seed), anywhere(seed), 0.7)
        torch.testing.assert_close(S.sum(1), torch.ones(P))
        assert S.min() >= 0
    torch.testing.assert_close(carry(seeds(seed), seeds(seed + 1), anywhere(seed), 0.6).sum(0), torch.ones(P))
    torch.testing.assert_close(carried_neighbours(neighbours(seed), anywhere(seed)).sum(0), torch.ones(GRID_HW))


def test_a_picture_that_moves_as_a_whole_takes_its_scores_along() -> None:
    """A drift by one token to the right: the walk of the moved picture is the moved walk, away from the border."""
    columns = torch.arange(P) % GRID_HW[1]
    origins = torch.arange(P) - (columns > 0).long()
    visible = (columns > 0).float()
    weights = torch.zeros(4, P)
    weights[0] = visible
    motion = Motion(origins, visible, origins.expand(4, P).clone(), weights)
    moved = carry(seeds(0), seeds(1), motion, 1.0)
    torch.testing.assert_close(moved[:, columns > 0], seeds(1)[:, origins[columns > 0]])
    torch.testing.assert_close(moved[:, columns == 0], seeds(0)[:, columns == 0])


def test_what_the_keyframe_never_showed_listens_to_its_neighbours_alone() -> None:
    hidden = at_rest()
    visible = hidden.origin_visible.clone()
    visible[7] = 0
    motion = Motion(hidden.origin_tokens, visible, hidden.previous_tokens, hidden.previous_weights)
    S = carried_dense(pooled(3), neighbours(4), motion, 1.0)
    around = {0, 1, 2, 6, 8, 12, 13, 14}
    assert set(S[7].nonzero().flatten().tolist()) == around
    assert set(S[:, 7].nonzero().flatten().tolist()) <= around  # nothing far looks at it either


def test_the_carried_walk_is_the_warm_walk_where_nothing_moves() -> None:
    S_global, W = pooled(5), neighbours(6)
    S = carried_dense(S_global, W, at_rest(), 0.4)
    expected = walk(seeds(7), mixed_step(S_global, W, 0.4), 0.8, 3, start=seeds(8))
    torch.testing.assert_close(carried_walk(seeds(7), S, 0.8, 3, seeds(8)), expected)


@settings(deadline=None, max_examples=20)
@given(SEEDS, st.floats(0.1, 0.95), st.floats(0.0, 1.0))
def test_the_closed_sum_gives_the_limit_of_the_walk(seed: int, alpha: float, beta: float) -> None:
    S_global, W, G = pooled(seed), neighbours(seed), seeds(seed).double()
    closed = closed_sum(S_global, W, alpha, beta)
    near = torch.eye(P).double() - alpha * (1 - beta) * mixed_dense(S_global, W, 0.0).double()
    LG = torch.linalg.solve(near, G.T).T
    averaged = _cells(LG)
    found = (1 - alpha) * (LG + alpha * beta * averaged @ closed.X.T @ closed.LB.T)
    torch.testing.assert_close(
        found, closed_form(seeds(seed), mixed_dense(S_global, W, beta), alpha), atol=1e-6, rtol=0
    )


def _cells(scores: Tensor) -> Tensor:
    """Means over cells of 2 x 2 tokens, row by row."""
    return scores.unflatten(1, (2, 2, 3, 2)).mean((2, 4)).flatten(1)
