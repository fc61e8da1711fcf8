"""RADIO as a provider of affinity: its library's own run, the reference and the graph's module see the same heads."""

from dataclasses import replace

import pytest
import torch
from transformers import RadioConfig, RadioModel

from nerve_export.graphs.networks import DinoHeads
from nerve_ref.params import NerveParams
from nerve_ref.providers.dino import dino_pixels
from nerve_ref.providers.provider import Dino

LAYERS = ("encoder.layer.2", "encoder.layer.0")
PARAMS = replace(NerveParams(layers=LAYERS), size_hw=(64, 128), pooled_hw=(4, 4))
GRID_HW, OTHERS = (4, 8), 3 + 5


@pytest.fixture
def radio() -> RadioModel:
    """Small, with weights that differ everywhere, positions included."""
    config = RadioConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=2, num_registers=5, max_img_size=256,
        use_swiglu_ffn=True, norm_mean=(0.1, 0.2, 0.3), norm_std=(0.4, 0.5, 0.6),
    )  # fmt: skip
    model = RadioModel(config).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(4)
    for parameter in model.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


@pytest.fixture
def frame() -> torch.Tensor:
    return torch.randint(0, 256, (64, 128, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_queries_and_keys_are_those_of_the_librarys_own_run(radio: RadioModel, frame: torch.Tensor) -> None:
    seen = {}
    for number in (0, 2):
        for name in ("q_proj", "k_proj"):
            projection = getattr(radio.encoder.layer[number].attention, name)
            projection.register_forward_hook(lambda module, given, out, key=(number, name): seen.update({key: out}))
    _, heads = Dino(radio).observe(frame, PARAMS)
    seen.clear()
    pixels = frame.permute(2, 0, 1)[None].float() / 255  # the library takes mean and deviation out by itself
    features = radio(pixels).features
    assert features.shape == (1, 32, 32)
    for layer, number in zip(heads, (2, 0), strict=True):
        assert layer.grid_hw == GRID_HW
        for found, name in ((layer.q, "q_proj"), (layer.k, "k_proj")):
            expected = seen[number, name][0, OTHERS:].unflatten(1, (2, -1)).transpose(0, 1)
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_the_graphs_module_gives_what_the_reference_gives(radio: RadioModel, frame: torch.Tensor) -> None:
    _, expected = Dino(radio).observe(frame, PARAMS)
    _, found = DinoHeads(Dino(radio), PARAMS, native=True)(frame[None])
    for (q, k, grid_hw), layer in zip(found, expected, strict=True):
        assert grid_hw == layer.grid_hw
        torch.testing.assert_close(q, layer.q, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(k, layer.k, atol=1e-5, rtol=1e-4)


def test_its_input_is_normalised_as_its_configuration_says(radio: RadioModel, frame: torch.Tensor) -> None:
    pixels = dino_pixels(frame, GRID_HW, 16, (radio.config.norm_mean, radio.config.norm_std))
    torch.testing.assert_close(pixels, radio.input_conditioner(frame.permute(2, 0, 1)[None].float() / 255))
