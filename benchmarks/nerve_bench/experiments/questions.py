"""Questions that the paper leaves open: an adaptive beta, stuff against things, other worlds, fewer things."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from nerve_bench.experiments.paper import BETAS, combined
from nerve_bench.experiments.shifts import SHIFTS
from nerve_bench.experiments.solver import SceneSolver, Setting
from nerve_bench.experiments.tables import (
    DIGITS,
    Counts,
    Record,
    Tables,
    bench_name,
    confusion_counts,
    difference_record,
    figure_record,
    mean_interval,
    verdict,
)
from nerve_bench.experiments.workbench import Family, Workbench, chosen_figures
from nerve_bench.measure.accuracy import World
from nerve_bench.world import CLASS_NAMES, STUFF, make_scene
from nerve_bench.world.scenes import WORLD_THINGS
from nerve_ref.adaptive_beta import token_entropies
from nerve_ref.head_weights import active_classes, head_weights

ADAPTIVE_ALPHAS = (0.93, 0.96, 0.98)
BETA_TEMPERATURES = (0.05, 0.15, 0.4)
GROUPS = {
    "stuff": tuple(range(len(STUFF))),
    "things": tuple(range(len(STUFF), len(CLASS_NAMES))),
}
"""Class numbers of each group."""
THINGS = (8, 16, 24, WORLD_THINGS)
"""How many things `things` compares: the first so many of the world, which are of all kinds."""
TRANSFER_SCENES = 60
"""Validation scenes of each world."""


def adaptive(bench: Workbench) -> Iterator[Record]:
    """Beta fixed, per image and per pixel, each with constants of its own, and how far beta then moves."""
    families: dict[str, Family] = {"fixed": combined(bench.base, alpha=ADAPTIVE_ALPHAS, beta=BETAS)}
    for mode in ("per_image", "per_pixel"):
        moving = replace(bench.base, beta_mode=mode)
        families[mode] = [
            setting
            for temperature in BETA_TEMPERATURES
            for setting in combined(replace(moving, beta_temperature=temperature), alpha=ADAPTIVE_ALPHAS, beta=BETAS)
        ]
    choices = bench.choose(families)
    yield from chosen_figures(
        bench, "adaptive", choices, [("per_image", "fixed"), ("per_pixel", "fixed"), ("per_pixel", "per_image")]
    )
    for mode in ("per_image", "per_pixel"):
        yield _beta_spread(bench, mode, choices[mode].setting)


def _beta_spread(bench: Workbench, mode: str, setting: Setting) -> Record:
    means, spreads = [], []
    for solver in bench.solvers(bench.test, f"adaptive: beta {mode}"):
        betas = solver.betas(setting)
        means.append(float(betas.mean()))
        spreads.append(float(betas.std()))
    return {
        "bench": bench_name("adaptive"),
        "setting": f"beta {mode}",
        "value": round(float(np.mean(means)), DIGITS),
        "interval": mean_interval(means),
        "deviation_between_images": round(float(np.std(means)), DIGITS),
        "deviation_within_images": round(float(np.mean(spreads)), DIGITS),
        "scenes": len(means),
    }


def groups(bench: Workbench) -> Iterator[Record]:
    """Stuff and things apart: mIoU and what the method adds, entropies, and the head weights that each would choose."""
    settings = {
        "G": bench.changed(alpha=0.0),
        "local": bench.changed(beta=0.0),
        "global": bench.changed(beta=1.0, alpha=0.7),
        "mean heads": bench.changed(entropy="mean"),
        "NERVE": bench.base,
    }
    tables = bench.rate(settings, bench.test, "groups: test scenes")
    for name in settings:
        for group, classes in GROUPS.items():
            yield _group_record(tables, name, group, classes)
    for group, classes in GROUPS.items():
        for name in ("G", "local", "mean heads"):
            difference, interval = tables.difference("NERVE", name, classes)
            record = difference_record("groups", "NERVE", name, tables, group=group)
            yield record | {
                "difference": round(difference, DIGITS),
                "interval": interval,
                "verdict": verdict(interval),
            }
    yield from _group_entropies(bench)


def _group_record(tables: Tables, name: str, group: str, classes: tuple[int, ...]) -> Record:
    figures = {"miou": round(tables.miou(name, classes), DIGITS), "interval": tables.interval(name, classes)}
    return figure_record("groups", name, tables, group=group) | figures


def _group_entropies(bench: Workbench) -> Iterator[Record]:
    """Entropy of one step by head and group, and the weights of a vote among the tokens of one group alone."""
    entropies: dict[str, list[Tensor]] = {group: [] for group in GROUPS}
    weights: dict[str, list[Tensor]] = {group: [] for group in GROUPS}
    agreements: list[float] = []
    for solver in bench.solvers(bench.test, "groups: entropies"):
        by_group = group_entropies(solver, bench.base)
        if set(by_group) != set(GROUPS):
            continue
        params = bench.base.params
        for group, values in by_group.items():
            entropies[group].append(values)
            weights[group].append(head_weights(values, params.entropy, params.head_temperature))
        agreements.append(float(weights["stuff"][-1].argmax() == weights["things"][-1].argmax()))
    for group in GROUPS:
        per_scene = torch.stack(entropies[group])
        yield {
            "bench": bench_name("groups"),
            "setting": f"entropy of {group}",
            "group": group,
            "value": round(float(per_scene.mean()), DIGITS),
            "interval": mean_interval(per_scene.mean(1).tolist()),
            "by_head": [round(float(value), DIGITS) for value in per_scene.mean(0)],
            "weight_by_head": [round(float(value), DIGITS) for value in torch.stack(weights[group]).mean(0)],
            "same_first_head_percent": round(100 * float(np.mean(agreements)), 1),
            "scenes": len(per_scene),
        }


def group_entropies(solver: SceneSolver, setting: Setting) -> dict[str, Tensor]:
    """Mean one-step entropy of each head (n,) over the tokens of each group that the scene has."""
    G, affinity, params = solver.seeds(setting), solver.affinity(setting), setting.params
    one_step = affinity.apply(G) if params.self_loop else affinity.without_self_loop(G)
    of_tokens = token_entropies(one_step, active_classes(G))
    height, width = solver.grid_hw(setting)
    truth = solver.scene.labels
    rows, columns = truth.shape[0] // height, truth.shape[1] // width
    # The pixel at a token's centre speaks for it: a token of two groups has no right answer.
    labels = torch.from_numpy(truth[rows // 2 :: rows, columns // 2 :: columns].astype(np.int64)).flatten()
    found = {}
    for group, classes in GROUPS.items():
        inside = torch.isin(labels, torch.tensor(classes))
        if bool(inside.any()):
            found[group] = of_tokens[:, inside].mean(1)
    return found


def transfer(bench: Workbench) -> Iterator[Record]:
    """Constants chosen on the world as it is, in shifted worlds: what they lose against constants chosen there."""
    family = combined(
        bench.base,
        alpha=(0.8, 0.9, 0.96, 0.99),
        beta=(0.0, 0.05, 0.15, 0.35),
        sigma=(0.003, 0.006, 0.015, 0.05),
    )
    home = bench.choose({"home": family}, TRANSFER_SCENES)["home"].setting
    for shift in SHIFTS:
        there = replace(bench, shift=shift)
        own = there.choose({"own": family}, TRANSFER_SCENES)["own"].setting
        settings = {"G": bench.changed(alpha=0.0), "preset": bench.base, "from home": home, "own": own}
        tables = there.rate(settings, bench.test, f"transfer: {shift}")
        for name, setting in settings.items():
            constants = setting.changes(bench.world.params)
            yield figure_record("transfer", name, tables, world=shift, constants=constants)
        for name, other in (("own", "from home"), ("from home", "G"), ("own", "G")):
            yield difference_record("transfer", name, other, tables, world=shift)


def things(bench: Workbench) -> Iterator[Record]:
    """G and NERVE in worlds of fewer things: scenes show only those, and the vocabulary names only those."""
    for number in THINGS:
        tables = _tables_of_fewer(bench, number)
        for name in tables.counts:
            yield figure_record("things", name, tables, of=f"{number} things")
        yield difference_record("things", "NERVE", "G", tables, of=f"{number} things")


def _tables_of_fewer(bench: Workbench, number: int) -> Tables:
    classes = len(STUFF) + number
    world = World.open(bench.world.models, bench.world.params, CLASS_NAMES[:classes])
    settings = {"G": bench.changed(alpha=0.0), "NERVE": bench.base}
    counts: dict[str, list[Counts]] = {name: [] for name in settings}
    for seed in bench.progress(bench.test, f"things: the first {number}"):
        scene = make_scene(seed, size_px=world.params.size_hw[0], things=number)
        solver = SceneSolver(world, scene, bench.observer, (f"{number} things", seed))
        for name, setting in settings.items():
            counts[name].append(confusion_counts(scene.labels, solver.labels(setting), classes))
    return Tables({name: np.stack(stack) for name, stack in counts.items()})
