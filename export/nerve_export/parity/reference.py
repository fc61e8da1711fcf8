"""The reference's half of a comparison: runs the PyTorch reference and writes every named tensor."""

from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nerve_export.parity.frames import FRAMES, chain_frames, parity_frames
from nerve_export.parity.method_tensors import affinity_tensors, as_torch, caller_inputs, label_margin
from nerve_export.parity.taps import (
    MARGIN,
    TapFacts,
    write_facts,
    write_tensors,
)
from nerve_export.presets.files import Preset, bundle_preset
from nerve_runtime.bundle.manifest import Manifest, load_manifest, verify_file
from nerve_runtime.bundle.spec import READOUT_STAGES
from nerve_runtime.errors import BundleError, CompatibilityError

if TYPE_CHECKING:
    from nerve_ref.motion import Motion
    from nerve_ref.params import NerveParams
    from nerve_ref.pipeline import Intermediates
    from nerve_ref.text import TextBank
    from nerve_ref.weights.files import WeightChoice
    from nerve_ref.weights.networks import Models

TEMPLATES = 2
"""Prompt templates of the set that are averaged: the embeddings are an input of what is compared, and 80 templates of
eight names take CLIP L/14's text tower ten times as long as the frame takes all other networks."""
KEEP = 0.75
"""How much of the scores of the frame before the compared `carry` keeps; any number between 0 and 1 will do."""


def reference_taps(
    models: "Models", params: "NerveParams", classes: str, frames: int, folder: Path, batch: int = 1
) -> None:
    """Run the reference on seeded frames and write all that `compare_bundle` needs into a folder.

    The keyframe of the short video is the first frame itself, so that the slow networks run once per frame.

    Args:
        models: the reference's networks.
        params: constants of the method.
        classes: class list to segment with; for random weights any list of two or more.
        frames: frames compared alone, 1 or more; the short video has as many, at least two.
        folder: an existing folder; what lies there under the same names is replaced.
        batch: items of one run, each with a vocabulary and constants of its own; 1 for bundles that take one frame.

    Raises:
        UsageError: `frames` is below 1, or the affinity has no graph to compare with.
    """
    import torch

    from nerve_ref.pipeline import segment
    from nerve_ref.templates import TEMPLATE_SETS
    from nerve_ref.text import parse_classes, text_bank
    from nerve_ref.video import VideoReference

    video_frames = chain_frames(params.size_hw, frames)
    with torch.no_grad():
        templates = TEMPLATE_SETS[params.template_set][:TEMPLATES]
        bank = text_bank(models.clip, models.tokenizer, parse_classes(classes), templates)
        if models.random_seed is not None:
            bank = replace(bank, embeddings=_distinct_embeddings(models, params, video_frames[0], len(bank.embeddings)))
        write_tensors(folder, "text", _text_tensors(models, params, classes))
        video = VideoReference(models, bank, params, keyframe_every=len(video_frames))
        keyframe = video.step(as_torch(video_frames[0]))
        _write_chain(folder, 0, video_frames[0], keyframe, bank, params)
        for index, frame in enumerate(video_frames[1:], 1):
            _write_chain(folder, index, frame, video.step(as_torch(frame)), bank, params)
        previous: Any = None
        for index, frame in enumerate(parity_frames(params.size_hw, frames)):
            reference = keyframe if index == 0 else segment(models, as_torch(frame), bank, params)
            start = reference.G if previous is None else previous
            write_tensors(folder, f"frame_{index}", _frame_tensors(frame, reference, bank, params, start))
            previous = reference.P
        if batch > 1:
            _write_items(folder, models, bank, params, batch, max(2, frames))
    layers = tuple(layer.name for layer in keyframe.heads)
    grid_hw = keyframe.grid_hw
    items = batch if batch > 1 else 0
    write_facts(
        folder, TapFacts(frames, len(video_frames), params.size_hw, grid_hw, layers, tuple(bank.class_names), items)
    )


def reference_of_bundle(bundle: Path, weights: "WeightChoice", frames: int | None, folder: Path) -> None:
    """Rebuild the reference that a bundle was made of and write its taps: `open_reference`, then `reference_taps`.

    Takes picklable values, for `run_isolated`.

    Args:
        bundle: an installed bundle.
        weights: where the weights lie, as for building.
        frames: frames compared alone; None for 4 of the tiny preset, 1 of the others.
        folder: an existing folder.

    Raises:
        NerveError: as `open_reference` and `reference_taps`.
    """
    manifest = load_manifest(bundle)
    if manifest.random_seed is not None and weights.tokenizer is None:
        weights = replace(weights, tokenizer=verify_file(bundle, manifest, manifest.vocabulary.tokenizer))
    preset = bundle_preset(bundle, manifest.preset)
    models, params = open_reference(manifest, preset, weights)
    count = frames if frames is not None else FRAMES if preset.is_packaged else 1
    reference_taps(models, params, preset.parity_classes, count, folder, manifest.geometry.max_batch)


def open_reference(manifest: Manifest, preset: Preset, weights: "WeightChoice") -> "tuple[Models, NerveParams]":
    """The networks and constants that a bundle was made of, from its manifest and its preset.

    Raises:
        UsageError: weights are missing.
        BundleError: the manifest lacks a constant, or a weight file is not what it should be.
        ResourceError: there is no space for weights that have to be fetched.
        CompatibilityError: the weights found are not those that the bundle was made of.
    """
    from nerve_export.plan import BuildPlan
    from nerve_export.plan_models import plan_models
    from nerve_export.weights.progress import weights_with_bars

    resolved = None
    if manifest.random_seed is None:
        resolved = weights_with_bars(preset.backbones, weights)
        _require_same_weights(manifest, {(record.role, record.sha256) for record in resolved.records})
    plan = BuildPlan(
        preset=preset,
        params=params_of(manifest),
        backbones=preset.backbones,
        opset=manifest.opset,
        max_classes=manifest.geometry.max_classes,
        out=Path(),
        weights=weights,
        random_seed=manifest.random_seed,
    )
    return plan_models(plan, resolved), plan.params


def params_of(manifest: Manifest) -> "NerveParams":
    """Every constant of the method that a bundle was built with.

    Raises:
        BundleError: one is missing in the manifest, or out of its range.
    """
    from nerve_ref.params import NerveParams

    constants = {**manifest.method.baked.model_dump(), **manifest.method.model_dump(exclude={"baked"})}
    names = [field.name for field in fields(NerveParams)]
    missing = sorted(set(names) - set(constants))
    if missing:
        raise BundleError(f"the manifest lacks {', '.join(missing)}; build the bundle again with this version")
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value := constants[name], list) else value for name in names
    }
    try:
        return NerveParams(**values)
    except (TypeError, ValueError) as error:
        raise BundleError(f"the manifest's constants make no sense: {error}; build the bundle again") from error


def _require_same_weights(manifest: Manifest, found: set[tuple[str, str]]) -> None:
    built = {(record.role, record.sha256) for record in manifest.weights}
    if built != found:
        roles = sorted({role for role, _ in built ^ found})
        raise CompatibilityError(
            f"the bundle was made of other weights than these: {', '.join(roles)} differ; give those that it was built "
            "from with --clip, --sd or --vae"
        )


def _distinct_embeddings(models: "Models", params: "NerveParams", frame: NDArray[np.uint8], rows: int) -> Any:
    """Text embeddings (r,d) for random networks that tell the patches of a frame apart.

    Embeddings are an input of what is compared. Those of a random text tower have cosines of 0.97, so that one class takes
    the whole picture and labels agree whatever the graphs do. These are patch features, evenly spaced, minus their mean.
    """
    import torch
    from torch.nn import functional

    from nerve_ref.pipeline import observe_clip

    features = observe_clip(models, as_torch(frame), params).flatten(0, 1)
    chosen = features[torch.linspace(0, len(features) - 1, rows).long()]
    return functional.normalize(chosen - features.mean(0), dim=-1)


def _text_tensors(models: "Models", params: "NerveParams", classes: str) -> dict[str, NDArray[Any]]:
    from nerve_ref.templates import TEMPLATE_SETS
    from nerve_ref.text import text_embeddings

    names = [name.strip() for name in classes.replace(",", ";").split(";")]
    template = TEMPLATE_SETS[params.template_set][0]
    encodings = models.tokenizer.encode_batch([template.format(name) for name in names])
    return {
        "token_ids": np.array([encoding.ids for encoding in encodings], np.int64),
        "text_embeddings": text_embeddings(models.clip, models.tokenizer, names, [template]).numpy(),
    }


def _write_chain(
    folder: Path,
    index: int,
    frame: NDArray[np.uint8],
    reference: "Intermediates",
    bank: "TextBank",
    params: "NerveParams",
) -> None:
    tensors = {
        "label_scores": reference.P.numpy(),
        "labels": reference.labels.numpy(),
        MARGIN: label_margin(frame, reference, bank, params),
    }
    write_tensors(folder, f"chain_{index}", caller_inputs(frame, bank, params) | tensors)


def _write_items(
    folder: Path, models: "Models", bank: "TextBank", params: "NerveParams", count: int, pictures: int
) -> None:
    """The items of one run: no two have the same picture, vocabulary and constants; the networks run once a picture."""
    from nerve_ref.pipeline import observe, solve

    frames = parity_frames(params.size_hw, min(count, pictures))
    observations = [observe(models, as_torch(frame), params) for frame in frames]
    for item in range(count):
        frame, own_bank, own_params = frames[item % len(frames)], _own_bank(bank, item), _own_params(params, item)
        reference = solve(observations[item % len(frames)], own_bank, own_params)
        tensors = {
            "seed_scores": reference.G,
            "local_weights": reference.local_weights,
            "patch_features": reference.features.flatten(0, 1),
            "labels": reference.labels,
            "confidence": reference.confidence,
            **affinity_tensors(reference.affinity, reference.S_global),
        }
        arrays = {name: tensor.contiguous().numpy() for name, tensor in tensors.items()}
        margin = label_margin(frame, reference, own_bank, own_params)
        write_tensors(folder, f"item_{item}", caller_inputs(frame, own_bank, own_params) | arrays | {MARGIN: margin})


def _own_bank(bank: "TextBank", item: int) -> "TextBank":
    """Another vocabulary of the same size: names change places, and in every second item the last class is off."""
    mask = bank.class_mask.clone()
    if item % 2 and int(mask.sum()) > 2:
        mask[-1] = False
    return replace(bank, embeddings=bank.embeddings.roll(item, 0), class_mask=mask)


def _own_params(params: "NerveParams", item: int) -> "NerveParams":
    """Constants that a run may choose, up to a fifth off the preset's."""
    less, more = 1 - item % 3 / 20, 1 + item % 5 / 20
    return replace(
        params, tau=params.tau * less, alpha=params.alpha * less, beta=params.beta * less,
        head_temperature=params.head_temperature * more,
    )  # fmt: skip


def _frame_tensors(
    frame: NDArray[np.uint8], reference: "Intermediates", bank: "TextBank", params: "NerveParams", start: Any
) -> dict[str, NDArray[Any]]:
    """Everything about one frame; the warm walk starts from the previous frame's result, as it does on video."""
    import torch

    from nerve_ref.walk import mixed_step, walk

    step = mixed_step(reference.S_global, reference.local_weights, params.beta)
    warm = walk(reference.G, step, params.alpha, params.warm_steps, start=start)
    tensors: dict[str, Any] = {
        "previous_scores": start,
        "walk_warm.label_scores": warm,
        **_motion_tensors(reference, params, start),
        **_exact_walk_tensors(reference, params),
        **_readout_tensors(frame, reference, bank, params),
        "seed_scores": reference.G,
        "local_weights": reference.local_weights,
        "head_weights": reference.head_weights,
        "head_entropies": reference.head_entropies,
        "label_scores": reference.P,
        "labels": reference.labels,
        "confidence": reference.confidence,
        "finite": torch.isfinite(reference.P).all(),
        "features": reference.features,
        "patch_features": reference.features.flatten(0, 1),
        **affinity_tensors(reference.affinity, reference.S_global),
    }
    if reference.latent is not None:
        tensors["latent"] = reference.latent
    for index, layer in enumerate(reference.heads):
        tensors |= {f"q{index}": layer.q, f"k{index}": layer.k}
    arrays = {name: tensor.contiguous().numpy() for name, tensor in tensors.items()}
    return caller_inputs(frame, bank, params) | arrays | {MARGIN: label_margin(frame, reference, bank, params)}


def _readout_tensors(
    frame: NDArray[np.uint8], reference: "Intermediates", bank: "TextBank", params: "NerveParams"
) -> dict[str, Any]:
    """Labels and confidence by each read-out, whichever of them is the constants'."""
    from nerve_ref.pipeline import read_out

    tensors: dict[str, Any] = {}
    for kind, stage in READOUT_STAGES.items():
        labels, confidence = read_out(
            reference.P,
            as_torch(frame),
            reference.grid_hw,
            params.size_hw,
            replace(params, readout=kind),
            bank.has_background,
        )
        tensors |= {f"{stage}.labels": labels, f"{stage}.confidence": confidence}
    return tensors


def _motion_tensors(reference: "Intermediates", params: "NerveParams", start: Any) -> dict[str, Any]:
    """Inputs and results of the stages that follow the picture, for a synthetic motion."""
    import torch

    from nerve_ref.motion import carried_dense, carried_neighbours, carried_walk, carry

    motion = synthetic_motion(reference.grid_hw)
    keep = torch.tensor(KEEP)
    S = carried_dense(reference.S_global, reference.local_weights, motion, params.beta)
    return {
        "origin_tokens": motion.origin_tokens,
        "origin_visible": motion.origin_visible,
        "previous_tokens": motion.previous_tokens,
        "previous_weights": motion.previous_weights,
        "keep": keep,
        "carried_scores": carry(reference.G, start, motion, keep),
        "keyframe_weights": reference.local_weights,
        "local_carried.local_weights": carried_neighbours(reference.local_weights, motion),
        "walk_carried.label_scores": carried_walk(reference.G, S, params.alpha, params.warm_steps, start),
    }


def synthetic_motion(grid_hw: tuple[int, int]) -> "Motion":
    """A picture that drifts down and right, the lower half faster, with a band that the keyframe did not show."""
    import torch

    from nerve_ref.motion import Motion

    height, width = grid_hw
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    fast = 1 + (rows >= height // 2).long()
    origins = (rows - fast).clamp_min(0) * width + (columns - 2 * fast).clamp_min(0)
    visible = torch.where(columns < 2 * fast, 0.0, 0.25 + 0.75 * rows / height)
    corners = [
        (rows - 1 + down).clamp_min(0) * width + (columns - 1 + right).clamp_min(0)
        for down in (0, 1)
        for right in (0, 1)
    ]
    shares = torch.tensor([0.1, 0.2, 0.3, 0.4])[:, None] * visible.flatten()
    return Motion(origins.flatten(), visible.flatten(), torch.stack(corners).flatten(1), shares)


def _exact_walk_tensors(reference: "Intermediates", params: "NerveParams") -> dict[str, Any]:
    """What the keyframe keeps for the exact walk, and its limit solved directly; nothing where keys are not pooled."""
    from nerve_ref.affinity import MixedPooled
    from nerve_ref.walk import closed_form, closed_sum, mixed_dense

    if not isinstance(reference.S_global, MixedPooled):
        return {}
    closed = closed_sum(reference.S_global, reference.local_weights, params.alpha, params.beta)
    limit = closed_form(
        reference.G, mixed_dense(reference.S_global, reference.local_weights, params.beta), params.alpha
    )
    return {
        "local_affinity": closed.LB.float(),
        "closed_sum": closed.X.float(),
        "walk_exact.label_scores": limit.float(),
    }
