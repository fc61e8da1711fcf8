"""The whole method on one frame: networks first (`observe`), then the arithmetic (`solve`), every intermediate by name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers.utils import load_image
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor
from torch.nn import functional

from nerve_ref.affinity import Affinity, MixedAffinity, affinity_from_heads, token_grid_hw
from nerve_ref.clip_scores import clip_pixels, dense_features, seed_scores
from nerve_ref.guided import guided_scores
from nerve_ref.head_weights import head_entropies, head_weights
from nerve_ref.local import local_features, local_weights
from nerve_ref.params import NerveParams
from nerve_ref.providers.stable_diffusion import LayerHeads
from nerve_ref.templates import TEMPLATE_SETS
from nerve_ref.text import TextBank, parse_classes, text_bank
from nerve_ref.walk import bilinear_scores, labels_of, mixed_step, walk
from nerve_ref.weights.networks import Models, tiny_models


@dataclass(frozen=True, slots=True)
class Observation:
    """Outputs of the networks for a frame, before any constant of sections 5 to 8 is used.

    Attributes:
        frame: the working frame, RGB.
        features: unit patch features of CLIP.
        latent: clean latent, scaled; None where the provider of affinities has none.
        heads: queries and keys of the layers in use.
    """

    frame: UInt8[Tensor, "H W 3"]
    features: Float[Tensor, "hc wc d"]
    latent: Float[Tensor, "1 z h w"] | None
    heads: tuple[LayerHeads, ...]


@dataclass(frozen=True, slots=True)
class Structure:
    """What belongs together in a frame: the part of the method that needs no class names.

    Attributes:
        affinity: per-head affinities.
        local_weights: W.
        grid_hw: token grid.
    """

    affinity: Affinity
    local_weights: Float[Tensor, "8 h w"]
    grid_hw: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Mix:
    """The heads mixed for one vocabulary.

    Attributes:
        S_global: the mixed affinity.
        head_entropies: H of each head, 0 to 1.
        head_weights: w of each head, summing to 1.
    """

    S_global: MixedAffinity
    head_entropies: Float[Tensor, " n"]
    head_weights: Float[Tensor, " n"]


@dataclass(frozen=True, slots=True)
class Intermediates:
    """Everything between a frame and its labels.

    Attributes:
        features: unit patch features of CLIP.
        G: seed scores; each token's sum to 1.
        latent: clean latent, scaled; on video that of the last keyframe; None where the provider has none.
        heads: queries and keys of the layers in use; on video those of the last keyframe.
        affinity: per-head affinities.
        S_global: the heads mixed.
        local_weights: W, weights of the 8 neighbours.
        head_entropies: H of each head, 0 to 1.
        head_weights: w of each head, summing to 1.
        P: label scores; each token's sum to 1.
        labels: class of each pixel; 255 where P is NaN.
        confidence: 255 times the greatest probability.
        grid_hw: token grid.
    """

    features: Float[Tensor, "hc wc d"]
    G: Float[Tensor, "c p"]
    latent: Float[Tensor, "1 z a b"] | None
    heads: tuple[LayerHeads, ...]
    affinity: Affinity
    S_global: MixedAffinity
    local_weights: Float[Tensor, "8 h w"]
    head_entropies: Float[Tensor, " n"]
    head_weights: Float[Tensor, " n"]
    P: Float[Tensor, "c p"]
    labels: UInt8[Tensor, "H W"]
    confidence: UInt8[Tensor, "H W"]
    grid_hw: tuple[int, int]


def segment(
    models: Models,
    frame: UInt8[Tensor, "H W 3"],
    bank: TextBank,
    params: NerveParams,
    output_size_hw: tuple[int, int] | None = None,
) -> Intermediates:
    """Segment one RGB frame of the working size; labels have the frame's size unless another is asked for.

    Raises:
        ValueError: if the frame has another size than `params.size_hw`, or fewer than two classes are in use.
    """
    return solve(observe(models, frame, params), bank, params, output_size_hw)


def observe(models: Models, frame: UInt8[Tensor, "H W 3"], params: NerveParams) -> Observation:
    """Run the networks on a working frame: all that is slow, and nothing that depends on class names.

    Raises:
        ValueError: if the frame has another size than `params.size_hw`.
    """
    features = observe_clip(models, frame, params)
    z0, heads = observe_affinity(models, frame, params)
    return Observation(frame, features, z0, heads)


def observe_clip(models: Models, frame: UInt8[Tensor, "H W 3"], params: NerveParams) -> Float[Tensor, "hc wc d"]:
    """CLIP's part of `observe`."""
    _check_frame(frame, params)
    with torch.no_grad():
        return dense_features(models.clip, clip_pixels(frame, params.clip_size_hw), params.clip_mode)


def observe_affinity(
    models: Models, frame: UInt8[Tensor, "H W 3"], params: NerveParams
) -> tuple[Float[Tensor, "1 z h w"] | None, tuple[LayerHeads, ...]]:
    """The affinity provider's part of `observe`: the clean latent, if it has one, and queries and keys."""
    _check_frame(frame, params)
    with torch.no_grad():
        return models.provider.observe(frame, params)


def _check_frame(frame: UInt8[Tensor, "H W 3"], params: NerveParams) -> None:
    if tuple(frame.shape[:2]) != params.size_hw:
        raise ValueError(
            f"the frame is {tuple(frame.shape[:2])} pixels, expected the working size {params.size_hw}; "
            "resize it first, as `working_frame` does"
        )


def solve(
    observation: Observation,
    bank: TextBank,
    params: NerveParams,
    output_size_hw: tuple[int, int] | None = None,
    smoothed: Callable[[Tensor], Tensor] | None = None,
) -> Intermediates:
    """The method on the outputs of the networks: cheap, so that sweeps over constants share one observation.

    Args:
        observation: from `observe`.
        bank: vocabulary.
        params: constants of the method.
        output_size_hw: size of the labels; the frame's by default.
        smoothed: on video, the function from G (c, p) to the smoothed G (c, p).

    Raises:
        ValueError: if fewer than two classes are in use.
    """
    with torch.no_grad():
        parts = structure(observation.heads, observation.latent, observation.frame, params)
        G = seeds(observation.features, bank, params, parts.grid_hw)
        G = G if smoothed is None else smoothed(G)
        mix = mix_heads(parts.affinity, G, params)
        P = walk(G, mixed_step(mix.S_global, parts.local_weights, params.beta), params.alpha, params.steps)
        size_hw = output_size_hw or params.size_hw
        labels, confidence = read_out(P, observation.frame, parts.grid_hw, size_hw, params, bank.has_background)
    return Intermediates(
        features=observation.features,
        G=G,
        latent=observation.latent,
        heads=observation.heads,
        affinity=parts.affinity,
        S_global=mix.S_global,
        local_weights=parts.local_weights,
        head_entropies=mix.head_entropies,
        head_weights=mix.head_weights,
        P=P,
        labels=labels,
        confidence=confidence,
        grid_hw=parts.grid_hw,
    )


def structure(
    heads: Sequence[LayerHeads],
    z0: Float[Tensor, "1 z a b"] | None,
    frame: UInt8[Tensor, "H W 3"],
    params: NerveParams,
) -> Structure:
    """Affinities of a frame: sections 5 and 7, which need no class names.

    Raises:
        ValueError: if `params.local_features` is "latent" and there is none.
    """
    grid_hw = token_grid_hw(heads)
    features = local_features(params.local_features, heads, z0, frame, grid_hw)
    return Structure(affinity_from_heads(heads, params), local_weights(features, params.sigma), grid_hw)


def seeds(
    features: Float[Tensor, "hc wc d"], bank: TextBank, params: NerveParams, grid_hw: tuple[int, int]
) -> Float[Tensor, "c p"]:
    """G of a frame for a vocabulary.

    Raises:
        ValueError: if fewer than two classes are in use: every pixel would be that class, and entropies are undefined.
    """
    if int(bank.class_mask.sum()) < 2:
        raise ValueError(
            f"the vocabulary has one class only ({', '.join(bank.class_names)}); "
            "give background words, or add a class such as 'other', for it to be told apart from"
        )
    return seed_scores(features, bank.embeddings, bank.class_rows, bank.class_mask, params.tau, grid_hw)


def mix_heads(affinity: Affinity, G: Float[Tensor, "c p"], params: NerveParams) -> Mix:
    """Entropies, weights and the mixed affinity: section 6."""
    entropies = head_entropies(affinity, G, params.self_loop)
    weights = head_weights(entropies, params.entropy, params.head_temperature)
    return Mix(affinity.mixed(weights), entropies, weights)


def read_out(
    P: Float[Tensor, "c p"],
    frame: UInt8[Tensor, "h w 3"],
    grid_hw: tuple[int, int],
    size_hw: tuple[int, int],
    params: NerveParams,
    has_background: bool,
) -> tuple[UInt8[Tensor, "H W"], UInt8[Tensor, "H W"]]:
    """Labels and confidence of every pixel, by the read-out that the constants name; results as `walk.readout`'s."""
    return labels_of(pixel_scores(P, frame, grid_hw, size_hw, params), params.threshold, has_background)


def pixel_scores(
    P: Float[Tensor, "c p"],
    frame: UInt8[Tensor, "h w 3"],
    grid_hw: tuple[int, int],
    size_hw: tuple[int, int],
    params: NerveParams,
) -> Float[Tensor, "c H W"]:
    """Label scores of every pixel: of `params.readout`, the one that knows distances or the one that sees the frame."""
    if params.readout == "guided":
        return guided_scores(P, frame, grid_hw, size_hw, params.guide_width)
    return bilinear_scores(P, grid_hw, size_hw)


def segment_image(
    image: str | Path | Shaped[np.ndarray, "H W 3"],
    class_names: str | Sequence[str],
    params: NerveParams,
    background: str | Sequence[str] = (),
    models: Models | None = None,
) -> Intermediates:
    """Segment a picture of any size; labels have the picture's size.

    Args:
        image: an image file, or uint8 RGB.
        class_names: as `text.parse_classes` reads them, e.g. "ladybug, beetle; grass".
        params: constants of the method, such as those of the preset of `models`.
        background: words for everything else.
        models: networks; the packaged tiny ones by default.

    Raises:
        ValueError: for a missing file, pixels that are not uint8, or an unusable class list.
    """
    rgb = _read_rgb(image)
    models = tiny_models() if models is None else models
    classes = parse_classes(class_names, background)
    bank = text_bank(models.clip, models.tokenizer, classes, TEMPLATE_SETS[params.template_set])
    return segment(models, working_frame(rgb, params.size_hw), bank, params, (rgb.shape[0], rgb.shape[1]))


def _read_rgb(image: str | Path | Shaped[np.ndarray, "H W 3"]) -> UInt8[Tensor, "H W 3"]:
    if isinstance(image, str | Path):
        if not Path(image).is_file():
            raise ValueError(f"no image file at {image}; expected a path to a picture, or an array of uint8 RGB")
        return torch.from_numpy(np.array(load_image(str(image)).convert("RGB")))
    if image.dtype != np.uint8:
        raise ValueError(f"the image is {image.dtype}, expected uint8 RGB of shape (H, W, 3)")
    return torch.from_numpy(np.ascontiguousarray(image))


def working_frame(rgb: UInt8[Tensor, "H W 3"], size_hw: tuple[int, int]) -> UInt8[Tensor, "h w 3"]:
    """Stretch a picture to the working size: averaged along a side that shrinks, bilinear along one that grows."""
    if tuple(rgb.shape[:2]) == size_hw:
        return rgb
    pixels = rgb.permute(2, 0, 1)[None].float()
    smaller_hw = (min(rgb.shape[0], size_hw[0]), min(rgb.shape[1], size_hw[1]))
    averaged = functional.interpolate(pixels, size=smaller_hw, mode="area")
    stretched = functional.interpolate(averaged, size=size_hw, mode="bilinear", align_corners=False)
    return stretched[0].permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8)
