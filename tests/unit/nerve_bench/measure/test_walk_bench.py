"""The forms that are timed compute the method, the cheap ones without a tensor of tokens x tokens, and figures are of what ran."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from nerve_bench.measure.method_stages import FORMS, DenseWalk, EagerWalk, Form, Problem, method_stages, seeded_inputs
from nerve_bench.measure.walk import (
    ShapeWatch,
    WalkPlan,
    cost_exponent,
    measure_walk,
    refuse_squares,
    run_parts,
    run_reference,
    watched_run,
)
from nerve_ref.local import local_dense
from nerve_runtime.errors import NumericError, UsageError

SMALL = Problem(side=16, cells=4, classes=5, heads=3, steps=6)
QUICK = WalkPlan(turns=2, scaling_turns=1, threads=1, main_side=16, sides=(8, 16), cells=4)


def unseen(items: Iterable[int], _description: str, total: float | None = None) -> Iterable[int]:
    return items


@pytest.mark.parametrize("form", FORMS)
def test_a_form_gives_what_the_reference_gives(form: Form) -> None:
    inputs = seeded_inputs(SMALL)
    found, _ = run_parts(method_stages(form, SMALL, eager=True), SMALL, inputs)
    expected, _ = run_reference(form, SMALL, inputs)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.sum(0), torch.ones(SMALL.tokens), rtol=0, atol=1e-5)


def test_where_a_cell_is_a_token_pooled_is_dense() -> None:
    problem = replace(SMALL, side=8, cells=8)
    inputs = seeded_inputs(problem)
    pooled, dense = (run_parts(method_stages(form, problem), problem, inputs)[0] for form in ("pooled", "dense"))
    torch.testing.assert_close(pooled, dense, rtol=0, atol=1e-6)


def test_neighbours_by_shifts_are_neighbours_by_convolution() -> None:
    inputs = seeded_inputs(SMALL)
    shifts, convolution = (run_parts(method_stages("pooled", SMALL, eager=e), SMALL, inputs)[0] for e in (True, False))
    torch.testing.assert_close(shifts, convolution, rtol=0, atol=1e-6)


def test_the_dense_walk_joins_both_affinities_into_one_matrix() -> None:
    generator = torch.Generator().manual_seed(0)
    S = torch.rand(SMALL.tokens, SMALL.tokens, generator=generator)
    W = torch.rand(8, *SMALL.grid_hw, generator=generator)
    # Weights to places outside the grid are 0 in W; here they are not, and must not reach the matrix.
    joined = DenseWalk(SMALL.params("dense"), SMALL.grid_hw, 1).joined(S, W, torch.tensor(0.9), torch.tensor(0.6))
    expected = 0.9 * (0.6 * S + 0.4 * local_dense(W))
    torch.testing.assert_close(joined, expected.T, rtol=0, atol=1e-6)


@pytest.mark.parametrize("form", ["pooled", "linear"])
def test_a_cheap_form_makes_no_tensor_of_tokens_by_tokens(form: Form) -> None:
    problem = replace(SMALL, side=48)
    watch = watched_run(form, problem, seeded_inputs(problem))
    refuse_squares(form, watch)
    assert watch.squares == []
    assert 0 < watch.largest_bytes < 4 * problem.tokens**2


def test_the_dense_form_is_caught_at_it() -> None:
    watch = watched_run("dense", SMALL, seeded_inputs(SMALL))
    assert watch.largest_bytes == 4 * SMALL.heads * SMALL.tokens**2
    with pytest.raises(NumericError, match=r"the pooled form made a tensor of \(256, 256\) at 256 tokens"):
        refuse_squares("pooled", watch)


def test_a_flat_tensor_counts_by_what_it_holds() -> None:
    with ShapeWatch(10) as watch:
        torch.zeros(100)
        torch.zeros(1).expand(99)
    assert watch.squares == [(100,)]


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_the_exponent_is_the_power_of_the_tokens(power: float) -> None:
    times = {side: [3.0 * (side**2) ** power, 1e9] for side in (16, 32, 64)}
    assert cost_exponent(times) == pytest.approx(power)


def test_the_last_line_is_made_of_the_lines_before() -> None:
    header, *records, summary = measure_walk(QUICK, unseen)
    assert header["bench"] == "header"
    assert {"machine", "torch", "memory_kept", "turns", "warm_up", "heads"} <= set(header)
    assert {key: summary[key] for key in ("bench", "summary", "tokens", "classes")} == {
        "bench": "walk",
        "summary": True,
        "tokens": 256,
        "classes": 21,
    }
    medians = {(r["runner"], r["form"], r["part"]): r["p50_ms"] for r in records if r["bench"] == "walk"}
    for key, part in (("ratio_to_dense", "all"), ("ratio_steps", "steps")):
        ratio = medians["stages", "dense", part] / medians["stages", "pooled", part]
        # Two digits are printed after the point, and 256 tokens may take a busy machine a hundred times as long once.
        assert summary[key] == pytest.approx(ratio, rel=0.05, abs=0.0051)
    exponents = {r["form"]: r["exponent"] for r in records if r["bench"] == "walk_exponent"}
    assert summary["exponent"] == exponents["pooled"]
    assert {r["n"] for r in records if r["bench"] == "walk"} == {QUICK.turns}
    assert all(np.isfinite(list(exponents.values())))


def test_a_form_that_computes_something_else_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(self: EagerWalk, scores: Tensor, near: Tensor) -> Tensor:
        return torch.zeros_like(scores)

    monkeypatch.setattr(EagerWalk, "around", nothing)
    with pytest.raises(NumericError, match="the pooled form differs from the reference by"):
        list(measure_walk(QUICK, unseen))


def test_a_grid_that_cells_do_not_divide_is_refused() -> None:
    with pytest.raises(UsageError, match="a grid of 10 tokens a side is not a multiple of 4 cells"):
        next(measure_walk(replace(QUICK, sides=(8, 10)), unseen))
