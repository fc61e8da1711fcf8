"""Accuracy on the tiny world: what each part of the method adds, for the reference and for a bundle."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nerve_bench.experiments.tables import Counts, Tables, confusion_counts
from nerve_bench.world import CLASS_NAMES, Scene, make_scene
from nerve_ref.params import NerveParams
from nerve_ref.pipeline import Observation, mix_heads, observe, read_out, seeds, structure
from nerve_ref.templates import TEMPLATE_SETS
from nerve_ref.text import TextBank, parse_classes, text_bank
from nerve_ref.walk import mixed_step, walk
from nerve_ref.weights.networks import Models
from nerve_runtime import Labels, Readout, Segmenter
from nerve_runtime.segmenter import Constants

EVEN_HEADS = 1e9
"""A head temperature at which all heads weigh the same."""
VARIANTS: dict[str, Constants] = {
    "clip_only": Constants(alpha=0.0),
    "local": Constants(beta=0.0),
    "global_mean": Constants(beta=1.0, head_temperature=EVEN_HEADS),
    "global_entropy": Constants(beta=1.0),
    "nerve": Constants(),
}
"""What each variant changes in the preset's constants; without a walk (alpha 0) what remains is G."""
Way = tuple[str, Readout]
"""A variant and how it is read out."""
WAYS: tuple[Way, ...] = (*((name, "bilinear") for name in VARIANTS), ("nerve", "guided"))
"""All variants are read out bilinearly, as in the method; the whole method by the picture's colours too."""
GUIDED, BILINEAR = WAYS[-1], WAYS[-2]
ORACLE: Way = ("oracle", "bilinear")


class Confusion:
    """One confusion matrix over all pixels of all scenes."""

    def __init__(self, classes: int) -> None:
        self.counts = np.zeros((classes, classes), np.int64)

    def add(self, truth: Labels, found: Labels) -> None:
        """Count the pixels of one scene; both (H,W), truth below the number of classes."""
        classes = len(self.counts)
        index = truth.astype(np.int64).ravel() * classes + found.ravel()
        self.counts += np.bincount(index, minlength=classes**2).reshape(classes, classes)

    def class_iou(self) -> NDArray[np.float64]:
        """Intersection over union of each class in percent; NaN for a class that is nowhere."""
        hits = np.diag(self.counts)
        union = self.counts.sum(0) + self.counts.sum(1) - hits
        with np.errstate(invalid="ignore"):
            return 100 * hits / union

    def miou(self) -> float:
        """Mean over classes that occur, in percent."""
        return float(np.nanmean(self.class_iou()))

    def pixel_accuracy(self) -> float:
        """Share of pixels that are right, in percent."""
        return float(100 * np.trace(self.counts) / self.counts.sum())


@dataclass(frozen=True, slots=True)
class World:
    """What all runs share: networks, vocabulary of all classes, constants."""

    models: Models
    bank: TextBank
    params: NerveParams

    @classmethod
    def open(cls, models: Models, params: NerveParams, names: Sequence[str] = CLASS_NAMES) -> "World":
        """Embed the class names of the world, or the first of them."""
        bank = text_bank(models.clip, models.tokenizer, parse_classes(names), TEMPLATE_SETS[params.template_set])
        return cls(models, bank, params)


def reference_labels(world: World, observation: Observation, params: NerveParams) -> dict[Way, Labels]:
    """Labels of all variants and read-outs by the reference; the networks' part is shared."""
    with torch.no_grad():
        parts = structure(observation.heads, observation.latent, observation.frame, params)
        G = seeds(observation.features, world.bank, params, parts.grid_hw)
        labels: dict[Way, Labels] = {}
        for name, constants in VARIANTS.items():
            varied = varied_params(params, constants)
            mix = mix_heads(parts.affinity, G, varied)
            step = mixed_step(mix.S_global, parts.local_weights, varied.beta)
            P = walk(G, step, varied.alpha, varied.steps)
            for way in WAYS:
                if way[0] == name:
                    chosen = replace(varied, readout=way[1])
                    frame, grid_hw = observation.frame, parts.grid_hw
                    labels[way] = read_out(P, frame, grid_hw, params.size_hw, chosen, has_background=False)[0].numpy()
        return labels


def varied_params(params: NerveParams, constants: Constants) -> NerveParams:
    """The preset with the constants of a variant."""
    changes: dict[str, Any] = {
        name: value for name in ("alpha", "beta", "head_temperature") if (value := getattr(constants, name)) is not None
    }
    return replace(params, **changes)


def oracle_labels(G: torch.Tensor, grid_hw: tuple[int, int], truth: Labels) -> Labels:
    """What a perfect affinity could give: G averaged over each true region (all pixels of one class in the scene)."""
    maps = torch.nn.functional.interpolate(
        G.unflatten(1, grid_hw)[None], size=truth.shape, mode="bilinear", align_corners=False
    )[0].numpy()
    found = np.zeros_like(truth)
    for label in np.unique(truth):
        region = truth == label
        found[region] = maps[:, region].mean(1).argmax()
    return found


def measure_accuracy(
    world: World, seeds_of_scenes: range, bundle: Path | None, progress: Callable[..., Any]
) -> Iterator[dict[str, Any]]:
    """Run all variants over the scenes and yield one record per variant, read-out and runner, then the runners' agreement.

    The record of the guided read-out has the points that it wins over the bilinear one, with their 95 % interval.

    Args:
        world: networks, vocabulary, constants.
        seeds_of_scenes: seeds of the scenes.
        bundle: folder of a bundle to compare, or None.
        progress: wraps the scenes in a progress bar.
    """
    counts: dict[str, dict[Way, list[Counts]]] = {}
    equal, pixels = dict.fromkeys(WAYS, 0), 0
    with ExitStack() as stack:
        segmenters = {} if bundle is None else _segmenters(stack, bundle)
        for seed in progress(seeds_of_scenes, "segmenting scenes"):
            scene = make_scene(seed, size_px=world.params.size_hw[0])
            by_reference = _reference(world, scene)
            by_bundle = {way: segmenter.segment(scene.rgb).labels for way, segmenter in segmenters.items()}
            for runner, found in (("reference", by_reference), ("bundle_ort", by_bundle)):
                for way, labels in found.items():
                    of_scene = confusion_counts(scene.labels, labels, len(CLASS_NAMES))
                    counts.setdefault(runner, {}).setdefault(way, []).append(of_scene)
            for way, labels in by_bundle.items():
                equal[way] += int((labels == by_reference[way]).sum())
            pixels += scene.labels.size
    for runner, of_ways in counts.items():
        yield from _records_of(
            runner, Tables({_named(way): np.array(found) for way, found in of_ways.items()}), of_ways
        )
    if segmenters:
        shares = {_named(way): round(100 * count / pixels, 4) for way, count in equal.items()}
        yield {"bench": "agreement", "on": "scenes", "percent": shares, "scenes": len(seeds_of_scenes)}


def _named(way: Way) -> str:
    """A variant, with its read-out where that is not the method's own."""
    return way[0] if way[1] == "bilinear" else f"{way[0]}, {way[1]}"


def _records_of(runner: str, tables: Tables, ways: Iterable[Way]) -> Iterator[dict[str, Any]]:
    for way in ways:
        table = Confusion(len(CLASS_NAMES))
        table.counts += tables.counts[_named(way)].sum(0)
        record = accuracy_record(way, runner, table, tables.scenes)
        if way == GUIDED:
            points, interval = tables.difference(_named(GUIDED), _named(BILINEAR))
            record |= {"miou_minus_bilinear": round(points, 3), "interval": interval}
        yield record


def accuracy_record(way: Way, runner: str, table: Confusion, scenes: int) -> dict[str, Any]:
    """The JSON line of one variant and read-out."""
    per_class = zip(CLASS_NAMES, table.class_iou(), strict=True)
    return {
        "bench": "accuracy",
        "variant": way[0],
        "readout": way[1],
        "runner": runner,
        "miou": round(table.miou(), 3),
        "pixel_accuracy": round(table.pixel_accuracy(), 3),
        "scenes": scenes,
        "class_iou": {name: None if np.isnan(iou) else round(float(iou), 1) for name, iou in per_class},
    }


def _reference(world: World, scene: Scene) -> dict[Way, Labels]:
    observation = observe(world.models, torch.from_numpy(scene.rgb), world.params)
    labels = reference_labels(world, observation, world.params)
    parts = structure(observation.heads, observation.latent, observation.frame, world.params)
    G = seeds(observation.features, world.bank, world.params, parts.grid_hw)
    return labels | {ORACLE: oracle_labels(G, parts.grid_hw, scene.labels)}


def _segmenters(stack: ExitStack, bundle: Path) -> dict[Way, Segmenter]:
    return {
        way: stack.enter_context(
            Segmenter.open(bundle, list(CLASS_NAMES), backend="ort", constants=VARIANTS[way[0]], readout=way[1])
        )
        for way in WAYS
    }
