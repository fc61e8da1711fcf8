"""Choose the constants of a preset on validation scenes: networks once per scene, then many cheap variants."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from nerve_bench.experiments.solver import SceneSolver, Setting
from nerve_bench.experiments.sources import DOWN_16, DOWN_32, UP_32A, UP_32B, Observer
from nerve_bench.measure.accuracy import Confusion, World, oracle_labels
from nerve_bench.world import CLASS_NAMES, SEEDS, make_scene

Settings = dict[str, Any]


def grid(**choices: Iterable[Any]) -> list[Settings]:
    """All combinations of the choices, as changes to the preset.

    >>> grid(alpha=[0.7, 0.9], beta=[0.5])
    [{'alpha': 0.7, 'beta': 0.5}, {'alpha': 0.9, 'beta': 0.5}]
    """
    return [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]


SWEEPS: dict[str, list[Settings]] = {
    "layers": grid(
        layers=[
            (DOWN_32,),
            (DOWN_16,),
            (UP_32A,),
            (UP_32B,),
            (DOWN_32, DOWN_16),
            (DOWN_32, UP_32A),
            (UP_32A, UP_32B),
            (DOWN_32, UP_32A, UP_32B),
        ],
        timestep=[20, 50, 100, 200],
    ),
    "heads": grid(
        sharpen=[1.0, 2.0, 3.0, 4.0],
        row_threshold=[0.0, 0.3],
        key_norm=[False, True],
        head_temperature=[0.2, 0.5, 1.0],
    ),
    "local": grid(local_features=["keys", "latent", "rgb"], sigma=[0.003, 0.006, 0.01, 0.02, 0.05, 0.1]),
    "walk": grid(alpha=[0.85, 0.93, 0.95, 0.96, 0.97], beta=[0.0, 0.03, 0.06, 0.08, 0.1, 0.2, 1.0], tau=[30.0, 60.0]),
    # What each part can do alone, at an alpha of its own: 0 is the local walk, 1 the global one, {} both together.
    "parts": [*grid(beta=[0.0, 1.0], alpha=[0.7, 0.8, 0.9, 0.95, 0.97]), {}],
}
"""What `nerve-bench tune --part` compares, one part at a time around the preset's other constants."""


def sweep(
    world: World, settings: list[Settings], scenes: int, progress: Callable[..., Any]
) -> Iterator[dict[str, Any]]:
    """Rate each setting by mIoU on the first validation scenes, best first; G and the oracle are the first two records."""
    base = Setting(world.params)
    clip_only = Setting(replace(world.params, alpha=0.0))
    variants = [Setting(replace(world.params, **setting)) for setting in settings]
    tables = [Confusion(len(CLASS_NAMES)) for _ in variants]
    bounds = {"clip_only": Confusion(len(CLASS_NAMES)), "oracle": Confusion(len(CLASS_NAMES))}
    for seed in progress(SEEDS["validation"][:scenes], "sweeping"):
        scene = make_scene(seed, size_px=world.params.size_hw[0])
        # No scene comes twice, so each has an observer of its own, whose memory is freed with it.
        solver, truth = SceneSolver(world, scene, Observer(world), seed), scene.labels
        for variant, table in zip(variants, tables, strict=True):
            table.add(truth, solver.labels(variant))
        bounds["clip_only"].add(truth, solver.labels(clip_only))
        bounds["oracle"].add(truth, oracle_labels(solver.seeds(base), solver.grid_hw(base), truth))
    for name, table in bounds.items():
        yield {"bench": "tune", "setting": name, "miou": round(table.miou(), 3), "scenes": scenes}
    order = np.argsort([-table.miou() for table in tables])
    for index in order:
        yield {"bench": "tune", "setting": settings[index], "miou": round(tables[index].miou(), 3), "scenes": scenes}
