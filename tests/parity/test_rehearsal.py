"""Real weights, rehearsed: the files of the hub's repositories with narrower layers, and what is known of the true ones."""

import hashlib
from pathlib import Path

import pytest

from nerve_ref.weights.lock import PACKAGED_LOCK, FilePin, read_lock
from tests.data.hub_server import serving
from tests.data.published_files import (
    CLIP,
    CLIP_336,
    CONFIGS,
    DINOV2,
    SD,
    SD15,
    Tensor,
    Writer,
    config_text,
    shrunken,
    tensors,
    writer,
)
from tests.data.random_checkpoints import RandomSafetensors
from tests.rehearsal import build_another, rehearse

PINNED = [
    (network, path, pin)
    for network, entry in read_lock(PACKAGED_LOCK).items()
    for path, pin in entry.mirrors[0].files.items()
]
WEIGHTS = [(network, path) for network, path, _ in PINNED if not path.endswith(".json")]
SAFETENSORS = [(network, path) for network, path in WEIGHTS if path.endswith(".safetensors")]
KNOWN_CONFIGS = [(network, path) for network in (CLIP, SD, SD15, DINOV2) for path in CONFIGS[network]]


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
