"""Real weights, rehearsed: the files of the hub's repositories with narrower layers, and what is known of the true ones."""

import hashlib
from pathlib import Path

import pytest
import torch
from transformers import CLIPConfig, CLIPModel

from nerve_ref.weights.configs.published import CONFIGS as PUBLISHED
from nerve_ref.weights.lock import PACKAGED_LOCK, FilePin, read_lock
from tests.data.hub_server import serving
from tests.data.published_files import CLIP, CONFIGS, SD, TAESD, Tensor, config_text, is_padded, shrunken, tensors
from tests.data.random_checkpoints import RandomSafetensors
from tests.rehearsal import rehearse

WEIGHTS = [
    (SD, "unet/diffusion_pytorch_model.safetensors"),
    (SD, "text_encoder/model.safetensors"),
    (SD, "vae/diffusion_pytorch_model.safetensors"),
    (TAESD, "diffusion_pytorch_model.safetensors"),
    (CLIP, "pytorch_model.bin"),
]


def _pin(network: str, path: str) -> FilePin:
    return read_lock(PACKAGED_LOCK)[network].mirrors[0].files[path]


@pytest.mark.parametrize(("network", "path"), [(network, path) for network in (CLIP, SD) for path in CONFIGS[network]])
def test_a_configuration_is_the_published_one_to_the_byte(network: str, path: str) -> None:
    assert hashlib.sha256(config_text(CONFIGS[network][path])).hexdigest() == _pin(network, path).sha256


@pytest.mark.parametrize(("network", "path"), WEIGHTS[:-1])
def test_names_shapes_and_types_make_a_file_of_the_published_size(network: str, path: str) -> None:
    assert RandomSafetensors(tensors(CONFIGS, network, path), is_padded(path)).size == _pin(network, path).bytes


def test_names_as_in_the_pickled_clip_make_a_safetensors_clip_of_the_published_size() -> None:
    """The pickle itself has no size that names make; the larger CLIP was published by the same people both ways."""
    name = "clip-vit-large-patch14"
    with torch.device("meta"):
        state = CLIPModel(CLIPConfig(**PUBLISHED[name]["clip"])).state_dict()
    ids = {"text_model.embeddings.position_ids": 77, "vision_model.embeddings.position_ids": 257}
    held = [Tensor(key, "I64", (1, length)) for key, length in ids.items()]
    held += [Tensor(key, "F32", tuple(tensor.shape)) for key, tensor in sorted(state.items())]
    assert {tensor.name for tensor in tensors(CONFIGS, CLIP, "pytorch_model.bin")} < {tensor.name for tensor in held}
    assert RandomSafetensors(held, padded=False).size == _pin(name, "model.safetensors").bytes


@pytest.mark.parametrize(("network", "path"), WEIGHTS)
def test_narrower_layers_have_the_names_of_the_true_ones(network: str, path: str) -> None:
    narrow, true = (tensors(configs, network, path) for configs in (shrunken(), CONFIGS))
    assert [(tensor.name, tensor.dtype) for tensor in narrow] == [(tensor.name, tensor.dtype) for tensor in true]


@pytest.mark.presets
@pytest.mark.onnx
def test_edge_is_built_from_the_hub_through_every_fault(tmp_path: Path) -> None:
    with serving() as hub:
        rehearse(hub, tmp_path / "rehearsal", shrunken())
