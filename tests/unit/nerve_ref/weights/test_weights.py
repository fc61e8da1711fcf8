"""Opening networks: lazily, from folders in the hub's layout, the packaged models, and refusals."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderTiny, DDPMScheduler, PNDMScheduler
from tokenizers import Tokenizer
from torch import Tensor
from transformers import CLIPModel, CLIPTextConfig, CLIPTextModel, Dinov2Config, Dinov2Model

from nerve_export.presets.files import presets
from nerve_ref.pipeline import segment
from nerve_ref.providers.provider import Dino, StableDiffusion
from nerve_ref.templates import TEMPLATE_SETS
from nerve_ref.text import parse_classes, text_bank
from nerve_ref.weights import architectures
from nerve_ref.weights.architectures import TINY_FOLDER, Backbones
from nerve_ref.weights.configs.published import CONFIGS, SCHEDULE
from nerve_ref.weights.networks import Models, open_models, prepared_tokenizer, tiny_models

SMALL = Backbones("small-clip", "small-diffusion")
TEXT = {
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "vocab_size": 6,
    "max_position_embeddings": 5,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
DINOV2 = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
Files = Mapping[str, Path]


@pytest.fixture(autouse=True)
def small_networks(models: Models, provider: StableDiffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    """The random networks of these tests as architectures that a plan could name."""
    diffusion = {
        "unet": dict(provider.unet.config),
        "vae": dict(provider.vae.config),
        "scheduler": SCHEDULE,
        "text_encoder": TEXT,
        "empty_prompt": {"start": 0, "end": 1, "pad": 2},
    }
    monkeypatch.setitem(CONFIGS, "small-clip", {"clip": models.clip.config.to_dict()})
    monkeypatch.setitem(CONFIGS, "small-diffusion", diffusion)
    monkeypatch.setitem(CONFIGS, "small-dinov2", {"dinov2": DINOV2})


@pytest.fixture(scope="module")
def files(models: Models, provider: StableDiffusion, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The random models saved as the hub lays them out, with a text encoder and another sampler's scheduler."""
    root = tmp_path_factory.mktemp("hub")
    models.clip.save_pretrained(root / "clip")
    models.tokenizer.save(str(root / "clip" / "tokenizer.json"))
    provider.vae.save_pretrained(root / "vae")
    provider.unet.save_pretrained(root / "unet")
    PNDMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012).save_pretrained(root / "scheduler")
    torch.manual_seed(4)
    CLIPTextModel(CLIPTextConfig(**TEXT)).save_pretrained(root / "text_encoder")
    return {role: root / role for role in ("clip", "vae", "unet", "scheduler", "text_encoder")}


def diffusion(opened: Models) -> StableDiffusion:
    assert isinstance(opened.provider, StableDiffusion)
    return opened.provider


def test_folders_give_back_the_models_that_were_saved(files: Files, models: Models, provider: StableDiffusion) -> None:
    loaded = open_models(SMALL, files, context_tokens=4)
    opened = diffusion(loaded)
    for before, after in ((models.clip, loaded.clip), (provider.vae, opened.vae), (provider.unet, opened.unet)):
        kept = after.state_dict()
        assert all(torch.equal(tensor, kept[name]) for name, tensor in before.state_dict().items())
        assert not after.training
        assert not any(parameter.requires_grad for parameter in after.parameters())
    torch.testing.assert_close(opened.alphas_cumprod, provider.alphas_cumprod)
    assert torch.equal(opened.context, torch.zeros(1, 4, 8))
    assert [source.role for source in loaded.sources] == ["clip", "vae", "unet"]
    assert loaded.random_seed is None


def test_a_schedule_that_is_not_given_is_the_usual_one(files: Files, provider: StableDiffusion) -> None:
    without = {role: path for role, path in files.items() if role != "scheduler"}
    opened = diffusion(open_models(SMALL, without, context_tokens=4))
    torch.testing.assert_close(opened.alphas_cumprod, provider.alphas_cumprod)


def test_each_network_is_opened_once_and_only_when_it_is_asked_for(clip: CLIPModel, tokenizer: Tokenizer) -> None:
    opened: list[str] = []

    def opener(name: str, network: Any) -> Any:
        def open_network() -> Any:
            opened.append(name)
            return network

        return open_network

    provider = Dino(Dinov2Model(Dinov2Config(**DINOV2)))
    lazy = Models(opener("clip", clip), opener("tokenizer", tokenizer), opener("provider", provider))
    assert opened == []
    assert lazy.provider is lazy.provider is provider
    assert opened == ["provider"]
    assert not provider.model.training
    assert (lazy.clip, lazy.tokenizer) == (clip, tokenizer)
    assert opened == ["provider", "clip", "tokenizer"]


def test_the_empty_prompt_is_embedded_by_the_pipelines_own_text_encoder(files: Files) -> None:
    loaded = open_models(SMALL, files)
    encoder = CLIPTextModel.from_pretrained(files["text_encoder"]).eval()
    with torch.no_grad():
        expected = encoder(torch.tensor([[0, 1, 2, 2, 2]])).last_hidden_state
    torch.testing.assert_close(diffusion(loaded).context, expected)
    assert loaded.sources[-1].role == "text_encoder"


def test_dinov2_is_opened_behind_the_same_interface(files: Files, tmp_path: Path) -> None:
    saved = Dinov2Model(Dinov2Config(**DINOV2))
    saved.half().save_pretrained(tmp_path)
    loaded = open_models(Backbones("small-clip", "small-dinov2"), {"clip": files["clip"], "dinov2": tmp_path})
    assert isinstance(loaded.provider, Dino)
    opened = loaded.provider.model.state_dict()
    assert all(torch.equal(opened[name], tensor.float()) for name, tensor in saved.state_dict().items())
    assert [source.role for source in loaded.sources] == ["clip", "dinov2"]


def test_the_tiny_autoencoder_may_take_the_place_of_the_full_one(files: Files, tmp_path: Path) -> None:
    small = AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    )
    small.save_pretrained(tmp_path)
    loaded = open_models(SMALL, {**files, "vae": tmp_path}, context_tokens=4)
    assert isinstance(diffusion(loaded).vae, AutoencoderTiny)


def test_a_source_knows_the_hashes_of_its_files(files: Files) -> None:
    source = open_models(SMALL, files, context_tokens=4).sources[1]
    content = (files["vae"] / "config.json").read_bytes()
    assert set(source.sha256()) == {"config.json", "diffusion_pytorch_model.safetensors"}
    assert source.sha256()["config.json"] == hashlib.sha256(content).hexdigest()


def test_what_is_missing_is_refused_at_once_naming_it(files: Files, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no clip at .*nowhere: there is no such file or folder; give a local folder"):
        open_models(SMALL, {**files, "clip": tmp_path / "nowhere"})
    with pytest.raises(ValueError, match=r"no weights for text_encoder were given, only for: clip, vae, unet"):
        open_models(SMALL, {role: path for role, path in files.items() if role != "text_encoder"})
    with pytest.raises(ValueError, match=r"no noise schedule at .*scheduler_config\.json"):
        diffusion(open_models(SMALL, {**files, "scheduler": tmp_path}, context_tokens=4))


def test_weights_that_could_run_code_are_refused(files: Files, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DConditionModel"}')
    (tmp_path / "model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"holds the unet only as model\.bin, which is refused: .* can run code"):
        open_models(SMALL, {**files, "unet": tmp_path})
    with pytest.raises(ValueError, match=r"model\.bin is refused: a \.bin file can run code"):
        open_models(SMALL, {**files, "unet": tmp_path / "model.bin"})


def test_another_network_than_the_plan_names_is_refused(files: Files, provider: StableDiffusion) -> None:
    with pytest.raises(
        ValueError, match=r"clip is no text_config of clip-vit-base-patch16: hidden_size is 16, expected"
    ):
        assert open_models(Backbones("clip-vit-base-patch16", "small-diffusion"), files).clip
    with pytest.raises(
        ValueError,
        match=r"unet is no unet of stable-diffusion-v1-5: block_out_channels is .*8, 16, 16.*; give its weights",
    ):
        diffusion(open_models(Backbones("small-clip", "stable-diffusion-v1-5"), files))


def test_a_number_of_heads_for_all_levels_is_the_same_as_one_per_level(files: Files, tmp_path: Path) -> None:
    config = json.loads((files["unet"] / "config.json").read_text())
    alike = {**config, "attention_head_dim": 2}
    per_level = {**config, "attention_head_dim": [2, 2, 2]}
    CONFIGS["small-diffusion"]["unet"] = per_level
    name = "diffusion_pytorch_model.safetensors"
    (tmp_path / name).write_bytes((files["unet"] / name).read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(alike))
    opened = diffusion(open_models(SMALL, {**files, "unet": tmp_path}, context_tokens=4))
    assert opened.unet.config.attention_head_dim == 2


def test_making_a_tokenizer_ready_twice_changes_nothing(files: Files, tmp_path: Path) -> None:
    once = prepared_tokenizer(files["clip"], 7)
    once.save(str(tmp_path / "tokenizer.json"))
    twice = prepared_tokenizer(tmp_path / "tokenizer.json", 7)
    assert once.to_str() == twice.to_str()
    assert once.encode("a photo").ids == [0, 3, 4, 1, 1, 1, 1]
    assert once.encode("grass " * 20).ids[-1] == 1


def test_a_missing_tokenizer_is_refused(files: Files) -> None:
    with pytest.raises(ValueError, match=r"no tokenizer\.json at .*vae; save one"):
        open_models(SMALL, {**files, "tokenizer": files["vae"]}).tokenizer.encode("")


def test_a_checkout_without_the_tiny_models_says_how_to_make_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(architectures, "TINY_FOLDER", tmp_path)
    with pytest.raises(ValueError, match=r"make them: nerve-bench train-tiny"):
        tiny_models()


@pytest.mark.skipif(not (TINY_FOLDER / "unet" / "config.json").is_file(), reason="the packaged tiny models are missing")
def test_the_packaged_models_segment_a_frame(frame: Tensor) -> None:
    models = tiny_models()
    assert isinstance(models.tokenizer, Tokenizer)
    bank = text_bank(models.clip, models.tokenizer, parse_classes("grass; sky; ladybug"), TEMPLATE_SETS["single"])
    large = frame.repeat_interleave(2, 0).repeat_interleave(2, 1)
    result = segment(models, large, bank, presets()["tiny"].params)
    torch.testing.assert_close(result.P.sum(0), torch.ones_like(result.P[0]), atol=1e-5, rtol=0)
    schedule = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012).alphas_cumprod
    torch.testing.assert_close(diffusion(models).alphas_cumprod, schedule)
