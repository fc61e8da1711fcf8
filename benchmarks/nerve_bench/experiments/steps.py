"""The walk's steps: mIoU against L, the error against the limit beside its bound, and the exact walk at equal cost."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nerve_bench.experiments.solver import SceneSolver, Setting
from nerve_bench.experiments.tables import (
    DIGITS,
    Counts,
    Record,
    Tables,
    bench_name,
    confusion_counts,
    curve_record,
    difference_record,
    figure_record,
    mean_interval,
)
from nerve_bench.experiments.workbench import Workbench
from nerve_bench.world import CLASS_NAMES
from nerve_ref.affinity import MixedPooled
from nerve_ref.local import local_dense
from nerve_ref.walk import closed_form, mixed_step, walk

MOST_STEPS = 40
LIMIT = "limit"
KNEE_POINTS = 0.1
"""The knee is the first L within so many points of mIoU of the best L (ours; the paper says about 20)."""
METHOD_WALK = (0.85, 0.7)
"""Alpha and beta of the presets for Stable Diffusion, beside the tiny preset's own."""
EXACT_SCENES = 50
SPECTRUM_SCENES = 10
"""Eigenvalues of a 1024 x 1024 matrix take two seconds."""
COMPARED_STEPS = (1, 2, 4, 8, 12, 16, 20, 30, 40, 60, 80, 120, 160)
REPEATS = 3


@dataclass(slots=True)
class _Trace:
    """What one pair of constants gave, by L and for the limit."""

    counts: dict[str, list[Counts]] = field(default_factory=dict)
    errors: dict[int, list[float]] = field(default_factory=dict)
    worst: dict[int, float] = field(default_factory=dict)

    def add(self, name: str, solver: SceneSolver, P: Tensor, setting: Setting) -> None:
        found = solver.read_out(P, setting)
        self.counts.setdefault(name, []).append(confusion_counts(solver.scene.labels, found, len(CLASS_NAMES)))

    def add_error(self, steps: int, P: Tensor, limit: Tensor) -> None:
        rows = (P - limit).abs().sum(0)
        self.errors.setdefault(steps, []).append(float(rows.mean()))
        self.worst[steps] = max(self.worst.get(steps, 0.0), float(rows.max()))


def steps(bench: Workbench) -> Iterator[Record]:
    """MIoU and error for L = 0 to 40, the knee, and the bound 2 alpha^L, for two pairs of alpha and beta."""
    alpha, beta = METHOD_WALK
    settings = {"preset": bench.base, "alpha 0.85, beta 0.7": bench.changed(alpha=alpha, beta=beta)}
    traces = {name: _Trace() for name in settings}
    for solver in bench.solvers(bench.test, "steps: test scenes"):
        for name, setting in settings.items():
            with torch.no_grad():
                _trace(traces[name], solver, setting)
    for name, setting in settings.items():
        yield from _step_records(name, setting, traces[name])


def _trace(trace: _Trace, solver: SceneSolver, setting: Setting) -> None:
    params, G = setting.params, solver.seeds(setting)
    apply_S = mixed_step(solver.mix(setting).S_global, solver.near(setting), params.beta)
    limit = closed_form(G, solver.dense(setting), params.alpha).float()
    trace.add(LIMIT, solver, limit, setting)
    P = G
    for step in range(MOST_STEPS + 1):
        trace.add(str(step), solver, P, setting)
        trace.add_error(step, P, limit)
        P = walk(G, apply_S, params.alpha, 1, start=P)


def _step_records(name: str, setting: Setting, trace: _Trace) -> Iterator[Record]:
    tables = Tables({steps: np.stack(stack) for steps, stack in trace.counts.items()})
    constants = {"alpha": setting.params.alpha, "beta": setting.params.beta}
    counted = range(MOST_STEPS + 1)
    errors = {
        "error_l1_by_steps": {str(step): float(f"{np.mean(trace.errors[step]):.3g}") for step in counted},
        "error_interval_by_steps": {str(step): mean_interval(trace.errors[step]) for step in counted},
        "worst_error_l1_by_steps": {str(step): float(f"{trace.worst[step]:.3g}") for step in counted},
        "bound_l1_by_steps": {str(step): float(f"{2 * setting.params.alpha**step:.3g}") for step in counted},
    }
    yield curve_record("steps", name, "steps", {step: str(step) for step in counted}, tables, **constants, **errors)
    yield figure_record("steps", LIMIT, tables, of=name, **constants)
    mious = [tables.miou(str(step)) for step in range(MOST_STEPS + 1)]
    yield {
        "bench": bench_name("steps"),
        "setting": "knee",
        "of": name,
        "knee_steps": knee(mious),
        "best_steps": int(np.argmax(mious)),
        "settled_steps": settled(mious, tables.miou(LIMIT)),
        "within_points": KNEE_POINTS,
        "scenes": tables.scenes,
    }
    for other in ("20", "8"):
        yield difference_record("steps", LIMIT, other, tables, of=name)


def knee(mious: list[float]) -> int:
    """The least L whose mIoU is within `KNEE_POINTS` of the best."""
    return next(step for step, miou in enumerate(mious) if miou >= max(mious) - KNEE_POINTS)


def settled(mious: list[float], limit: float) -> int | None:
    """The least L from which on every mIoU is within `KNEE_POINTS` of the limit's; None if there is none."""
    far = [step for step, miou in enumerate(mious) if abs(miou - limit) > KNEE_POINTS]
    first = max(far) + 1 if far else 0
    return first if first < len(mious) else None


def exact(bench: Workbench) -> Iterator[Record]:
    """Error against the closed form at equal cost on real affinities: the truncated walk, and the exact one.

    Times are of the processor in PyTorch on one thread, medians of the least of three runs on each scene, which other
    programs disturb little; a second thread would count what it spends on waiting. Multiplications are counted.
    """
    tallies: dict[tuple[str, str], list[tuple[float, float]]] = {}
    settings = {"preset": bench.base, "alpha 0.98": bench.changed(alpha=0.98)}
    sizes: dict[str, int] = {}
    for solver in bench.solvers(bench.test[:EXACT_SCENES], "exact: test scenes"):
        sizes = _sizes(solver, bench.base)
        for name, setting in settings.items():
            with torch.no_grad(), _one_thread():
                for walked, error, spent_ms in _walked(solver, setting):
                    tallies.setdefault((name, walked), []).append((error, spent_ms))
    for (name, walked), found in tallies.items():
        errors = [error for error, _ in found]
        yield {
            "bench": bench_name("exact"),
            "setting": f"{name}, {walked}",
            "of": name,
            "walk": walked,
            "alpha": settings[name].params.alpha,
            "error_l1": float(f"{np.mean(errors):.3g}"),
            "interval": mean_interval(errors),
            "cpu_ms": round(float(np.median([ms for _, ms in found])), DIGITS),
            **_multiplications(walked, sizes, settings[name]),
            "scenes": len(found),
        }
    yield from _spectra(bench)


def _walked(solver: SceneSolver, setting: Setting) -> Iterator[tuple[str, float, float]]:
    """Name, mean L1 error and milliseconds of the truncated walks and of both halves of the exact one."""
    params, G = setting.params, solver.seeds(setting)
    S_global, W = solver.mix(setting).S_global, solver.near(setting)
    apply_S = mixed_step(S_global, W, params.beta)
    limit = closed_form(G, solver.dense(setting), params.alpha)
    for count in COMPARED_STEPS:
        P, spent_ms = _timed(partial(walk, G, apply_S, params.alpha, count))
        yield str(count), _error(P, limit), spent_ms
    solve, finish = exact_stages(setting, solver.grid_hw(setting))
    if not isinstance(S_global, MixedPooled):
        raise TypeError(f"the exact walk needs affinity softmax_pooled, got {setting.params.affinity}")
    alpha, beta = torch.tensor(params.alpha), torch.tensor(params.beta)
    closed, solve_ms = _timed(lambda: solve(S_global.S, W, alpha, beta))
    P, finish_ms = _timed(lambda: finish(G, *closed, W, alpha, beta))
    yield "exact, per frame", _error(P, limit), finish_ms
    yield "exact, with its keyframe", _error(P, limit), solve_ms + finish_ms


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def exact_stages(setting: Setting, grid_hw: tuple[int, int]) -> tuple[Any, Any]:
    """The exact walk, what belongs to the keyframe and what to each frame, with the neighbours of the truncated walk."""
    from nerve_bench.measure.method_stages import EagerExact, EagerSolve

    return EagerSolve(setting.params, grid_hw), EagerExact(setting.params, grid_hw)


def _timed(compute: Callable[[], Any]) -> tuple[Any, float]:
    least_ms, found = float("inf"), None
    for _ in range(REPEATS):
        started = time.process_time()
        found = compute()
        least_ms = min(least_ms, 1000 * (time.process_time() - started))
    return found, least_ms


def _error(P: Tensor, limit: Tensor) -> float:
    return float((P.double() - limit).abs().sum(0).mean())


def _sizes(solver: SceneSolver, setting: Setting) -> dict[str, int]:
    classes, tokens = solver.seeds(setting).shape
    pooled_hw = setting.params.pooled_hw
    return {"c": classes, "p": tokens, "m": pooled_hw[0] * pooled_hw[1]}


def _multiplications(walked: str, sizes: dict[str, int], setting: Setting) -> Record:
    """Multiply-adds in millions: of a step p m c + 8 p c; of the exact walk as method, section 8, has them.

    Each of the 8 neighbours counts once; the graphs' convolution, of which 8 of 9 factors are zero, spends 72 p c.
    """
    from nerve_export.graphs.modules_video import DOUBLINGS, local_steps

    c, p, m = sizes["c"], sizes["p"], sizes["m"]
    near = local_steps(setting.params.alpha, setting.params.beta)
    keyframe = near * 8 * p * m + 2 * DOUBLINGS * m**3
    frame = near * 8 * p * c + m * m * c + p * m * c
    counted = {"exact, per frame": frame, "exact, with its keyframe": frame + keyframe}
    total = counted[walked] if walked in counted else int(walked) * (p * m * c + 8 * p * c)
    return {"million_macs": round(total / 1e6, DIGITS)}


def _spectra(bench: Workbench) -> Iterator[Record]:
    """The second eigenvalues of S, S_global and S_local: near 1 they make the truncated walk slow."""
    found: dict[str, list[float]] = {"S": [], "S_global": [], "S_local": []}
    for solver in bench.solvers(bench.test[:SPECTRUM_SCENES], "exact: eigenvalues"):
        setting = bench.base
        matrices = {
            "S": solver.dense(setting),
            "S_global": solver.mix(setting).S_global.dense(),
            "S_local": local_dense(solver.near(setting)),
        }
        for name, matrix in matrices.items():
            found[name].append(second_eigenvalue(matrix))
    for name, values in found.items():
        yield {
            "bench": bench_name("exact"),
            "setting": f"second eigenvalue of {name}",
            "second_eigenvalue": round(float(np.mean(values)), 5),
            "interval": mean_interval(values),
            "greatest": round(max(values), 5),
            "scenes": len(values),
        }


def second_eigenvalue(S: Tensor) -> float:
    """The second greatest absolute value among the eigenvalues of a stochastic matrix (p,p); the greatest is 1."""
    return float(torch.linalg.eigvals(S.double()).abs().sort(descending=True).values[1])
