"""Real weights, rehearsed: the files of the hub's repositories with narrower layers, and what is known of the true ones."""

import hashlib
from pathlib import Path

import pytest
import torch

from nerve_export.weights.hub import HuggingFaceHub
from nerve_ref.weights.architectures import Backbones, network_config
from nerve_ref.weights.checkpoints import read_text_encoder
from nerve_ref.weights.configs.published import CONFIGS as OURS
from nerve_ref.weights.files import WeightChoice, resolve_weights
from nerve_ref.weights.lock import PACKAGED_LOCK, FilePin, read_lock
from nerve_ref.weights.networks import open_models
from tests.data.hub_server import in_use, serving
from tests.data.published_files import (
    CLIP,
    CLIP_336,
    CONFIGS,
    DINOV2,
    SD,
    SD15,
    TAESD,
    Tensor,
    Writer,
    config_text,
    published_name,
    shrunken,
    tensors,
    writer,
)
from tests.data.published_hub import PICKLE, UNET, publish, roles
from tests.data.random_checkpoints import RandomSafetensors, whole
from tests.rehearsal import build_another, rehearse

PINNED = [
    (network, path, pin)
    for network, entry in read_lock(PACKAGED_LOCK).items()
    for path, pin in entry.mirrors[0].files.items()
]
WEIGHTS = [(network, path) for network, path, _ in PINNED if not path.endswith(".json")]
SAFETENSORS = [(network, path) for network, path in WEIGHTS if path.endswith(".safetensors")]
KNOWN_CONFIGS = [(network, path) for network in (CLIP, SD, SD15, DINOV2) for path in CONFIGS[network]]
TEXT, VAE = "text_encoder/model.safetensors", "vae/diffusion_pytorch_model.safetensors"
PARTS = {
    "edge": (
        Backbones(CLIP, SD, TAESD),
        {"clip": (CLIP, PICKLE), "unet": (SD, UNET), "text_encoder": (SD, TEXT), "vae": (TAESD, UNET.split("/")[1])},
    ),
    "sd15": (
        Backbones(CLIP_336, SD15),
        {"clip": (CLIP_336, PICKLE), "unet": (SD15, UNET), "text_encoder": (SD15, TEXT), "vae": (SD15, VAE)},
    ),
    "dinov2": (
        Backbones(CLIP_336, DINOV2),
        {"clip": (CLIP_336, PICKLE), "model": (DINOV2, "model.safetensors")},
    ),
}
"""By preset the networks, and of each part the network of the lock and the file that holds its weights."""


def _pin(network: str, path: str) -> FilePin:
    return read_lock(PACKAGED_LOCK)[network].mirrors[0].files[path]


@pytest.mark.parametrize(("network", "path"), KNOWN_CONFIGS)
def test_a_configuration_is_the_published_one_to_the_byte(network: str, path: str) -> None:
    assert hashlib.sha256(config_text(CONFIGS[network][path])).hexdigest() == _pin(network, path).sha256


@pytest.mark.parametrize(("network", "path"), SAFETENSORS)
def test_names_shapes_and_types_make_a_file_of_the_published_size(network: str, path: str) -> None:
    assert RandomSafetensors(tensors(CONFIGS, network, path), writer(network)).size == _pin(network, path).bytes


def test_names_of_today_do_not_make_the_published_size_of_dinov2() -> None:
    path = "model.safetensors"
    todays = [
        Tensor(each.name.replace("attention.attention.query", "attention.q_proj"), each.dtype, each.shape)
        for each in tensors(CONFIGS, DINOV2, path)
    ]
    assert RandomSafetensors(todays, writer(DINOV2)).size != _pin(DINOV2, path).bytes


def test_a_pickled_clip_has_the_names_of_the_one_whose_size_is_known() -> None:
    """A pickle has no size that names make; the large CLIP was published by the same people both ways."""
    known = {tensor.name for tensor in tensors(CONFIGS, "clip-vit-large-patch14", "model.safetensors")}
    assert {tensor.name for tensor in tensors(CONFIGS, CLIP_336, "pytorch_model.bin")} == known
    assert {tensor.name for tensor in tensors(CONFIGS, CLIP, "pytorch_model.bin")} < known


@pytest.mark.parametrize(("each", "spaces"), [(Writer.BEFORE_0_3, 0), (Writer.IS_0_3_0, 3), (Writer.SINCE_0_3_1, 5)])
def test_a_header_of_eleven_bytes_is_filled_up_as_its_release_did(each: Writer, spaces: int) -> None:
    assert each.padding(11) == spaces


@pytest.mark.parametrize(("network", "path"), WEIGHTS)
def test_narrower_layers_have_the_names_of_the_true_ones(network: str, path: str) -> None:
    narrow, true = (tensors(configs, network, path) for configs in (shrunken(), CONFIGS))
    assert [(tensor.name, tensor.dtype) for tensor in narrow] == [(tensor.name, tensor.dtype) for tensor in true]


@pytest.mark.slow
@pytest.mark.parametrize("preset", PARTS)
def test_every_published_number_lands_where_it_belongs(
    tmp_path: Path, preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Downloaded, where need be unpickled, and opened as a build does, by the names that are noted in the tests."""
    backbones, parts = PARTS[preset]
    configs = shrunken()
    for network, narrowed in roles(configs).items():
        monkeypatch.setitem(OURS, network, {**OURS[network], **narrowed})
    with serving() as hub, in_use(hub, tmp_path / "cache"):
        choice = WeightChoice(lock=publish(hub, tmp_path / "served", configs, preset).open_lock)
        files = resolve_weights(backbones, choice, lambda _line: None, hub=HuggingFaceHub()).files
    models = open_models(backbones, files)
    for part, (network, path) in parts.items():
        if part == "text_encoder":
            opened: torch.nn.Module = read_text_encoder(files[part], network_config(network, part))
        else:
            opened = models.clip if part == "clip" else getattr(models.provider, part)
        published = {tensor.name: tensor for tensor in tensors(configs, network, path)}
        for name, found in opened.state_dict().items():
            assert torch.equal(found, whole(published.pop(published_name(network, path, name)))), name
        assert {name.rsplit(".", 1)[-1] for name in published} <= {"position_ids"}


@pytest.mark.presets
@pytest.mark.onnx
def test_edge_is_built_from_the_hub_through_every_fault(tmp_path: Path) -> None:
    with serving() as hub:
        rehearse(hub, tmp_path / "rehearsal", shrunken())


@pytest.mark.presets
@pytest.mark.onnx
@pytest.mark.parametrize("preset", ["sd15", "dinov2"])
def test_another_preset_is_built_from_the_hub_under_the_published_names(tmp_path: Path, preset: str) -> None:
    with serving() as hub:
        build_another(hub, tmp_path / "rehearsal", preset, shrunken())
