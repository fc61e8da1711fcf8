"""Cost of affinity, mix and walk: pooled, linear and dense forms timed in turns, and how each grows with the tokens.

All three forms run in eager PyTorch on the same threads. Pooled and linear are the modules that a bundle's graphs are
exported from (`nerve_export.graphs.modules`) with the neighbours of `nerve_ref.local`, dense is `method_stages`, head by head
and in place; the functions of `nerve_ref` that judge all of them are timed beside them. Times are of the wall; those of
the processor are beside them, since neighbours on the machine do not change them as much.
"""

import ctypes
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nerve_bench.measure.latency import machine_facts
from nerve_bench.measure.method_stages import (
    FORMS,
    HEAD_WIDTH,
    Form,
    MethodInputs,
    MethodStages,
    Problem,
    method_stages,
    seeded_inputs,
)
from nerve_ref.affinity import affinity_from_heads
from nerve_ref.local import local_features, local_weights
from nerve_ref.pipeline import mix_heads
from nerve_ref.providers.stable_diffusion import LayerHeads
from nerve_ref.walk import mixed_step, walk
from nerve_runtime.errors import NumericError, UsageError

SIDES = (16, 32, 48, 64, 80, 96)
"""Token grids of the scaling runs: 128 to 768 px. A side of 24 is left out, 16 cells do not divide it."""
DENSE_SIDE_LIMIT = 64
"""Largest side for the dense form: at 96 its affinities alone are 3.4 GB."""
MAIN_SIDE = 64
RATIO_FLOOR, STEPS_RATIO_FLOOR, EXPONENT_LIMIT = 10.0, 4.0, 1.1
"""What is promised at 64 x 64 tokens, 21 classes and 10 heads."""
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Settings of glibc's allocator, from its malloc.h."""
NEVER = 2**31 - 1
PartTimes = dict[str, list[float]]


@dataclass(frozen=True, slots=True)
class WalkPlan:
    """What is run: `turns` timed turns at the main size, `scaling_turns` at the others, on `threads` (0: the library chooses).

    `memory_kept` goes into the header: whether `keep_memory` was called and could do it.
    """

    turns: int
    scaling_turns: int
    threads: int
    main_side: int = MAIN_SIDE
    sides: tuple[int, ...] = SIDES
    cells: int = 16
    memory_kept: bool = False


class ShapeWatch(TorchDispatchMode):
    """Records every tensor that an operation makes, to show that none of them is tokens x tokens.

    Attributes:
        largest_bytes: of one tensor.
        squares: shapes with at least as many elements as tokens x tokens, or with two axes as long as the tokens.
    """

    def __init__(self, tokens: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self.tokens, self.largest_bytes = tokens, 0
        self.squares: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, then look at what it made."""
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor):
                self._look_at(tensor)
        return result

    def _look_at(self, tensor: Tensor) -> None:
        # Views that repeat elements without holding them count by what they hold.
        held = min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())
        self.largest_bytes = max(self.largest_bytes, held)
        long_axes = sum(size >= self.tokens for size in tensor.shape)
        if long_axes >= 2 or held >= self.tokens**2 * 4:
            self.squares.append(tuple(tensor.shape))


def keep_memory() -> bool:
    """Make this process keep freed memory, as ONNX Runtime's arena does; whether the C library could be told to.

    glibc gives every block above 32 MB back to the system and fetches it anew: at 96 x 96 tokens 260,000 page faults a
    run, two thirds of its time, and none at 48 x 48. The exponent in tokens was 1.28 by that alone. The dense form
    gains as well.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or a system without one
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, NEVER))


class Stopwatch:
    """Milliseconds of the wall by part, and of the processor for all parts together."""

    def __init__(self) -> None:
        self.times: dict[str, float] = {}
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        self._started = self._wall

    def lap(self, part: str) -> None:
        """End a part."""
        now = time.perf_counter()
        self.times[part] = 1000 * (now - self._wall)
        self._wall = now

    def stop(self) -> dict[str, float]:
        """All parts, with "all" and "cpu"."""
        self.times["all"] = 1000 * (self._wall - self._started)
        self.times["cpu"] = 1000 * (time.process_time() - self._cpu)
        return self.times


def run_parts(stages: MethodStages, problem: Problem, inputs: MethodInputs) -> tuple[Tensor, dict[str, float]]:
    """P (c,p), and the milliseconds of each part."""
    params = problem.params("pooled")
    alpha, beta = torch.tensor(params.alpha), torch.tensor(params.beta)
    watch = Stopwatch()
    with torch.inference_mode():
        head_affinity, W = stages.structure(inputs.q, inputs.k)
        watch.lap("affinity")
        S, *_ = stages.mix(head_affinity, inputs.G, torch.tensor(params.head_temperature))
        watch.lap("mix")
        P = stages.walk(inputs.G, S, W, alpha, beta)
        watch.lap("steps")
    return P, watch.stop()


def run_reference(form: Form, problem: Problem, inputs: MethodInputs) -> tuple[Tensor, dict[str, float]]:
    """As `run_parts`, by the plain functions of `nerve_ref`: what the forms are judged by."""
    params = problem.params(form)
    if form == "dense":
        params = replace(params, affinity="softmax_dense")
    layers = (LayerHeads("layer", inputs.q, inputs.k, problem.grid_hw),)
    frame = torch.zeros(*params.size_hw, 3, dtype=torch.uint8)
    watch = Stopwatch()
    with torch.inference_mode():
        W = local_weights(local_features("keys", layers, None, frame, problem.grid_hw), params.sigma)
        affinity = affinity_from_heads(layers, params)
        watch.lap("affinity")
        mix = mix_heads(affinity, inputs.G, params)
        watch.lap("mix")
        P = walk(inputs.G, mixed_step(mix.S_global, W, params.beta), params.alpha, params.steps)
        watch.lap("steps")
    return P, watch.stop()


def watched_run(form: Form, problem: Problem, inputs: MethodInputs) -> ShapeWatch:
    """What tensors a form makes."""
    watch = ShapeWatch(problem.tokens)
    with watch:
        run_parts(method_stages(form, problem, eager=True), problem, inputs)
    return watch


def refuse_squares(form: Form, watch: ShapeWatch) -> None:
    """Make sure that a form made no tensor of tokens x tokens.

    Raises:
        NumericError: it did.
    """
    if watch.squares:
        raise NumericError(
            f"the {form} form made a tensor of {watch.squares[0]} at {watch.tokens} tokens, expected none of tokens x "
            "tokens or larger; a stage of nerve_export.graphs.modules is no longer linear in the tokens"
        )


def measure_walk(plan: WalkPlan, progress: Callable[..., Any]) -> Iterator[dict[str, Any]]:
    """Time all forms at one size in turns, then over all sizes, and close with the summary.

    Yields:
        A header; per runner, form and part the median; per form what its largest tensor is; per form and size the
        median of the whole; per form the exponent; the summary.

    Raises:
        NumericError: a linear form made a tensor of tokens x tokens, or a form does not give what the reference gives.
        UsageError: cells do not divide a grid.
    """
    _check(plan)
    if plan.threads:
        torch.set_num_threads(plan.threads)
    problem = Problem(plan.main_side, plan.cells)
    yield {**machine_facts(), **_facts(problem), "turns": plan.turns, "warm_up": 1, "memory_kept": plan.memory_kept}
    inputs = seeded_inputs(problem)
    yield from _watched(problem, inputs)
    times = _timed_in_turns(problem, inputs, plan.turns, progress)
    for (runner, form), parts in times.items():
        yield from (_part_record(runner, form, problem, part, measured) for part, measured in parts.items())
    scaling = _scaling(plan, progress)
    for (form, side), measured in scaling.items():
        yield _scaling_record(form, Problem(side, plan.cells), measured)
    exponents = {form: _exponents(form, scaling) for form in FORMS}
    yield from ({"bench": "walk_exponent", "form": form, **slopes} for form, slopes in exponents.items())
    yield _summary(problem, times, exponents["pooled"])


def _check(plan: WalkPlan) -> None:
    for side in (plan.main_side, *plan.sides):
        if side % plan.cells:
            raise UsageError(
                f"a grid of {side} tokens a side is not a multiple of {plan.cells} cells; choose other sides"
            )


def _facts(problem: Problem) -> dict[str, Any]:
    return {
        "tokens": problem.tokens,
        "classes": problem.classes,
        "heads": problem.heads,
        "pooled_keys": problem.cells**2,
        "steps": problem.steps,
        "precision": "fp32",
        "pooled_form": "nerve_export.graphs.modules, neighbours by nerve_ref.local",
        "dense_form": "nerve_bench.measure.method_stages, head by head and in place",
    }


def _watched(problem: Problem, inputs: MethodInputs) -> Iterator[dict[str, Any]]:
    for form in FORMS:
        watch = watched_run(form, problem, inputs)
        if form != "dense" and _tells_squares(problem):
            refuse_squares(form, watch)
        yield {
            "bench": "walk_tensors",
            "form": form,
            "tokens": problem.tokens,
            "largest_tensor_bytes": watch.largest_bytes,
            "tokens_by_tokens": len(watch.squares),
        }


def _tells_squares(problem: Problem) -> bool:
    """Whether the grid is so large that rows over cells and factors are smaller than tokens x tokens."""
    return problem.tokens > problem.heads * max(problem.cells**2, 2 * (2 * HEAD_WIDTH + 1))


def _timed_in_turns(
    problem: Problem, inputs: MethodInputs, turns: int, progress: Callable[..., Any]
) -> dict[tuple[str, Form], PartTimes]:
    """Milliseconds of each part by runner and form; one turn of warm-up is checked and left out."""
    stages = {form: method_stages(form, problem, eager=True) for form in FORMS}
    times: dict[tuple[str, Form], PartTimes] = {}
    for turn in progress(range(turns + 1), "timing all forms in turns"):
        for form in FORMS:
            P, ours = run_parts(stages[form], problem, inputs)
            expected, reference = run_reference(form, problem, inputs)
            _check_same(form, P, expected)
            for runner, measured in (("stages", ours), ("reference", reference)):
                kept = times.setdefault((runner, form), {})
                if turn:
                    for part, milliseconds in measured.items():
                        kept.setdefault(part, []).append(milliseconds)
    return times


def _check_same(form: Form, P: Tensor, expected: Tensor) -> None:
    difference = float((P - expected).abs().max())
    if not difference < 1e-4:
        raise NumericError(
            f"the {form} form differs from the reference by {difference:.2g}, expected below 1e-4; they were not timed "
            "on the same work"
        )


def _scaling(plan: WalkPlan, progress: Callable[..., Any]) -> dict[tuple[Form, int], PartTimes]:
    """Milliseconds by form and side; sizes and forms in turns."""
    cases = [(form, side) for side in plan.sides for form in FORMS if form != "dense" or side <= DENSE_SIDE_LIMIT]
    measured: dict[tuple[Form, int], PartTimes] = {case: {} for case in cases}
    for turn in progress(range(plan.scaling_turns + 1), "timing all grids in turns"):
        for form, side in cases:
            problem = Problem(side, plan.cells)
            _, parts = run_parts(method_stages(form, problem, eager=True), problem, seeded_inputs(problem))
            for part, milliseconds in parts.items() if turn else ():
                measured[form, side].setdefault(part, []).append(milliseconds)
    return measured


def cost_exponent(times_by_side: Mapping[int, Sequence[float]]) -> float:
    """Slope of log time over log tokens, of the least time at each size.

    What else runs on a machine only adds to a time, and adds more to a long run, which is interrupted, than to a short
    one: medians of a busy machine gave 1.14 where its processor time gave 1.06.

    >>> round(cost_exponent({16: [1.0, 7.0], 32: [4.0], 64: [16.0]}), 6)
    1.0
    """
    tokens = np.log([side**2 for side in times_by_side])
    least = np.log([min(measured) for measured in times_by_side.values()])
    return float(np.polyfit(tokens, least, 1)[0])


def _exponents(form: Form, scaling: Mapping[tuple[Form, int], PartTimes]) -> dict[str, float]:
    fields = {"exponent": "all", "cpu_exponent": "cpu", "steps_exponent": "steps"}
    return {
        name: round(cost_exponent({side: times[part] for (own, side), times in scaling.items() if own == form}), 3)
        for name, part in fields.items()
    }


def _part_record(runner: str, form: Form, problem: Problem, part: str, measured: list[float]) -> dict[str, Any]:
    p10, p50, p90 = np.percentile(measured, (10, 50, 90))
    return {
        "bench": "walk",
        "runner": runner,
        "form": form,
        "part": part,
        "tokens": problem.tokens,
        "p50_ms": round(float(p50), 2),
        "p10_ms": round(float(p10), 2),
        "p90_ms": round(float(p90), 2),
        "n": len(measured),
    }


def _scaling_record(form: Form, problem: Problem, measured: PartTimes) -> dict[str, Any]:
    return {
        "bench": "walk_scaling",
        "form": form,
        "tokens": problem.tokens,
        "p50_ms": round(float(np.median(measured["all"])), 2),
        "least_ms": round(min(measured["all"]), 2),
        "cpu_ms": round(float(np.median(measured["cpu"])), 2),
        "n": len(measured["all"]),
    }


def _summary(
    problem: Problem, times: dict[tuple[str, Form], PartTimes], exponents: Mapping[str, float]
) -> dict[str, Any]:
    ratios = {
        (runner, part): float(np.median(times[runner, "dense"][part]) / np.median(times[runner, "pooled"][part]))
        for runner in ("stages", "reference")
        for part in ("all", "steps", "cpu")
    }
    exponent = exponents["exponent"]
    holds = (
        ratios["stages", "all"] >= RATIO_FLOOR
        and ratios["stages", "steps"] >= STEPS_RATIO_FLOOR
        and exponent <= EXPONENT_LIMIT
    )
    return {
        "bench": "walk",
        "summary": True,
        "ratio_to_dense": round(ratios["stages", "all"], 2),
        "ratio_steps": round(ratios["stages", "steps"], 2),
        "exponent": exponent,
        "tokens": problem.tokens,
        "classes": problem.classes,
        "cpu_ratio_to_dense": round(ratios["stages", "cpu"], 2),
        "cpu_exponent": exponents["cpu_exponent"],
        "reference_ratio_to_dense": round(ratios["reference", "all"], 2),
        "reference_ratio_steps": round(ratios["reference", "steps"], 2),
        "as_promised": holds,
    }
