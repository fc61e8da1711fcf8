"""One tower for words and affinity against CLIP with the diffusion model: what it is worth, and what it costs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch

from nerve_bench.experiments.tables import (
    Counts,
    Record,
    Tables,
    confusion_counts,
    difference_record,
    figure_record,
)
from nerve_bench.experiments.workbench import Workbench
from nerve_bench.world import CLASS_NAMES, make_scene
from nerve_export.graphs.program import stage_costs
from nerve_ref.params import NerveParams
from nerve_ref.pipeline import observe, solve
from nerve_ref.weights.architectures import CLIP_LAYER_PREFIX, OWN_CLIP, TINY, Backbones
from nerve_ref.weights.networks import Models, tiny_models

LAYERS = tuple((f"{CLIP_LAYER_PREFIX}{number}",) for number in range(1, 4))
SHARPEN, ALPHAS, BETAS = (1.0, 3.0), (0.3, 0.6, 0.85), (0.05, 0.2, 0.5, 1.0)
CELLS_HW = (8, 8)
"""As many as the patches of the tiny CLIP."""
SOLO, DIFFUSION, WORDS = "one tower", "diffusion", "one tower, words alone"


@dataclass(frozen=True, slots=True)
class Variant:
    """Networks and constants."""

    backbones: Backbones
    models: Models
    params: NerveParams


def solo(bench: Workbench) -> Iterator[Record]:
    """CLIP's own tower, at constants chosen on validation scenes, beside the preset and beside its words alone."""
    base = replace(bench.world.params, layers=LAYERS[0], pooled_hw=CELLS_HW, key_norm=False)
    backbones, models = Backbones(TINY, OWN_CLIP), tiny_models(OWN_CLIP)
    grid = [
        replace(base, layers=layers, sharpen=sharpen, alpha=alpha, beta=beta)
        for layers, sharpen, alpha, beta in product(LAYERS, SHARPEN, ALPHAS, BETAS)
    ]
    candidates = {str(index): Variant(backbones, models, params) for index, params in enumerate(grid)}
    rated = _rated(bench, candidates, bench.validation, f"choosing constants, {len(candidates)} settings")
    best = candidates[rated.best(candidates)]
    chosen = {
        SOLO: best,
        WORDS: replace(best, params=replace(best.params, alpha=0.0)),
        DIFFUSION: Variant(Backbones(TINY, TINY), bench.world.models, bench.world.params),
    }
    tables = _rated(bench, chosen, bench.test, "solo: test scenes")
    for name, variant in chosen.items():
        constants = {key: getattr(variant.params, key) for key in ("layers", "sharpen", "alpha", "beta")}
        yield figure_record("solo", name, tables, constants=constants, gmac=_gmac(variant))
    for other in (DIFFUSION, WORDS):
        yield difference_record("solo", SOLO, other, tables)


def _rated(bench: Workbench, variants: Mapping[str, Variant], seeds: range, description: str) -> Tables:
    """Confusion counts of every variant on every scene; those of the same networks and layers share what they see."""
    vocabularies = bench.world.bank
    counts: dict[str, list[Counts]] = {name: [] for name in variants}
    for seed in bench.progress(seeds, description):
        scene = make_scene(seed, size_px=bench.world.params.size_hw[0])
        seen = {}
        for name, variant in variants.items():
            key = (id(variant.models), variant.params.layers)
            if key not in seen:
                seen[key] = observe(variant.models, torch.from_numpy(scene.rgb), variant.params)
            labels = solve(seen[key], vocabularies, variant.params).labels.numpy()
            counts[name].append(confusion_counts(scene.labels, labels, len(CLASS_NAMES)))
    return Tables({name: np.stack(stack) for name, stack in counts.items()})


def _gmac(variant: Variant) -> float:
    """Of a cold frame, at 21 classes."""
    costs = stage_costs(variant.backbones, variant.params)
    return round(sum(cost.gmac for stage, cost in costs.items() if stage != "text"), 3)
