"""Who should say what belongs together: the tiny UNet, CLIP's own keys, bare colours, or DINOv2 where there is one."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from nerve_bench.experiments.paper import combined
from nerve_bench.experiments.solver import SceneSolver, Setting
from nerve_bench.experiments.tables import Record, bench_name, mean_interval
from nerve_bench.experiments.workbench import Family, Workbench, chosen_figures
from nerve_ref.affinity import MixedPooled, PooledAffinity

PROVIDERS = ("sd", "clip", "rgb", "dinov2")
PROVIDER_ALPHAS, PROVIDER_BETAS = (0.93, 0.96, 0.98, 0.99, 0.995), (0.01, 0.02, 0.05, 0.1, 0.2)
GLOBAL_ALPHAS = (0.3, 0.5, 0.7, 0.8, 0.88)
STRUCTURE_SCENES = 50


def providers(bench: Workbench) -> Iterator[Record]:
    """Providers of the far affinity in the full method and alone, each at its own constants, and what their S is like."""
    names = [name for name in PROVIDERS if name == "sd" or name in bench.observer.providers]
    knobs = {"sharpen": (1.0, 3.0), "key_norm": (False, True)}
    families: dict[str, Family] = {}
    for name in names:
        base = replace(bench.base, provider=name)
        families[name] = combined(base, **knobs, alpha=PROVIDER_ALPHAS, beta=PROVIDER_BETAS)
        families[f"{name}, global only"] = combined(base, **knobs, alpha=GLOBAL_ALPHAS, beta=(1.0,))
    families["local"] = combined(bench.base, alpha=PROVIDER_ALPHAS, beta=(0.0,))
    choices = bench.choose(families)
    pairs = [("sd", name) for name in names if name != "sd"]
    pairs += [("sd, global only", f"{name}, global only") for _, name in pairs]
    pairs += [(name, "local") for name in names]
    yield from chosen_figures(bench, "providers", choices, pairs)
    yield from _structures(bench, {name: choices[name].setting for name in names})


def _structures(bench: Workbench, settings: dict[str, Setting]) -> Iterator[Record]:
    """Effective rank of S and of its heads, entropies of one step and how far they are spread over heads."""
    found: dict[tuple[str, str], list[float]] = {}
    for solver in bench.solvers(bench.test[:STRUCTURE_SCENES], "providers: rank and entropy"):
        for name, setting in settings.items():
            for what, value in structure_figures(solver, setting).items():
                found.setdefault((name, what), []).append(value)
    for (name, what), values in found.items():
        yield {
            "bench": bench_name("providers"),
            "setting": name,
            "what": what,
            "value": float(f"{np.mean(values):.4g}"),
            "interval": mean_interval(values),
            "scenes": len(values),
        }


def structure_figures(solver: SceneSolver, setting: Setting) -> dict[str, float]:
    """What the affinities of a scene are like, by name.

    Raises:
        TypeError: for another kind than `softmax_pooled`, whose rank would need all pairs of tokens.
    """
    mix, affinity = solver.mix(setting), solver.affinity(setting)
    if not isinstance(mix.S_global, MixedPooled) or not isinstance(affinity, PooledAffinity):
        raise TypeError(f"ranks are computed for softmax_pooled only, got {setting.params.affinity}")
    entropies = mix.head_entropies
    return {
        "effective_rank": effective_rank(mix.S_global.S),
        "effective_rank_of_heads": float(np.mean([effective_rank(rows) for rows in affinity.B])),
        "head_entropy": float(entropies.mean()),
        "head_entropy_spread": float(entropies.std(correction=0)),
        "effective_heads": float(torch.exp(-(mix.head_weights * mix.head_weights.clamp_min(1e-12).log()).sum())),
        "heads": float(len(entropies)),
    }


def effective_rank(rows: Tensor) -> float:
    """Exponential of the entropy of the singular values of B (p,m), taken as shares: 1 to m.

    S over tokens has the same singular values but for one factor, since averaging over cells has orthogonal rows.

    Source: Roy and Vetterli, "The effective rank", EUSIPCO 2007.
    """
    gram = rows.double().T @ rows.double()
    values = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    shares = values / values.sum()
    return float(torch.exp(-(shares * shares.clamp_min(1e-300).log()).sum()))
