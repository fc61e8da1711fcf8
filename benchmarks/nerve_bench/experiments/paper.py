"""What the paper compares: parts of the affinity, head weights, kinds of affinity, constants, layers and timesteps."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from nerve_bench.experiments.solver import Setting
from nerve_bench.experiments.sources import DOWN_16, DOWN_32, UP_32A, UP_32B, Observer
from nerve_bench.experiments.tables import Record, bench_name, curve_record, difference_record, figure_record
from nerve_bench.experiments.workbench import Family, Workbench, as_is, chosen_figures

ALPHAS = (0.8, 0.88, 0.93, 0.96, 0.98, 0.99)
BETAS = (0.02, 0.05, 0.1, 0.2)
GLOBAL_ALPHAS = (0.3, 0.5, 0.6, 0.7, 0.8, 0.88, 0.93)
"""A walk along the far affinity alone blurs sooner than one along both."""
LOCAL_ALPHAS = (0.88, 0.93, 0.96, 0.98, 0.99, 0.995)
LONG_WALKS = (60, 200)
"""Steps for the near affinity alone: it moves one token a step, so 20 are few for it."""
HEAD_TEMPERATURES = {
    "zscore": (0.1, 0.2, 0.4, 0.7, 1.0, 2.0),
    "plain": (0.003, 0.01, 0.03, 0.1, 0.3, 1.0),
}
"""T_H in deviations over heads, and in units of entropy: from nearly the best head alone to nearly the mean."""
LAYER_SCENES = 100
"""Every timestep is another run of the UNet on every scene."""
KIND_SCENES = 40
"""Validation scenes for the kinds that hold all pairs of tokens."""


def combined(base: Setting, **choices: Sequence[Any]) -> list[Setting]:
    """A setting with every combination of values of the method's constants."""
    return [
        replace(base, params=replace(base.params, **dict(zip(choices, values, strict=True))))
        for values in product(*choices.values())
    ]


def heads(bench: Workbench) -> Iterator[Record]:
    """Mean against entropy weights, in the full method and along the far affinity alone, each with its own constants."""
    families: dict[str, Family] = {}
    for mode in ("mean", "plain", "zscore"):
        temperatures = HEAD_TEMPERATURES.get(mode, ())[:5] or (bench.world.params.head_temperature,)
        common = {"entropy": (mode,), "head_temperature": temperatures}
        families[mode] = combined(bench.base, **common, beta=BETAS[:3], alpha=ALPHAS[2:5])
        families[f"{mode}, global only"] = combined(bench.base, **common, beta=(1.0,), alpha=GLOBAL_ALPHAS[1::2])
    pairs = [("plain", "mean"), ("zscore", "mean"), ("zscore", "plain")]
    pairs += [(f"{name}, global only", f"{other}, global only") for name, other in pairs]
    yield from chosen_figures(bench, "heads", bench.choose(families), pairs)
    yield from _temperature_curves(bench)


def _temperature_curves(bench: Workbench) -> Iterator[Record]:
    """MIoU against T_H with the preset's other constants, on test scenes."""
    settings = {
        f"{mode} {temperature}": bench.changed(entropy=mode, head_temperature=temperature)
        for mode, temperatures in HEAD_TEMPERATURES.items()
        for temperature in temperatures
    }
    tables = bench.rate(settings, bench.test, "heads: T_H on test scenes")
    for mode, temperatures in HEAD_TEMPERATURES.items():
        curve = {temperature: f"{mode} {temperature}" for temperature in temperatures}
        yield curve_record("heads", mode, "head_temperature", curve, tables)


def parts(bench: Workbench) -> Iterator[Record]:
    """G, either affinity alone, mean heads and the whole, each at its own best constants; then at the preset's."""
    families: dict[str, Family] = {
        "G": [bench.changed(alpha=0.0)],
        "local": combined(bench.base, beta=(0.0,), alpha=LOCAL_ALPHAS),
        "local, long walk": combined(bench.base, beta=(0.0,), alpha=LOCAL_ALPHAS, steps=LONG_WALKS),
        "global, mean heads": combined(bench.base, beta=(1.0,), entropy=("mean",), alpha=GLOBAL_ALPHAS),
        "global": combined(bench.base, beta=(1.0,), alpha=GLOBAL_ALPHAS),
        "hybrid, mean heads": combined(bench.base, beta=BETAS, entropy=("mean",), alpha=ALPHAS),
        "NERVE": combined(bench.base, beta=BETAS, alpha=ALPHAS),
    }
    pairs = [("NERVE", name) for name in families if name != "NERVE"]
    yield from chosen_figures(bench, "parts", bench.choose(families), pairs)
    at_preset = {
        "G": bench.changed(alpha=0.0),
        "local": bench.changed(beta=0.0),
        "global, mean heads": bench.changed(beta=1.0, entropy="mean"),
        "global": bench.changed(beta=1.0),
        "hybrid, mean heads": bench.changed(entropy="mean"),
        "NERVE": bench.base,
    }
    named = {f"{name} (preset)": as_is(setting) for name, setting in at_preset.items()}
    yield from chosen_figures(
        bench, "parts", named, [("NERVE (preset)", name) for name in named if name != "NERVE (preset)"]
    )


def affinity(bench: Workbench) -> Iterator[Record]:
    """Every kind of affinity at constants of its own; the kinds over all pairs choose on fewer scenes."""
    walk_constants = {"alpha": (0.93, 0.97), "beta": BETAS[:3]}
    knobs = {"sharpen": (1.0, 3.0), "key_norm": (False, True)}
    off = {"sharpen": (1.0,), "key_norm": (False,), "head_temperature": (0.2, 0.5, 1.0)}
    families: dict[str, Family] = {
        "linear": combined(bench.base, **off, affinity=("linear",), **walk_constants),
        "softmax_pooled": combined(bench.base, affinity=("softmax_pooled",), **knobs, **walk_constants),
    }
    dense: dict[str, Family] = {
        kind: combined(bench.base, affinity=(kind,), **knobs, **walk_constants)
        for kind in ("softmax_dense", "relu_dense")
    }
    choices = bench.choose(families, KIND_SCENES) | bench.choose(dense, KIND_SCENES)
    pairs = [("softmax_pooled", name) for name in ("softmax_dense", "linear", "relu_dense")]
    yield from chosen_figures(bench, "affinity", choices, pairs)


def sweep(bench: Workbench) -> Iterator[Record]:
    """MIoU over alpha x beta x T_H from observations that are there already; the best point then on test scenes."""
    axes = {
        "alpha": (0.7, 0.8, 0.85, 0.9, 0.93, 0.96, 0.98, 0.99),
        "beta": (0.0, 0.03, 0.06, 0.1, 0.2, 0.35, 0.6, 1.0),
        "head_temperature": (0.1, 0.2, 0.5, 1.0),
    }
    points = combined(bench.base, head_temperature=axes["head_temperature"], beta=axes["beta"], alpha=axes["alpha"])
    named = {str(index): point for index, point in enumerate(points)}
    tables = bench.rate(named, bench.validation, f"sweep: {len(points)} points on validation scenes")
    curves: dict[tuple[float, float], dict[float, str]] = {}
    for index, point in named.items():
        params = point.params
        curves.setdefault((params.head_temperature, params.beta), {})[params.alpha] = index
    for (temperature, beta), curve in curves.items():
        constants = {"head_temperature": temperature, "beta": beta, "split": "validation"}
        yield curve_record("sweep", f"T_H {temperature}, beta {beta}", "alpha", curve, tables, **constants)
    best = named[tables.best(named)]
    test = bench.rate({"best": best, "preset": bench.base}, bench.test, "sweep: test scenes")
    for name, setting in (("best", best), ("preset", bench.base)):
        yield figure_record("sweep", name, test, split="test", constants=setting.changes(bench.world.params))
    yield difference_record("sweep", "best", "preset", test)
    yield _sweep_cost(bench, points)


def _sweep_cost(bench: Workbench, points: list[Setting]) -> Record:
    """What the networks cost on a scene, and what a further point of the sweep costs then; milliseconds."""
    fresh = replace(bench, observer=Observer(bench.world))
    solver = next(fresh.solvers(bench.validation[:1], "sweep: cost"))
    marks = [time.perf_counter()]
    for task in (lambda: solver.observation(bench.base), lambda: [solver.labels(point) for point in points]):
        task()
        marks.append(time.perf_counter())
    return {
        "bench": bench_name("sweep"),
        "setting": "cost",
        "networks_ms": round(1000 * (marks[1] - marks[0]), 2),
        "point_ms": round(1000 * (marks[2] - marks[1]) / len(points), 2),
        "points": len(points),
        "scenes": 1,
    }


def layers(bench: Workbench) -> Iterator[Record]:
    """MIoU by timestep and by layers of the UNet, other constants as in the preset; every timestep is a run of it."""
    preset = bench.world.params.layers
    chosen = {
        "preset": preset,
        "down 32": (DOWN_32,),
        "down 16": (DOWN_16,),
        "up 32a": (UP_32A,),
        "up 32b": (UP_32B,),
        "up 32a + b": (UP_32A, UP_32B),
        "all": (DOWN_32, DOWN_16, UP_32A, UP_32B),
    }
    # Down 16 alone would walk on a grid of 16 x 16 tokens; the whole method then works on a coarser picture.
    timesteps = (0, 10, 20, 50, 100, 200, 400, 700)
    points = {(name, 50): names for name, names in chosen.items()} | {("preset", step): preset for step in timesteps}
    settings = {
        f"{name}, t {step}": bench.changed(layers=names, timestep=step) for (name, step), names in points.items()
    }
    settings["preset, no noise"] = bench.changed(noise="none")
    tables = bench.rate(settings, bench.test[:LAYER_SCENES], "layers: test scenes")
    for name, step in points:
        yield figure_record("layers", f"{name}, t {step}", tables, layers=name, timestep=step)
    yield figure_record("layers", "preset, no noise", tables)
    own = f"preset, t {bench.world.params.timestep}"
    for name in settings:
        if name != own:
            yield difference_record("layers", name, own, tables)
