"""Local folders and files: what is taken, what is refused and with which message; the packaged models; licences; hashes."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from safetensors.numpy import save_file

from nerve_ref.weights import digests as digests_module
from nerve_ref.weights.architectures import Backbones
from nerve_ref.weights.digests import RememberedDigests
from nerve_ref.weights.errors import WeightError
from nerve_ref.weights.files import WeightChoice, WeightFile, licences_text, resolve_weights, weight_digests
from nerve_ref.weights.local import checkpoint_roles, role_files
from tests.unit.nerve_ref.fake_hub import CONFIGS, make_pipeline, make_role, sha256
from tests.unit.nerve_ref.weight_world import DINO, SD, World

TINY = Backbones("tiny", "tiny")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "world")


@pytest.fixture
def local(tmp_path: Path) -> WeightChoice:
    """CLIP with its tokenizer, and a pipeline, all in local folders."""
    make_role(tmp_path / "clip", "tokenizer")
    return WeightChoice(clip=make_role(tmp_path / "clip", "clip", 7), sd=make_pipeline(tmp_path / "sd", 8))


def checkpoint(path: Path, *names: str) -> Path:
    save_file({name: np.zeros(2, np.float32) for name in names}, path)
    return path


def sharded(folder: Path, role: str, weight_map: dict[str, str] | None = None) -> Path:
    """A folder with two shards and their index."""
    make_role(folder, role)
    stem = "diffusion_pytorch_model" if role == "unet" else "model"
    (folder / f"{stem}.safetensors").unlink()
    names = [f"{stem}-0000{number}-of-00002.safetensors" for number in (1, 2)]
    checkpoint(folder / names[0], "a")
    checkpoint(folder / names[1], "b", "c")
    weight_map = weight_map or {"a": names[0], "b": names[1], "c": names[1]}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def test_local_folders_need_no_hub(world: World, local: WeightChoice) -> None:
    resolved = world.resolve(SD, local)
    assert local.clip is not None
    assert local.sd is not None
    assert resolved.files == {
        "clip": local.clip,
        "tokenizer": local.clip / "tokenizer.json",
        **{role: local.sd / role for role in ("unet", "text_encoder", "scheduler", "vae")},
    }
    assert world.hub.asked == []


def test_records_of_local_files_tell_no_path_of_the_machine(world: World, local: WeightChoice, tmp_path: Path) -> None:
    records = {record.role: record for record in world.resolve(SD, local).records}
    assert records["unet"].source == "local:diffusion_pytorch_model.safetensors"
    assert records["unet"].revision == "local"
    assert records["unet"].sha256 == sha256(tmp_path / "sd" / "unet" / "diffusion_pytorch_model.safetensors")
    assert records["unet"].licence == "not known, a local file; stable-diffusion-2-1-base itself: openrail++"
    assert str(tmp_path) not in repr(list(records.values()))


def test_a_local_copy_of_a_pinned_file_has_its_licence_and_passes_locked(world: World) -> None:
    choice = WeightChoice(
        clip=world.folder("first", "clip-vit-base-patch16"),
        sd=world.folder("first", "stable-diffusion-2-1-base"),
        locked=True,
    )
    records = {record.role: record.licence for record in world.resolve(SD, choice).records}
    assert records["unet"] == "openrail++"


def test_locked_refuses_a_local_file_that_no_pin_knows(world: World, local: WeightChoice) -> None:
    with pytest.raises(
        WeightError, match=r"--locked refuses .*model\.safetensors: its sha256 [0-9a-f]{64} is none that"
    ):
        world.resolve(SD, replace(local, locked=True))


def test_single_files_may_be_given_for_every_network(world: World, local: WeightChoice, tmp_path: Path) -> None:
    assert local.clip is not None
    sd = checkpoint(
        tmp_path / "sd.safetensors",
        "model.diffusion_model.in.weight",
        "first_stage_model.encoder.weight",
        "cond_stage_model.model.weight",
    )
    choice = WeightChoice(clip=local.clip / "model.safetensors", sd=sd, tokenizer=local.clip / "tokenizer.json")
    resolved = world.resolve(SD, choice)
    assert {role: path.name for role, path in resolved.files.items()} == {
        "clip": "model.safetensors",
        "tokenizer": "tokenizer.json",
        "unet": "sd.safetensors",
        "text_encoder": "sd.safetensors",
        "vae": "sd.safetensors",
    }
    vae = make_role(tmp_path / "vae", "vae") / "diffusion_pytorch_model.safetensors"
    assert world.resolve(SD, replace(choice, vae=vae)).files["vae"] == vae


def test_a_checkpoint_without_a_role_names_what_it_has_and_what_to_give(world: World, tmp_path: Path) -> None:
    sd = checkpoint(tmp_path / "sd.safetensors", "model.diffusion_model.x", "cond_stage_model.x")
    with pytest.raises(WeightError, match=r"holds unet, text_encoder, but no vae; give --vae PATH"):
        world.resolve(SD, WeightChoice(sd=sd))
    unet = checkpoint(tmp_path / "unet.safetensors", "conv_in.weight", "up_blocks.0.x")
    assert checkpoint_roles(unet) == ("unet",)
    with pytest.raises(
        WeightError, match=r"but no text_encoder, no vae; give --sd with the folder of a whole pipeline"
    ):
        world.resolve(SD, WeightChoice(sd=unet))
    with pytest.raises(
        WeightError, match=r"neither a Stable Diffusion checkpoint nor a UNet \(its first tensor is 'x'\)"
    ):
        world.resolve(SD, WeightChoice(sd=checkpoint(tmp_path / "x.safetensors", "x")))


@pytest.mark.parametrize("role", ["unet", "text_encoder", "scheduler", "vae"])
def test_a_pipeline_that_lacks_a_part_says_where_it_was_looked_for(
    world: World, local: WeightChoice, role: str
) -> None:
    assert local.sd is not None
    (local.sd / role).rename(local.sd / "elsewhere")
    with pytest.raises(WeightError, match=rf"no {role} at .*sd/{role}: there is no such file or folder; give a local"):
        world.resolve(SD, local)


def test_a_folder_of_another_network_is_refused(world: World, local: WeightChoice) -> None:
    assert local.sd is not None
    (local.sd / "unet" / "config.json").write_text(json.dumps(CONFIGS["vae"]))
    with pytest.raises(
        WeightError, match=r"unet/config\.json describes a 'AutoencoderKL', expected UNet2DConditionModel"
    ):
        world.resolve(SD, local)


@pytest.mark.parametrize("kind", ["AutoencoderKL", "AutoencoderTiny"])
def test_either_autoencoder_may_be_given(world: World, local: WeightChoice, tmp_path: Path, kind: str) -> None:
    vae = make_role(tmp_path / "vae", "vae")
    (vae / "config.json").write_text(json.dumps({"_class_name": kind}))
    assert world.resolve(SD, replace(local, vae=vae)).files["vae"] == vae


def test_dinov2_may_be_local(world: World, local: WeightChoice, tmp_path: Path) -> None:
    folder = make_role(tmp_path / "dino", "dinov2")
    assert world.resolve(DINO, WeightChoice(clip=local.clip, dinov2=folder)).files["dinov2"] == folder


def test_a_path_that_would_not_be_read_is_refused(world: World, local: WeightChoice) -> None:
    with pytest.raises(WeightError, match="--sd is given, but clip-vit-base-patch16 with dinov2-base does not use it"):
        world.resolve(DINO, local)
    with pytest.raises(WeightError, match="--clip is given, but tiny with tiny does not use it"):
        world.resolve(TINY, WeightChoice(clip=local.clip))


@pytest.mark.parametrize("role", ["unet", "clip"])
def test_shards_are_accepted_all_of_them(tmp_path: Path, role: str) -> None:
    files = role_files(role, sharded(tmp_path, role))
    assert len(files.weights) == 2
    assert [path.name[-10:] for path in files.configs] == ["onfig.json", "index.json"]


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "../model.safetensors"}, r"names '\.\./model\.safetensors', expected a safetensors file beside it"),
        ({"a": "model.bin"}, "names 'model.bin', expected a safetensors file"),
        ({"a": "model-00003-of-00003.safetensors"}, "lacks the shard model-00003-of-00003.safetensors"),
        (
            {"a": "model-00001-of-00002.safetensors", "z": "model-00001-of-00002.safetensors"},
            "disagree about tensor 'z'",
        ),
        ({"a": 1}, "has no weight_map"),
    ],
)
def test_an_index_that_lies_is_refused(tmp_path: Path, weight_map: dict[str, str], message: str) -> None:
    with pytest.raises(WeightError, match=message):
        role_files("clip", sharded(tmp_path, "clip", weight_map))


def test_a_snapshot_of_links_as_the_hubs_cache_has_them_is_fine(
    world: World, local: WeightChoice, tmp_path: Path
) -> None:
    assert local.clip is not None
    snapshot = tmp_path / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for path in local.clip.iterdir():
        blob = tmp_path / "blobs" / sha256(path)
        blob.parent.mkdir(exist_ok=True)
        path.rename(blob)
        (snapshot / path.name).symlink_to(blob)
    resolved = world.resolve(SD, replace(local, clip=snapshot))
    assert resolved.files["clip"] == snapshot
    linked = snapshot / "model.safetensors"  # its target has no suffix, by which libraries know the format
    assert world.resolve(SD, replace(local, clip=linked)).files["clip"] == linked
    (tmp_path / "blobs" / sha256(snapshot / "model.safetensors")).unlink()
    with pytest.raises(WeightError, match=r"model\.safetensors is a link to a file that is not there"):
        world.resolve(SD, replace(local, clip=snapshot))


def test_a_variant_is_named_rather_than_guessed(tmp_path: Path) -> None:
    folder = make_role(tmp_path, "clip")
    (folder / "model.safetensors").rename(folder / "model.fp16.safetensors")
    with pytest.raises(
        WeightError, match=r"has model\.fp16\.safetensors for the clip, expected model\.safetensors; rename"
    ):
        role_files("clip", folder)


def test_the_packaged_models_come_with_their_hashes_and_licence() -> None:
    progress_lines: list[str] = []
    resolved = resolve_weights(TINY, WeightChoice(offline=True, locked=True), progress_lines.append, hub=None)
    assert set(resolved.files) == {"clip", "tokenizer", "unet", "vae", "scheduler"}
    assert {record.role: record.source for record in resolved.records}["unet"] == (
        "packaged:models/tiny/unet/diffusion_pytorch_model.safetensors"
    )
    assert {record.licence for record in resolved.records} == {"Apache-2.0"}
    assert progress_lines == []


def test_openrail_restrictions_travel_with_what_is_derived() -> None:
    record = WeightFile("unet", "hub:a/b@c:unet/x.safetensors", "c", "0" * 64, "openrail++")
    text = licences_text([record])
    assert "unet: hub:a/b@c:unet/x.safetensors, revision c, sha256 000" in text
    assert "restrictions travel with everything" in " ".join(text.split())
    assert "travel" not in licences_text([replace(record, licence="MIT")])


def test_digests_change_with_any_file(world: World, local: WeightChoice) -> None:
    resolved = world.resolve(SD, local)
    before = weight_digests(resolved, folders=world.folders)
    assert set(before) >= {"clip/config.json", "tokenizer/tokenizer.json", "scheduler/scheduler_config.json"}
    for role in ("unet", "scheduler"):
        config = next(resolved.files[role].glob("*.json"))
        config.write_text(config.read_text() + " ")
        after = weight_digests(resolved, folders=world.folders)
        assert {key for key in before if before[key] != after[key]} == {f"{role}/{config.name}"}
        before = after


def test_a_large_file_is_hashed_once_and_again_after_a_change(tmp_path: Path) -> None:
    large, digests = tmp_path / "large", RememberedDigests(tmp_path / "digests.json", from_bytes=4)
    large.write_bytes(b"0123")
    with patch.object(digests_module, "file_sha256", wraps=digests_module.file_sha256) as hashed:
        for _ in range(3):
            assert RememberedDigests(tmp_path / "digests.json", from_bytes=4).sha256(large) == sha256(large)
        assert hashed.call_count == 1
        times = large.stat()
        large.write_bytes(b"3210")
        os.utime(large, ns=(times.st_atime_ns, times.st_mtime_ns))  # same size and, as a liar has it, same age
        assert digests.sha256(large) == sha256(large)
        assert hashed.call_count == 2


def test_a_damaged_memory_of_hashes_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / "digests.json").write_text("{")
    (tmp_path / "large").write_bytes(b"0123")
    assert RememberedDigests(tmp_path / "digests.json", from_bytes=4).sha256(tmp_path / "large") == sha256(
        tmp_path / "large"
    )


def test_nothing_of_this_imports_torch() -> None:
    poison = (
        "import sys\nfor name in ('torch', 'diffusers', 'transformers', 'huggingface_hub'): sys.modules[name] = None\n"
    )
    use = (
        "from nerve_ref.weights.architectures import Backbones\n"
        "from nerve_ref.weights.files import WeightChoice, resolve_weights, weight_digests\n"
        "import nerve_ref.weights.lock\n"
        "weights = resolve_weights(Backbones('tiny', 'tiny'), WeightChoice(), print, hub=None)\n"
        "print(len(weight_digests(weights)))\n"
    )
    done = subprocess.run([sys.executable, "-c", poison + use], capture_output=True, text=True, check=True)
    assert done.stdout == "8\n"
    refused = subprocess.run(
        [sys.executable, "-c", poison + "import torch"], capture_output=True, text=True, check=False
    )
    assert refused.returncode != 0
