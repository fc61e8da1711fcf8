"""Random weights depend on the seed alone and keep the scale of what they carry; the synthetic tokenizer takes any text."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import CLIPModel

from nerve_export.presets.files import presets
from nerve_ref.params import NerveParams
from nerve_ref.pipeline import observe_affinity, segment
from nerve_ref.providers.provider import Dino, StableDiffusion
from nerve_ref.providers.stable_diffusion import latent
from nerve_ref.text import parse_classes, text_bank
from nerve_ref.weights import random as random_weights
from nerve_ref.weights.architectures import Backbones
from nerve_ref.weights.builders import autoencoder_around, clip_around, dino_around, unet_around
from nerve_ref.weights.configs.own import own_network
from nerve_ref.weights.configs.published import CONFIGS, SCHEDULE
from nerve_ref.weights.networks import Models, random_models
from nerve_ref.weights.random import random_autoencoder, random_dino, synthetic_tokenizer
from nerve_runtime.bundle.manifest import Vocabulary
from nerve_runtime.errors import UsageError
from nerve_runtime.vocabulary.tokenizer import PromptTokenizer

SMALL = {
    "unet": {
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        "block_out_channels": [32, 64, 64, 64],
        "layers_per_block": 2,
        "transformer_layers_per_block": 1,
        "cross_attention_dim": 32,
        "attention_head_dim": [2, 4, 4, 4],
        "use_linear_projection": True,
        "norm_num_groups": 16,
    },
    "vae": {**CONFIGS["stable-diffusion-2-1-base"]["vae"], "block_out_channels": [32, 32, 64, 64]},
    "text_encoder": {"max_position_embeddings": 77},
    "scheduler": SCHEDULE,
}
SMALL_DINOV2 = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 84, "patch_size": 14}


@pytest.fixture(autouse=True)
def small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Narrow networks of the true depth."""
    monkeypatch.setitem(CONFIGS, "small-diffusion", SMALL)
    monkeypatch.setitem(CONFIGS, "small-dinov2", {"dinov2": SMALL_DINOV2})


DIFFUSION, DINOV2 = Backbones("tiny", "small-diffusion"), Backbones("tiny", "small-dinov2")


def weights(network: nn.Module) -> Tensor:
    return torch.cat([parameter.flatten() for parameter in network.parameters()])


def diffusion(models: Models) -> StableDiffusion:
    assert isinstance(models.provider, StableDiffusion)
    return models.provider


def test_weights_depend_on_the_seed_alone() -> None:
    first, second, other = (random_models(DIFFUSION, seed) for seed in (3, 3, 4))
    torch.manual_seed(99)
    assert second.clip is second.clip
    torch.randn(5)
    for one, two in ((first.clip, second.clip), (diffusion(first).unet, diffusion(second).unet)):
        assert torch.equal(weights(one), weights(two))
    assert torch.equal(weights(diffusion(first).vae), weights(diffusion(second).vae))
    assert torch.equal(diffusion(first).context, diffusion(second).context)
    assert not torch.equal(weights(first.clip), weights(other.clip))
    assert not torch.equal(diffusion(first).context, diffusion(other).context)
    assert first.random_seed == 3
    assert first.sources == ()


def test_what_is_no_weight_is_what_the_library_makes_it() -> None:
    """Frequencies of DINOv3's turns, which a drawn network has to have as they are."""
    config = {"model_type": "dinov3_vit", "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    network = own_network("mine", {"dinov2": config})
    found, expected = random_dino(network, 0), dino_around(network.config("dinov2"))
    assert dict(found.named_buffers()).keys() == {"rope_embeddings.inv_freq"}
    assert torch.equal(found.rope_embeddings.inv_freq, expected.rope_embeddings.inv_freq)
    assert not found.rope_embeddings.inv_freq.is_meta


@pytest.mark.parametrize("use_quant_conv", [True, False])
def test_latents_have_the_scale_of_true_ones_with_or_without_a_last_convolution(use_quant_conv: bool) -> None:
    config = {**SMALL["vae"], "use_quant_conv": use_quant_conv, "scaling_factor": 0.01}
    vae = random_autoencoder(own_network("mine", {"vae": config}), 0)
    latents = latent(vae, frames()[0])
    assert 0.2 < float(latents.std()) < 5


def test_a_synthetic_vocabulary_is_as_large_and_as_long_as_the_text_tower_reads() -> None:
    tokenizer = synthetic_tokenizer(300, 9)
    assert tokenizer.get_vocab_size() == 300
    ids = tokenizer.encode("a long text").ids
    assert (len(ids), ids[0], ids[-1]) == (9, 298, 299)
    with pytest.raises(ValueError, match="a CLIP of 257 token ids cannot tell 256 bytes, a start and an end"):
        synthetic_tokenizer(257)


def test_a_clip_that_ends_texts_elsewhere_needs_a_tokenizer() -> None:
    config = {"text_config": {"eos_token_id": 5}, "vision_config": {}}
    backbones = Backbones(own_network("mine", {"clip": config}), "tiny")
    with pytest.raises(ValueError, match=r"mine: text_config\.eos_token_id is 5, expected the last of its 49408 ids"):
        random_models(backbones, 0)


@pytest.mark.parametrize(
    ("build", "config", "message"),
    [
        (clip_around, {"text_config": {"hidden_act": "foo"}, "vision_config": {}}, "no CLIP can be made .*: KeyError: 'foo'"),
        (unet_around, {"norm_num_groups": 7}, "no UNet can be made .*: ValueError: num_channels .* divisible"),
        (autoencoder_around, {"block_out_channels": [8, 8]}, "no autoencoder can be made .*; correct its config"),
        (dino_around, {"num_hidden_layers": "3"}, "no DINO can be made .*: StrictDataclass.* expected int, got str"),
    ],
)  # fmt: skip
def test_a_configuration_that_makes_no_network_is_told_in_one_sentence(build: Any, config: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(config)


def test_drawing_weights_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    assert random_models(DIFFUSION, 0).provider is not None
    assert torch.equal(torch.get_rng_state(), before)


def test_no_weight_is_one_that_an_optimiser_of_graphs_would_drop() -> None:
    models = random_models(DIFFUSION, 0)
    networks = (models.clip, diffusion(models).unet, diffusion(models).vae, random_dino("small-dinov2", 0))
    for every in map(weights, networks):
        assert every.isfinite().all()
        assert not ((every == 0) | (every == 1)).any()


def test_random_networks_are_ready_to_run_and_carry_no_gradient() -> None:
    models = random_models(DIFFUSION, 0)
    for network in (models.clip, diffusion(models).unet, diffusion(models).vae):
        assert not network.training
        assert not any(parameter.requires_grad for parameter in network.parameters())
        assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


def frames() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    small = [torch.randint(0, 256, (4, 4, 3), dtype=torch.uint8, generator=generator) for _ in range(2)]
    return [picture.repeat_interleave(32, 0).repeat_interleave(32, 1) for picture in small]


def params(*layers: str) -> NerveParams:
    return NerveParams(
        size_hw=(128, 128), layers=layers, pooled_hw=(4, 4), template_set="single", clip_size_hw=(64, 64)
    )


@pytest.mark.parametrize(
    ("backbones", "layers"),
    [
        (DIFFUSION, ("up_blocks.3.attentions.0", "up_blocks.3.attentions.1")),
        (DINOV2, ("encoder.layer.1", "encoder.layer.2")),
    ],
)
def test_queries_and_keys_neither_vanish_nor_explode_and_follow_tokens_and_frames(
    backbones: Backbones, layers: tuple[str, ...]
) -> None:
    models = random_models(backbones, 0)
    (_, heads), (_, others) = (observe_affinity(models, frame, params(*layers)) for frame in frames())
    for layer, other in zip(heads, others, strict=True):
        for found, elsewhere in ((layer.q, other.q), (layer.k, other.k)):
            assert 0.3 < found.std() < 3
            assert found.std(dim=1).mean() > 0.3
            assert (found - elsewhere).std() > 0.2


def test_a_random_latent_has_about_the_deviation_of_a_true_one() -> None:
    latent, _ = observe_affinity(random_models(DIFFUSION, 0), frames()[0], params("up_blocks.3.attentions.0"))
    assert latent is not None
    assert 0.25 < latent.std() < 2


def test_the_method_runs_on_random_networks() -> None:
    models = random_models(DIFFUSION, 0)
    bank = text_bank(models.clip, models.tokenizer, parse_classes("grass; sky"), ("{}",))
    result = segment(models, frames()[0], bank, params("up_blocks.2.attentions.0", "up_blocks.3.attentions.1"))
    torch.testing.assert_close(result.P.sum(0), torch.ones_like(result.P[0]), atol=1e-5, rtol=0)
    assert diffusion(models).context.shape == (1, 77, 32)


def test_the_tiny_architecture_takes_its_own_tokenizer_and_length() -> None:
    models = random_models(Backbones("tiny", "tiny", "taesd"), 0)
    assert len(models.tokenizer.encode("a grass").ids) == 40
    assert diffusion(models).context.shape == (1, 4, 8)
    assert type(diffusion(models).vae).__name__ == "AutoencoderTiny"
    assert isinstance(random_models(DINOV2, 0).provider, Dino)


def test_positions_are_numbered_as_in_a_network_made_the_usual_way(clip: CLIPModel) -> None:
    drawn = random_weights._random(lambda: CLIPModel(clip.config), 0, "clip")
    buffers = dict(clip.named_buffers())
    assert any(name.endswith("position_ids") for name in buffers)
    for name, buffer in drawn.named_buffers():
        assert torch.equal(buffer, buffers[name])


def test_a_buffer_of_unknown_content_is_refused() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.zeros(2))

    with pytest.raises(ValueError, match="buffer 'table' of a network has no known content; add it to _restore"):
        random_weights._random(Odd, 0, "odd")


@pytest.mark.slow
def test_true_sized_clip_and_dinov2_keep_the_scale_too() -> None:
    frame = frames()[0].repeat(4, 4, 1)
    models = random_models(Backbones("clip-vit-base-patch16", "dinov2-base"), 0)
    _, heads = observe_affinity(models, frame, presets()["dinov2"].params)
    assert all(0.5 < layer.q.std(dim=1).mean() < 2 for layer in heads)
    hidden = models.clip.vision_model(torch.randn(1, 3, 224, 224)).last_hidden_state
    assert 1 < hidden.std() < 20


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return synthetic_tokenizer()


@pytest.fixture(scope="module")
def runtime_tokenizer(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> PromptTokenizer:
    path = tmp_path_factory.mktemp("synthetic") / "tokenizer.json"
    tokenizer.save(str(path))
    return PromptTokenizer(path, vocabulary())


def vocabulary() -> Vocabulary:
    return Vocabulary(
        tokenizer="tokenizer.json",
        context_length=77,
        end_token="<|endoftext|>",
        unknown_token=None,
        template_sets={"single": ["{}"]},
        default_template_set="single",
    )


def test_the_synthetic_tokenizer_has_clips_ends_and_length(tokenizer: Tokenizer) -> None:
    assert tokenizer.get_vocab_size() == 49408
    ids = tokenizer.encode("Bus").ids
    assert (len(ids), ids[0], set(ids[4:])) == (77, 49406, {49407})
    assert ids == tokenizer.encode("bus").ids != tokenizer.encode("cat").ids
    assert tokenizer.decode(ids) == "bus"


@given(text=st.text(max_size=100))
def test_any_text_has_ids_that_a_text_tower_can_read(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text).ids
    assert len(ids) == 77
    assert ids[0] == 49406
    assert 49407 in ids
    assert max(ids) < 49408


def test_the_runtime_reads_the_synthetic_tokenizer_and_gives_the_same_ids(
    tokenizer: Tokenizer, runtime_tokenizer: PromptTokenizer
) -> None:
    prompts = ["a photo of a ladybug.", "Größe 漢字 🐞", ""]
    assert runtime_tokenizer.encode(prompts).tolist() == [tokenizer.encode(prompt).ids for prompt in prompts]
    with pytest.raises(UsageError, match="holds the special token"):
        runtime_tokenizer.encode(["a <|endoftext|> b"])


def test_a_given_tokenizer_takes_the_place_of_the_synthetic_one(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    backbones = Backbones("clip-vit-base-patch16", "dinov2-base")
    given_file = random_models(backbones, 0, tmp_path / "tokenizer.json").tokenizer
    given_folder = random_models(backbones, 0, tmp_path).tokenizer
    assert given_file.to_str() == given_folder.to_str() == random_models(backbones, 0).tokenizer.to_str()
