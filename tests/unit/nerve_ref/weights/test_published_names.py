"""Files in the names that publishers wrote them under: every tensor lands where it belongs, and no other file is read.

The names are those that transformers 4.31 to 4.57 and diffusers 0.6 write, noted by hand here. That files of the hub have
them is what their sizes say (tests/parity/test_rehearsal.py).
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel

from nerve_ref.weights.builders import DINO_CLASSES
from nerve_ref.weights.checkpoints import read_autoencoder, read_clip, read_dino, read_text_encoder, read_unet
from tests.unit.nerve_ref.ldm_names import Tensors
from tests.unit.nerve_ref.weights.test_checkpoints import TAESD, TEXT, UNET, VAE

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 16}
DINOS: dict[str, dict[str, Any]] = {
    "dinov2": {"model_type": "dinov2", **SIZES},
    "dinov2 with gates": {"model_type": "dinov2", "use_swiglu_ffn": True, **SIZES},
    "dinov2 with registers": {"model_type": "dinov2_with_registers", **SIZES},
    "dinov3": {"model_type": "dinov3_vit", "intermediate_size": 32, **SIZES},
    "radio": {"model_type": "radio", "max_img_size": 32, **SIZES},
}
CLIP: dict[str, Any] = {
    "projection_dim": 8,
    "text_config": TEXT,
    "vision_config": {**SIZES, "intermediate_size": 24},
}
DINOV2_NAMES = {
    ".attention.q_proj.": ".attention.attention.query.",
    ".attention.k_proj.": ".attention.attention.key.",
    ".attention.v_proj.": ".attention.attention.value.",
    ".attention.o_proj.": ".attention.output.dense.",
    ".mlp.down_proj.": ".mlp.weights_out.",
}
RADIO_NAMES = {
    "embeddings.patch_projection.": "radio_model.model.patch_generator.embedder.",
    "embeddings.position_embedding": "radio_model.model.patch_generator.pos_embed",
    "embeddings.cls_register_token": "radio_model.model.patch_generator.cls_token.token",
    "encoder.layer.": "radio_model.model.blocks.",
    ".attention.o_proj.": ".attn.proj.",
    "input_conditioner.": "radio_model.input_conditioner.",
    "summary_idxs": "radio_model.summary_idxs",
}
AUTOENCODER_NAMES = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
Read = Callable[[Path, dict[str, Any]], nn.Module]


def distinct(network: nn.Module) -> nn.Module:
    """Random weights, no two alike, so that none can stand in another's place unseen."""
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, generator=generator)
    return network


def renamed(tensors: Mapping[str, torch.Tensor], names: Mapping[str, str]) -> Tensors:
    changed = {}
    for name, tensor in tensors.items():
        for today, published in names.items():
            name = name.replace(today, published)
        changed[name] = tensor
    return changed


def joined(tensors: Tensors, parts: tuple[str, ...], whole: str) -> Tensors:
    """Tensors of which those that are named by `parts` are one, below each other."""
    kept = {name: tensor for name, tensor in tensors.items() if not any(part in name for part in parts)}
    for name in tensors:
        if parts[0] in name:
            kept[name.replace(parts[0], whole)] = torch.cat([tensors[name.replace(parts[0], part)] for part in parts])
    return kept


def published_dino(kind: str, network: nn.Module) -> Tensors:
    tensors = dict(network.state_dict())
    if kind == "radio":
        unscaled = {name: tensor for name, tensor in tensors.items() if not name.endswith(".lambda1")}
        in_one = joined(unscaled, (".attention.q_proj.", ".attention.k_proj.", ".attention.v_proj."), ".attn.qkv.")
        return renamed(in_one, RADIO_NAMES)
    if kind == "dinov3":
        return {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    return renamed(joined(tensors, (".mlp.gate_proj.", ".mlp.up_proj."), ".mlp.weights_in."), DINOV2_NAMES)


def places(tensors: Tensors, folder: Path, make: Callable[[Path], object]) -> Iterator[Path]:
    """A folder of the hub's layout and a single file with these tensors."""
    make(folder / "network")
    (written,) = (folder / "network").glob("*.safetensors")
    for path, given in ((written, folder / "network"), (folder / "single.safetensors",) * 2):
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, {"format": "pt"})
        yield given


def assert_the_same(found: nn.Module, expected: nn.Module) -> None:
    kept = dict(found.named_parameters()) | dict(found.named_buffers())
    wanted = dict(expected.named_parameters()) | dict(expected.named_buffers())
    assert set(kept) == set(wanted)
    for name, tensor in wanted.items():
        assert torch.equal(kept[name], tensor), name


def new_dino(kind: str) -> Any:
    make_config, make = DINO_CLASSES[DINOS[kind]["model_type"]]
    network = distinct(make(make_config(**DINOS[kind])))
    for name, parameter in network.named_parameters():
        if kind == "radio" and name.endswith(".lambda1"):
            nn.init.ones_(parameter)
    return network


@pytest.mark.parametrize("kind", DINOS)
def test_a_dino_in_its_published_names_is_read_whole(tmp_path: Path, kind: str) -> None:
    network = new_dino(kind)
    published = published_dino(kind, network)
    assert set(published) != set(network.state_dict())
    for path in places(published, tmp_path, network.save_pretrained):
        assert_the_same(read_dino(path, DINOS[kind]), network)


def test_a_clip_with_numbers_of_positions_is_read_whole(tmp_path: Path) -> None:
    clip: Any = distinct(CLIPModel(CLIPConfig(**CLIP)))
    positions = {"text_model.embeddings.position_ids": 5, "vision_model.embeddings.position_ids": 5}
    published = {**clip.state_dict(), **{name: torch.arange(n).view(1, n) for name, n in positions.items()}}
    for path in places(published, tmp_path, clip.save_pretrained):
        assert_the_same(read_clip(path, CLIP), clip)


def test_a_text_encoder_in_its_published_names_is_read_whole(tmp_path: Path) -> None:
    encoder: Any = distinct(CLIPTextModel(CLIPTextConfig(**TEXT)))
    published = {f"text_model.{name}": tensor for name, tensor in encoder.state_dict().items()}
    published["text_model.embeddings.position_ids"] = torch.arange(5).view(1, 5)
    for path in places(published, tmp_path, encoder.save_pretrained):
        assert_the_same(read_text_encoder(path, TEXT), encoder)


def test_an_autoencoder_in_its_published_names_is_read_whole(tmp_path: Path) -> None:
    vae: Any = distinct(AutoencoderKL.from_config(VAE))
    published = renamed(vae.state_dict(), AUTOENCODER_NAMES)
    assert set(published) != set(vae.state_dict())
    for path in places(published, tmp_path, vae.save_pretrained):
        assert_the_same(read_autoencoder(path, VAE, TAESD), vae)


def read_vae(path: Path, config: dict[str, Any]) -> nn.Module:
    return read_autoencoder(path, config, TAESD)


def read_taesd(path: Path, config: dict[str, Any]) -> nn.Module:
    return read_autoencoder(path, VAE, config)


NETWORKS: dict[str, tuple[Callable[[], Any], Read, dict[str, Any]]] = {
    "UNet2DConditionModel": (lambda: UNet2DConditionModel.from_config(UNET), read_unet, UNET),
    "AutoencoderKL": (lambda: AutoencoderKL.from_config(VAE), read_vae, VAE),
    "AutoencoderTiny": (lambda: AutoencoderTiny.from_config(TAESD), read_taesd, TAESD),
    "CLIPModel": (lambda: CLIPModel(CLIPConfig(**CLIP)), read_clip, CLIP),
    "CLIPTextModel": (lambda: CLIPTextModel(CLIPTextConfig(**TEXT)), read_text_encoder, TEXT),
    "Dinov2Model": (lambda: new_dino("dinov2"), read_dino, DINOS["dinov2"]),
    "Dinov2WithRegistersModel": (
        lambda: new_dino("dinov2 with registers"),
        read_dino,
        DINOS["dinov2 with registers"],
    ),
    "DINOv3ViTModel": (lambda: new_dino("dinov3"), read_dino, DINOS["dinov3"]),
    "RadioModel": (lambda: new_dino("radio"), read_dino, DINOS["radio"]),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_weight_that_a_network_has_no_place_for_is_named_and_never_dropped(tmp_path: Path, kind: str) -> None:
    make, read, config = NETWORKS[kind]
    network = make()
    more = {**network.state_dict(), "fresh.9.weight": torch.ones(2)}
    refusal = rf"has 1 weights that a {kind} of this configuration has no place for, such as fresh\.9\.weight; it"
    for path in places(more, tmp_path, network.save_pretrained):
        with pytest.raises(ValueError, match=refusal):
            read(path, config)


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_weight_that_is_missing_ends_every_reader(tmp_path: Path, kind: str) -> None:
    make, read, config = NETWORKS[kind]
    network = make()
    name = [name for name in network.state_dict() if name.endswith(".weight")][-1]
    less = {other: tensor for other, tensor in network.state_dict().items() if other != name}
    for path in places(less, tmp_path, network.save_pretrained):
        with pytest.raises(ValueError, match=rf"lacks 1 weights of a {kind}, such as {name}"):
            read(path, config)


def test_a_dino_with_registers_is_not_read_as_one_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = new_dino("dinov2 with registers")
    save_file(network.state_dict(), tmp_path / "with.safetensors")
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    with pytest.raises(ValueError, match=r"no place for, such as embeddings\.register_tokens; it is another network"):
        read_dino(tmp_path / "with.safetensors", DINOS["dinov2"])
    assert caplog.text == "", "the sentence says all"


def test_a_deeper_clip_is_not_read_as_a_shallower_one(tmp_path: Path) -> None:
    clip = CLIPModel(CLIPConfig(**{**CLIP, "vision_config": {**CLIP["vision_config"], "num_hidden_layers": 3}}))
    save_file(clip.state_dict(), tmp_path / "deep.safetensors")
    with pytest.raises(ValueError, match=r"such as vision_model\.encoder\.layers\.2\."):
        read_clip(tmp_path / "deep.safetensors", CLIP)


def test_scales_under_a_name_that_radio_does_not_know_are_not_taken_for_none(tmp_path: Path) -> None:
    """The library would set them to one without a word."""
    published = published_dino("radio", new_dino("radio"))
    published["radio_model.model.blocks.0.ls1.gamma"] = torch.full((16,), 0.1)
    save_file(published, tmp_path / "radio.safetensors")
    with pytest.raises(ValueError, match=r"has 1 weights that a RadioModel .* such as \S*0\.ls1\.gamma"):
        read_dino(tmp_path / "radio.safetensors", DINOS["radio"])


@pytest.mark.parametrize(
    ("kind", "name", "shape"),
    [
        ("CLIPTextModel", "text_projection.weight", (8, 8)),
        ("CLIPTextModel", "logit_scale", ()),
        ("Dinov2Model", "classifier.weight", (3, 32)),
        ("Dinov2WithRegistersModel", "classifier.bias", (3,)),
        ("RadioModel", "radio_model.model.patch_generator.video_embedder.weight", (16, 1536)),
    ],
)
def test_heads_for_other_purposes_are_left_in_the_file(
    tmp_path: Path, kind: str, name: str, shape: tuple[int, ...]
) -> None:
    make, read, config = NETWORKS[kind]
    network = make()
    for path in places({**network.state_dict(), name: torch.ones(shape)}, tmp_path, network.save_pretrained):
        assert_the_same(read(path, config), network)


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_library_hides_no_missing_weight_but_the_scale_that_radio_has_not(kind: str) -> None:
    """transformers takes such names off its report, so a weight of that name would stay as it began."""
    hidden = getattr(NETWORKS[kind][0](), "_keys_to_ignore_on_load_missing", None) or ()
    assert set(hidden) == ({r"layer_scale\d+\.lambda1"} if kind == "RadioModel" else set())
