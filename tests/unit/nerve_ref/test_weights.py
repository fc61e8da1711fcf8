"""Loading from folders in the hub's layout, the packaged models, and refusals."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny, DDPMScheduler, PNDMScheduler
from tokenizers import Tokenizer
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from nerve_ref import weights
from nerve_ref.params import TINY
from nerve_ref.pipeline import segment
from nerve_ref.templates import TEMPLATE_SETS
from nerve_ref.text import parse_classes, text_bank
from nerve_ref.weights import Models, load_models, prepared_tokenizer, tiny_models


@pytest.fixture(scope="module")
def folders(models: Models, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The random models saved as the hub lays them out, with a text encoder and another sampler's scheduler."""
    root = tmp_path_factory.mktemp("hub")
    models.clip.save_pretrained(root / "clip")
    models.tokenizer.save(str(root / "clip" / "tokenizer.json"))
    models.vae.save_pretrained(root / "sd" / "vae")
    models.unet.save_pretrained(root / "sd" / "unet")
    PNDMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012).save_pretrained(
        root / "sd" / "scheduler"
    )
    torch.manual_seed(4)
    config = CLIPTextConfig(
        hidden_size=8,
        intermediate_size=8,
        num_attention_heads=2,
        num_hidden_layers=1,
        vocab_size=6,
        max_position_embeddings=5,
        bos_token_id=0,
        eos_token_id=1,
    )
    CLIPTextModel(config).save_pretrained(root / "sd" / "text_encoder")
    tokenizer = root / "sd" / "tokenizer"
    tokenizer.mkdir()
    words = {"<|startoftext|>": 0, "<|endoftext|>": 1, "!": 2, "a</w>": 3, "a": 4, "!</w>": 5}
    (tokenizer / "vocab.json").write_text(json.dumps(words))
    (tokenizer / "merges.txt").write_text("#version: 0.2\n")
    (tokenizer / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "pad_token": "!", "model_max_length": 5})
    )
    return root / "clip", root / "sd"


def test_folders_give_back_the_models_that_were_saved(folders: tuple[Path, Path], models: Models) -> None:
    loaded = load_models(*folders, context_tokens=4)
    for name in ("clip", "vae", "unet"):
        before, after = getattr(models, name).state_dict(), getattr(loaded, name).state_dict()
        assert all(torch.equal(before[key], after[key]) for key in before)
        assert not getattr(loaded, name).training
        assert not any(parameter.requires_grad for parameter in getattr(loaded, name).parameters())
    torch.testing.assert_close(loaded.alphas_cumprod, models.alphas_cumprod)
    assert loaded.context.shape == (1, 4, 8)
    assert [source.role for source in loaded.sources] == ["clip", "vae", "unet"]


def test_a_pipeline_with_a_text_encoder_embeds_the_empty_prompt_padded_its_own_way(
    folders: tuple[Path, Path],
) -> None:
    loaded = load_models(*folders)
    encoder = CLIPTextModel.from_pretrained(folders[1] / "text_encoder").eval()
    with torch.no_grad():
        expected = encoder(torch.tensor([[0, 1, 2, 2, 2]])).last_hidden_state
    torch.testing.assert_close(loaded.context, expected)
    assert loaded.sources[-1].role == "text_encoder"


def test_half_precision_weights_are_loaded_as_float32(
    folders: tuple[Path, Path], models: Models, tmp_path: Path
) -> None:
    models.unet.half().save_pretrained(tmp_path / "unet")
    models.unet.float()
    loaded = load_models(*folders, unet_path=tmp_path / "unet", context_tokens=4)
    assert {parameter.dtype for parameter in loaded.unet.parameters()} == {torch.float32}


def test_the_tiny_autoencoder_may_take_the_place_of_the_full_one(folders: tuple[Path, Path], tmp_path: Path) -> None:
    small = AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    )
    small.save_pretrained(tmp_path)
    assert isinstance(load_models(*folders, vae_path=tmp_path, context_tokens=4).vae, AutoencoderTiny)


def test_a_source_knows_the_hashes_of_its_files(folders: tuple[Path, Path]) -> None:
    source = load_models(*folders, context_tokens=4).sources[1]
    hashes = source.sha256()
    content = (folders[1] / "vae" / "config.json").read_bytes()
    assert set(hashes) == {"config.json", "diffusion_pytorch_model.safetensors"}
    assert hashes["config.json"] == hashlib.sha256(content).hexdigest()


def test_a_missing_folder_is_refused_naming_it(folders: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no clip at .*nowhere: expected a local folder .* not downloaded here"):
        load_models(tmp_path / "nowhere", folders[1])


def test_weights_that_could_run_code_are_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "diffusion_pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"holds no \*\.safetensors"):
        load_models(*folders, unet_path=tmp_path, context_tokens=4)


def test_making_a_tokenizer_ready_twice_changes_nothing(folders: tuple[Path, Path], tmp_path: Path) -> None:
    once = prepared_tokenizer(folders[0], 7)
    once.save(str(tmp_path / "tokenizer.json"))
    twice = prepared_tokenizer(tmp_path, 7)
    assert once.to_str() == twice.to_str()
    assert once.encode("a photo").ids == [0, 3, 4, 1, 1, 1, 1]
    assert once.encode("grass " * 20).ids[-1] == 1


def test_a_checkout_without_the_tiny_models_says_how_to_make_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "TINY_FOLDER", tmp_path)
    with pytest.raises(ValueError, match=r"make them: python benchmarks/run\.py train-tiny"):
        tiny_models()


@pytest.mark.skipif(
    not (weights.TINY_FOLDER / "unet" / "config.json").is_file(), reason="the packaged tiny models are missing"
)
def test_the_packaged_models_segment_a_frame(frame: Tensor) -> None:
    models = tiny_models()
    assert isinstance(models.tokenizer, Tokenizer)
    bank = text_bank(models.clip, models.tokenizer, parse_classes("grass; sky; ladybug"), TEMPLATE_SETS["single"])
    large = frame.repeat_interleave(2, 0).repeat_interleave(2, 1)
    result = segment(models, large, bank, TINY)
    torch.testing.assert_close(result.P.sum(0), torch.ones_like(result.P[0]), atol=1e-5, rtol=0)
    schedule = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012).alphas_cumprod
    torch.testing.assert_close(models.alphas_cumprod, schedule)
