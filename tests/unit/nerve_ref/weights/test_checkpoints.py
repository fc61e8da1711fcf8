"""Single safetensors files, in today's names and in those of the original checkpoints, and files that are no good."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPModel, CLIPTextConfig, CLIPTextModel, Dinov2Config, Dinov2Model

from nerve_ref.weights.checkpoints import read_autoencoder, read_clip, read_dino, read_text_encoder, read_unet
from tests.unit.nerve_ref.ldm_names import (
    Tensors,
    original_autoencoder,
    original_open_clip,
    original_text_encoder,
    original_unet,
)

UNET: dict[str, Any] = {
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "block_out_channels": [8, 16, 16],
    "layers_per_block": 2,
    "cross_attention_dim": 8,
    "attention_head_dim": [1, 2, 2],
    "norm_num_groups": 4,
}
VAE: dict[str, Any] = {
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "block_out_channels": [8, 8, 16],
    "layers_per_block": 2,
    "norm_num_groups": 4,
}
TAESD: dict[str, Any] = {
    "encoder_block_out_channels": [8, 8],
    "decoder_block_out_channels": [8, 8],
    "num_encoder_blocks": [1, 1],
    "num_decoder_blocks": [1, 1],
}
TEXT: dict[str, Any] = {
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 10,
    "max_position_embeddings": 5,
    "bos_token_id": 8,
    "eos_token_id": 9,
}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def saved(tensors: Tensors, path: Path, dtype: torch.dtype = torch.float32) -> Path:
    save_file({name: tensor.detach().to(dtype).contiguous() for name, tensor in tensors.items()}, path)
    return path


def assert_same(found: nn.Module, expected: nn.Module, dtype: torch.dtype = torch.float32) -> None:
    kept = found.state_dict()
    assert list(kept) == list(expected.state_dict())
    for name, tensor in expected.state_dict().items():
        assert kept[name].dtype == torch.float32
        assert torch.equal(kept[name], tensor.to(dtype).float()), name
    assert not any(buffer.is_meta for buffer in found.buffers())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_unet_is_read_from_a_file_in_either_naming(tmp_path: Path, dtype: torch.dtype) -> None:
    unet = UNet2DConditionModel.from_config(UNET)
    original = original_unet(unet.state_dict(), layers_per_block=2, with_attention=(False, True, True))
    assert_same(read_unet(saved(unet.state_dict(), tmp_path / "new.safetensors", dtype), UNET), unet, dtype)
    assert_same(read_unet(saved(original, tmp_path / "old.safetensors", dtype), UNET), unet, dtype)


@pytest.mark.parametrize("linear", [True, False])
def test_both_ways_to_project_into_attention_are_read(tmp_path: Path, linear: bool) -> None:
    config = {**UNET, "use_linear_projection": linear}
    unet = UNet2DConditionModel.from_config(config)
    original = original_unet(unet.state_dict(), layers_per_block=2, with_attention=(False, True, True))
    assert_same(read_unet(saved(original, tmp_path / "old.safetensors"), config), unet)


def test_an_autoencoder_is_read_from_a_file_in_any_naming(tmp_path: Path) -> None:
    vae = AutoencoderKL.from_config(VAE)
    tensors = vae.state_dict()
    original = original_autoencoder(tensors, levels=3)
    bare = {name.removeprefix("first_stage_model."): tensor for name, tensor in original.items()}
    earlier = {
        name.replace(".to_q.", ".query.")
        .replace(".to_k.", ".key.")
        .replace(".to_v.", ".value.")
        .replace(".to_out.0.", ".proj_attn."): tensor
        for name, tensor in tensors.items()
    }
    assert set(earlier) != set(tensors)
    for number, named in enumerate((tensors, earlier, original, bare)):
        path = saved(named, tmp_path / f"{number}.safetensors")
        assert_same(read_autoencoder(path, VAE, TAESD), vae)


def test_a_tiny_autoencoder_is_known_by_its_names(tmp_path: Path) -> None:
    tiny = AutoencoderTiny.from_config(TAESD)
    assert_same(read_autoencoder(saved(tiny.state_dict(), tmp_path / "t.safetensors"), VAE, TAESD), tiny)


def test_a_text_encoder_is_read_from_a_file_in_any_naming(tmp_path: Path) -> None:
    encoder = CLIPTextModel(CLIPTextConfig(**TEXT)).eval()
    encoder.save_pretrained(tmp_path / "folder")
    tensors = encoder.state_dict()
    assert_same(read_text_encoder(tmp_path / "folder", TEXT), encoder)
    for number, named in enumerate((tensors, original_text_encoder(tensors), original_open_clip(tensors, 2))):
        found = read_text_encoder(saved(named, tmp_path / f"{number}.safetensors"), TEXT).eval()
        assert_same(found, encoder)
        ids = torch.tensor([[8, 9, 0, 0, 0]])
        with torch.no_grad():
            torch.testing.assert_close(found(ids).last_hidden_state, encoder(ids).last_hidden_state)


def test_one_checkpoint_serves_all_of_its_roles(tmp_path: Path) -> None:
    unet, vae = UNet2DConditionModel.from_config(UNET), AutoencoderKL.from_config(VAE)
    encoder = CLIPTextModel(CLIPTextConfig(**TEXT))
    whole = {
        **original_unet(unet.state_dict(), layers_per_block=2, with_attention=(False, True, True)),
        **original_autoencoder(vae.state_dict(), levels=3),
        **original_open_clip(encoder.state_dict(), 2),
        "alphas_cumprod": torch.zeros(3),
    }
    path = saved(whole, tmp_path / "sd.safetensors")
    assert_same(read_unet(path, UNET), unet)
    assert_same(read_autoencoder(path, VAE, TAESD), vae)
    assert_same(read_text_encoder(path, TEXT), encoder)


def test_clip_and_dinov2_are_read_from_single_files(tmp_path: Path, clip: CLIPModel) -> None:
    config = clip.config.to_dict()
    assert_same(read_clip(saved(clip.state_dict(), tmp_path / "clip.safetensors"), config), clip)
    dinov2_config = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28}
    dinov2 = Dinov2Model(Dinov2Config(**dinov2_config))
    path = saved(dinov2.state_dict(), tmp_path / "dinov2.safetensors")
    assert_same(read_dino(path, dinov2_config), dinov2)


def without(tensors: Tensors, name: str) -> Tensors:
    assert name in tensors
    return {key: tensor for key, tensor in tensors.items() if key != name}


def test_a_weight_that_is_missing_is_named_and_never_left_at_random(tmp_path: Path, clip: CLIPModel) -> None:
    unet = UNet2DConditionModel.from_config(UNET)
    single = saved(without(unet.state_dict(), "conv_in.weight"), tmp_path / "unet.safetensors")
    with pytest.raises(
        ValueError, match=r"lacks 1 weights of a UNet2DConditionModel, such as conv_in\.weight; it is an"
    ):
        read_unet(single, UNET)
    unet.save_pretrained(tmp_path / "unet")
    saved(without(unet.state_dict(), "conv_in.weight"), tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(ValueError, match=r"unet lacks 1 weights of a UNet2DConditionModel, such as conv_in\.weight"):
        read_unet(tmp_path / "unet", UNET)
    single = saved(without(clip.state_dict(), "visual_projection.weight"), tmp_path / "clip.safetensors")
    with pytest.raises(ValueError, match=r"lacks 1 weights of a CLIPModel, such as visual_projection\.weight"):
        read_clip(single, clip.config.to_dict())


def test_a_network_of_another_shape_is_refused(tmp_path: Path, clip: CLIPModel) -> None:
    unet = UNet2DConditionModel.from_config({**UNET, "cross_attention_dim": 4})
    path = saved(unet.state_dict(), tmp_path / "unet.safetensors")
    with pytest.raises(ValueError, match=r"unet\.safetensors does not hold the expected network: .*size mismatch"):
        read_unet(path, UNET)
    config = {**clip.config.to_dict(), "projection_dim": 3}
    path = saved(clip.state_dict(), tmp_path / "clip.safetensors")
    with pytest.raises(ValueError, match=r"clip\.safetensors does not hold the expected network: .*mismatch"):
        read_clip(path, config)


def test_a_truncated_file_is_refused_naming_it(tmp_path: Path) -> None:
    path = saved(AutoencoderTiny.from_config(TAESD).state_dict(), tmp_path / "vae.safetensors")
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ValueError, match=r"vae\.safetensors does not hold the expected network: .*; give another path"):
        read_autoencoder(path, VAE, TAESD)


def test_a_folder_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"_class_name": "VQModel"}')
    with pytest.raises(ValueError, match="holds a VQModel, expected one of AutoencoderKL, AutoencoderTiny"):
        read_autoencoder(tmp_path, VAE, TAESD)
