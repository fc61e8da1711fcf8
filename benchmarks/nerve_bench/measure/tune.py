"""Choose the constants of a preset on validation scenes: networks once per scene, then many cheap variants."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from nerve_bench.measure.accuracy import Confusion, World, oracle_labels
from nerve_bench.world import CLASS_NAMES, SEEDS, make_scene
from nerve_ref.params import NerveParams
from nerve_ref.pipeline import mix_heads, observe, seeds, structure
from nerve_ref.walk import mixed_step, readout, walk

Settings = dict[str, Any]


def grid(**choices: Iterable[Any]) -> list[Settings]:
    """All combinations of the choices, as changes to the preset.

    >>> grid(alpha=[0.7, 0.9], beta=[0.5])
    [{'alpha': 0.7, 'beta': 0.5}, {'alpha': 0.9, 'beta': 0.5}]
    """
    return [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]


DOWN_32, DOWN_16 = "down_blocks.1.attentions.0", "down_blocks.2.attentions.0"
UP_32A, UP_32B = "up_blocks.1.attentions.0", "up_blocks.1.attentions.1"
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
    "walk": grid(alpha=[0.7, 0.85, 0.9, 0.93, 0.95], beta=[0.0, 0.1, 0.2, 0.35, 0.5, 1.0], tau=[30.0, 60.0]),
    # What each part can do alone, at an alpha of its own: 0 is the local walk, 1 the global one, {} both together.
    "parts": [*grid(beta=[0.0, 1.0], alpha=[0.7, 0.8, 0.9, 0.95, 0.97]), {}],
}
"""What `nerve-bench tune --part` compares, one part at a time around the preset's other constants."""


def sweep(
    world: World, settings: list[Settings], scenes: int, progress: Callable[..., Any]
) -> Iterator[dict[str, Any]]:
    """Rate each setting by mIoU on the first validation scenes, best first; G and the oracle are the first two records.

    Settings that share layers, timestep and noise share one run of the networks per scene.
    """
    variants = [replace(world.params, **setting) for setting in settings]
    tables = [Confusion(len(CLASS_NAMES)) for _ in variants]
    bounds = {"clip_only": Confusion(len(CLASS_NAMES)), "oracle": Confusion(len(CLASS_NAMES))}
    for seed in progress(SEEDS["validation"][:scenes], "sweeping"):
        scene = make_scene(seed, size_px=world.params.size_hw[0])
        frame = torch.from_numpy(scene.rgb)
        for group in _groups(variants):
            observation = observe(world.models, frame, variants[group[0]])
            for index in group:
                labels, G, grid_hw = _solved(world, observation, variants[index])
                tables[index].add(scene.labels, labels)
        bounds["clip_only"].add(scene.labels, readout(G, grid_hw, scene.labels.shape, 0.0, False)[0].numpy())
        bounds["oracle"].add(scene.labels, oracle_labels(G, grid_hw, scene.labels))
    for name, table in bounds.items():
        yield {"bench": "tune", "setting": name, "miou": round(table.miou(), 3), "scenes": scenes}
    order = np.argsort([-table.miou() for table in tables])
    for index in order:
        yield {"bench": "tune", "setting": settings[index], "miou": round(tables[index].miou(), 3), "scenes": scenes}


def _groups(variants: list[NerveParams]) -> list[list[int]]:
    """Indices of variants that see the same networks' outputs."""
    groups: dict[Any, list[int]] = {}
    for index, params in enumerate(variants):
        groups.setdefault((params.layers, params.timestep, params.noise, params.clip_mode), []).append(index)
    return list(groups.values())


def _solved(world: World, observation: Any, params: NerveParams) -> tuple[Any, torch.Tensor, tuple[int, int]]:
    with torch.no_grad():
        parts = structure(observation.heads, observation.latent, observation.frame, params)
        G = seeds(observation.features, world.bank, params, parts.grid_hw)
        mix = mix_heads(parts.affinity, G, params)
        P = walk(G, mixed_step(mix.S_global, parts.local_weights, params.beta), params.alpha, params.steps)
        return readout(P, parts.grid_hw, params.size_hw, 0.0, False)[0].numpy(), G, parts.grid_hw
