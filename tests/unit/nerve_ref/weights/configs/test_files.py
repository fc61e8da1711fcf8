"""Configurations out of a folder or the hub, and the weights of the same repository."""

import json
from pathlib import Path
from typing import Any

import pytest

from nerve_ref.weights.architectures import Backbones
from nerve_ref.weights.configs.files import folder_configs, hub_configs
from nerve_ref.weights.configs.own import Network, own_network
from nerve_ref.weights.download import WeightStore
from nerve_ref.weights.errors import WeightError
from nerve_ref.weights.files import WeightChoice, hub_networks, resolve_weights
from tests.unit.nerve_ref.fake_hub import COMMIT, FolderHub, folders_in, make_pipeline, make_role, write_lock_json
from tests.unit.nerve_ref.weight_world import World

VOCABULARY = {"<start>": 3, "<end>": 4, "!": 0}
TOKENS: dict[str, Any] = {"bos_token": "<start>", "eos_token": {"content": "<end>"}, "pad_token": "!"}


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    folder = make_pipeline(tmp_path / "hub" / "someone--diffusion" / COMMIT)
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "special_tokens_map.json").write_text(json.dumps(TOKENS))
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(VOCABULARY))
    return folder


def store_in(root: Path, hub: FolderHub, *, offline: bool = False, locked: bool = False) -> WeightStore:
    write_lock_json(root / "lock.json")
    return WeightStore(hub, folders_in(root), lambda _line: None, offline=offline, locked=locked)


def test_a_pipeline_has_a_configuration_for_each_part_and_the_ids_of_its_empty_prompt(pipeline: Path) -> None:
    configs = folder_configs("affinity", pipeline)
    assert set(configs) == {"unet", "vae", "text_encoder", "scheduler", "empty_prompt"}
    assert configs["empty_prompt"] == {"start": 3, "end": 4, "pad": 0}
    assert configs["unet"]["_class_name"] == "UNet2DConditionModel"


def test_a_tokenizer_without_padding_is_refused(pipeline: Path) -> None:
    (pipeline / "tokenizer" / "special_tokens_map.json").write_text(json.dumps({**TOKENS, "pad_token": "?"}))
    with pytest.raises(WeightError, match="names no pad token that its vocabulary has; give empty_prompt"):
        folder_configs("affinity", pipeline)


def test_any_other_network_has_its_configuration_at_the_top(tmp_path: Path) -> None:
    for part, role in (("clip", "clip"), ("vae", "vae"), ("affinity", "dinov2")):
        folder = make_role(tmp_path / role, role)
        assert list(folder_configs(part, folder)) == [role]  # type: ignore[arg-type]  # a loop makes strings of them
    with pytest.raises(WeightError, match="there is no file"):
        folder_configs("clip", tmp_path / "nowhere")


def test_configurations_of_the_hub_are_fetched_without_weights_and_only_once(tmp_path: Path, pipeline: Path) -> None:
    hub = FolderHub(tmp_path / "hub")
    configs = hub_configs("affinity", "someone/diffusion", COMMIT, store_in(tmp_path, hub))
    assert configs == folder_configs("affinity", pipeline)
    assert not [path for path in hub.asked if path.endswith(".safetensors")]
    asked = list(hub.asked)
    assert hub_configs("affinity", "someone/diffusion", COMMIT, store_in(tmp_path, hub, offline=True)) == configs
    assert hub.asked == asked


def test_a_hub_that_cannot_be_asked_is_told(tmp_path: Path) -> None:
    hub = FolderHub(tmp_path / "hub")
    hub.down = True
    with pytest.raises(WeightError, match=r"configuration of a/b cannot be had: .*reached; give it in the preset"):
        hub_configs("affinity", "a/b", COMMIT, store_in(tmp_path, hub))
    with pytest.raises(WeightError, match=r"no mirror serves a/b .*--offline.*a table named config"):
        hub_configs("clip", "a/b", COMMIT, store_in(tmp_path, hub, offline=True))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def dino(**source: str) -> Network:
    return own_network("someone/dino", {"dinov2": {}}, **source)


def test_weights_come_from_the_presets_repository_and_are_pinned_at_first_use(world: World) -> None:
    make_role(world.folder("someone", "dino"), "dinov2")
    backbones = Backbones("clip-vit-base-patch16", dino(repository="someone/dino", revision=COMMIT, licence="MIT"))
    resolved = world.resolve(backbones)
    (record,) = [record for record in resolved.records if record.role == "dinov2"]
    assert record.source == f"hub:someone/dino@{COMMIT}:model.safetensors"
    assert (record.licence, record.revision) == ("MIT", COMMIT)
    (network,) = [n for n in hub_networks(backbones, WeightChoice(), folders=world.folders) if "dino" in n.name]
    assert (network.name, network.is_here) == ("someone/dino", True)
    world.downloaded("dino", "model.safetensors", "someone").unlink()
    make_role(world.folder("someone", "dino"), "dinov2", seed=1)
    with pytest.raises(WeightError, match=r"model\.safetensors is not the file that is pinned"):
        world.resolve(backbones)


def test_locked_refuses_what_only_a_preset_names(world: World) -> None:
    make_role(world.folder("someone", "dino"), "dinov2")
    backbones = Backbones("clip-vit-base-patch16", dino(repository="someone/dino", revision=COMMIT))
    with pytest.raises(WeightError, match=r"someone/dino: --locked needs a sha256 of config\.json"):
        world.resolve(backbones, WeightChoice(locked=True))


def test_a_configuration_alone_has_no_weights_unless_they_are_given(world: World, tmp_path: Path) -> None:
    backbones = Backbones("clip-vit-base-patch16", dino())
    with pytest.raises(WeightError, match=r"someone/dino has no weights of its own: .*or build with --random-weights"):
        world.resolve(backbones)
    folder = make_role(tmp_path / "own", "dinov2")
    resolved = world.resolve(backbones, WeightChoice(dinov2=folder))
    (record,) = [record for record in resolved.records if record.role == "dinov2"]
    assert (record.source, record.licence) == (
        "local:model.safetensors",
        "not known, a local file; someone/dino itself: not known; see the page of its weights",
    )


def test_a_clip_with_words_of_its_own_needs_its_tokenizer(world: World, tmp_path: Path) -> None:
    config = {"text_config": {"vocab_size": 500}, "vision_config": {}}
    backbones = Backbones(own_network("mine", {"clip": config}), "dinov2-base")
    folder = make_role(tmp_path / "clip", "clip")
    with pytest.raises(
        WeightError, match="mine knows 500 token ids, the tokenizer of OpenAI's CLIPs has 49408; give a"
    ):
        world.resolve(backbones, WeightChoice(clip=folder))
    make_role(folder, "tokenizer")
    assert resolve_weights(
        backbones, WeightChoice(clip=folder), print, hub=world.hub, folders=world.folders
    ).files["tokenizer"] == folder / "tokenizer.json"  # fmt: skip
