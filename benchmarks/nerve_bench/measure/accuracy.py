"""Accuracy on the tiny world: what each part of the method adds, for the reference and for a bundle."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nerve_bench.world import CLASS_NAMES, Scene, make_scene
from nerve_ref.params import NerveParams
from nerve_ref.pipeline import Observation, mix_heads, observe, seeds, structure
from nerve_ref.templates import TEMPLATE_SETS
from nerve_ref.text import TextBank, parse_classes, text_bank
from nerve_ref.walk import mixed_step, readout, walk
from nerve_ref.weights.networks import Models
from nerve_runtime import Segmenter
from nerve_runtime.segmenter import Constants

Labels = NDArray[np.uint8]
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


class Confusion:
    """One confusion matrix over all pixels of all scenes."""

    def __init__(self, classes: int) -> None:
        self.counts = np.zeros((classes, classes), np.int64)

    def add(self, truth: Labels, found: Labels) -> None:
        """Count the pixels of one scene; both uint8 (H,W), truth below the number of classes."""
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


def reference_labels(world: World, observation: Observation, params: NerveParams) -> dict[str, Labels]:
    """Labels of all variants by the reference; the networks' part is shared."""
    with torch.no_grad():
        parts = structure(observation.heads, observation.latent, observation.frame, params)
        G = seeds(observation.features, world.bank, params, parts.grid_hw)
        labels = {}
        for name, constants in VARIANTS.items():
            varied = varied_params(params, constants)
            mix = mix_heads(parts.affinity, G, varied)
            step = mixed_step(mix.S_global, parts.local_weights, varied.beta)
            P = walk(G, step, varied.alpha, varied.steps)
            labels[name] = readout(P, parts.grid_hw, params.size_hw, 0.0, has_background=False)[0].numpy()
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
    """Run all variants over the scenes and yield one record per variant and runner, then the agreement of both.

    Args:
        world: networks, vocabulary, constants.
        seeds_of_scenes: seeds of the scenes.
        bundle: folder of a bundle to compare, or None.
        progress: wraps the scenes in a progress bar.
    """
    tables: dict[tuple[str, str], Confusion] = {}
    equal, pixels = dict.fromkeys(VARIANTS, 0), 0
    with ExitStack() as stack:
        segmenters = {} if bundle is None else _segmenters(stack, bundle)
        for seed in progress(seeds_of_scenes, "segmenting scenes"):
            scene = make_scene(seed, size_px=world.params.size_hw[0])
            by_reference = _reference(world, scene)
            for name, labels in by_reference.items():
                tables.setdefault(("reference", name), Confusion(len(CLASS_NAMES))).add(scene.labels, labels)
            for name, segmenter in segmenters.items():
                labels = segmenter.segment(scene.rgb).labels
                tables.setdefault(("bundle_ort", name), Confusion(len(CLASS_NAMES))).add(scene.labels, labels)
                equal[name] += int((labels == by_reference[name]).sum())
            pixels += scene.labels.size
    for (runner, name), table in tables.items():
        yield accuracy_record(name, runner, table, len(seeds_of_scenes))
    if segmenters:
        shares = {name: round(100 * count / pixels, 4) for name, count in equal.items()}
        yield {"bench": "agreement", "on": "scenes", "percent": shares, "scenes": len(seeds_of_scenes)}


def accuracy_record(variant: str, runner: str, table: Confusion, scenes: int) -> dict[str, Any]:
    """The JSON line of one variant."""
    per_class = zip(CLASS_NAMES, table.class_iou(), strict=True)
    return {
        "bench": "accuracy",
        "variant": variant,
        "runner": runner,
        "miou": round(table.miou(), 3),
        "pixel_accuracy": round(table.pixel_accuracy(), 3),
        "scenes": scenes,
        "class_iou": {name: None if np.isnan(iou) else round(float(iou), 1) for name, iou in per_class},
    }


def _reference(world: World, scene: Scene) -> dict[str, Labels]:
    observation = observe(world.models, torch.from_numpy(scene.rgb), world.params)
    labels = reference_labels(world, observation, world.params)
    parts = structure(observation.heads, observation.latent, observation.frame, world.params)
    G = seeds(observation.features, world.bank, world.params, parts.grid_hw)
    return labels | {"oracle": oracle_labels(G, parts.grid_hw, scene.labels)}


def _segmenters(stack: ExitStack, bundle: Path) -> dict[str, Segmenter]:
    return {
        name: stack.enter_context(Segmenter.open(bundle, list(CLASS_NAMES), backend="ort", constants=constants))
        for name, constants in VARIANTS.items()
    }
