from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from nerve_export.presets.files import presets
from nerve_ref.clip_scores import clip_pixels
from nerve_ref.pipeline import observe
from nerve_ref.providers.clip import clip_heads
from nerve_ref.providers.provider import Clip
from nerve_ref.weights.networks import tiny_models

PREFIX = "vision_model.encoder.layers."
LAST_FIRST = (f"{PREFIX}3", f"{PREFIX}1")


@pytest.fixture(scope="module")
def frame() -> Tensor:
    return torch.randint(0, 256, (128, 128, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_queries_and_keys_are_those_that_the_tower_computes(frame: Tensor) -> None:
    model = tiny_models("clip").clip
    pixels = clip_pixels(frame, (128, 128))
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda module, given, output: seen.__setitem__(name, output)

    for number in (1, 3):
        attention = model.vision_model.encoder.layers[number].self_attn
        for projection in ("q_proj", "k_proj"):
            getattr(attention, projection).register_forward_hook(keep(f"{number}.{projection}"))
    with torch.no_grad():
        layers = clip_heads(model, pixels, LAST_FIRST)
        seen.clear()
        model.vision_model(pixels)
    assert [layer.name for layer in layers] == list(LAST_FIRST)
    for layer, number in zip(layers, (3, 1), strict=True):
        assert layer.grid_hw == (8, 8)
        for found, projection in ((layer.q, "q_proj"), (layer.k, "k_proj")):
            expected = seen[f"{number}.{projection}"][0, 1:].unflatten(1, (4, -1)).transpose(0, 1)
            torch.testing.assert_close(found, expected)


def test_an_unknown_layer_is_answered_with_those_there_are(frame: Tensor) -> None:
    with pytest.raises(ValueError, match=rf"no self-attention layer 'up_blocks.1' in this CLIP; it has: {PREFIX}0, "):
        clip_heads(tiny_models("clip").clip, clip_pixels(frame, (128, 128)), ["up_blocks.1"])


def test_one_tower_says_both_on_a_grid_of_its_patches(frame: Tensor) -> None:
    models = tiny_models("clip")
    assert isinstance(models.provider, Clip)
    assert [source.role for source in models.sources] == ["clip"]
    params = replace(presets()["tiny"].params, layers=LAST_FIRST, pooled_hw=(8, 8))
    observed = observe(models, frame, params)
    assert observed.latent is None
    assert observed.features.shape[:2] == observed.heads[0].grid_hw == (8, 8)
