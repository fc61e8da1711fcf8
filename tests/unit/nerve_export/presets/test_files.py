"""Presets by name and by file: the shipped ones, files of one's own, and what contradicts itself."""

import json
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest

from nerve_export.plan import make_plan, plan_key
from nerve_export.presets import files as files_module
from nerve_export.presets.files import (
    FOLDER,
    NAMES,
    PRESET_NAME,
    Preset,
    bundle_preset,
    find_preset,
    load_preset,
    presets,
)
from nerve_export.presets.schema import PresetText
from nerve_ref.params import NerveParams
from nerve_ref.weights.architectures import Backbones
from nerve_ref.weights.configs.own import Network
from nerve_ref.weights.files import WeightChoice
from nerve_runtime.errors import BundleError, UsageError
from tests.contracts.checkout import ROOT
from tests.data.own_presets import DIFFUSION, DINOV3, EVERY_KIND, SMALL_CLIP, TINY_AUTOENCODER, written
from tests.unit.nerve_ref.fake_hub import COMMIT, FolderHub, folders_in

SD21 = presets()["sd21"].params


def test_the_defaults_are_those_of_the_method() -> None:
    paper = presets()["paper"].params
    assert NerveParams() == SD21
    assert (SD21.alpha, SD21.beta, SD21.steps, SD21.warm_steps) == (0.85, 0.7, 20, 3)
    assert (SD21.sigma, SD21.pooled_hw, SD21.tau, SD21.threshold) == (0.1, (16, 16), 50, 0.1)
    assert (SD21.key_norm, SD21.head_temperature, SD21.sharpen, SD21.timestep) == (True, 1, 4, 100)
    assert (paper.affinity, paper.entropy, paper.self_loop, paper.steps) == ("linear", "plain", True, 20)


def test_presets_differ_from_the_default_where_their_names_say() -> None:
    fast, edge, sd15, dinov2 = (presets()[name].params for name in ("sd21-fast", "edge", "sd15", "dinov2"))
    assert fast == replace(SD21, layers=("up_blocks.3.attentions.0",), steps=8)
    assert (edge.size_hw, edge.clip_size_hw, edge.clip_mode, edge.steps) == ((384, 384), (384, 384), "naclip", 8)
    assert sd15 == SD21
    assert dinov2 == replace(SD21, layers=("encoder.layer.10", "encoder.layer.11"))


def test_the_shipped_presets_use_the_networks_that_their_names_say() -> None:
    large, sd21 = "clip-vit-large-patch14-336", "stable-diffusion-2-1-base"
    assert {name: preset.backbones for name, preset in presets().items()} == {
        "tiny": Backbones("tiny", "tiny"),
        "sd21": Backbones(large, sd21),
        "sd21-fast": Backbones(large, sd21, "taesd"),
        "paper": Backbones(large, sd21),
        "edge": Backbones("clip-vit-base-patch16", sd21, "taesd"),
        "sd15": Backbones(large, "stable-diffusion-v1-5"),
        "dinov2": Backbones(large, "dinov2-base"),
        "solo": Backbones("clip-vit-base-patch16", "clip"),
    }


def test_every_preset_file_that_lies_there_is_shipped() -> None:
    assert {path.stem for path in FOLDER.glob("*.toml")} == set(NAMES)
    assert [name for name, preset in presets().items() if preset.is_packaged] == ["tiny"]
    assert all(preset.is_shipped for preset in presets().values())


def test_every_constant_is_documented() -> None:
    text = (ROOT / "docs" / "presets.md").read_text(encoding="utf-8")
    assert [field.name for field in fields(NerveParams) if f"| `{field.name}` |" not in text] == []


def test_the_example_of_the_documentation_is_sound() -> None:
    text = (ROOT / "docs" / "presets.md").read_text(encoding="utf-8").split("```toml\n")[1].split("```")[0]
    content = PresetText(Path("example.toml"), text).parsed()
    assert content.networks.affinity.hub == "facebook/dinov2-small"
    assert NerveParams(**content.method.model_dump()).steps == 8


@pytest.mark.parametrize("text", EVERY_KIND.values(), ids=EVERY_KIND)
def test_a_preset_survives_being_written_in_full(text: str, tmp_path: Path) -> None:
    preset = load_preset(written(tmp_path, text))
    again = load_preset(written(tmp_path, preset.toml()))
    assert again == preset


def test_a_file_on_tiny_networks_carries_the_packaged_weights(tmp_path: Path) -> None:
    text = (FOLDER / "tiny.toml").read_text().replace("steps = 20", "steps = 5")
    preset = find_preset(str(written(tmp_path, text)))
    assert (preset.name, preset.params.steps, preset.is_packaged, preset.is_shipped) == ("mine", 5, True, False)


def test_a_bundle_tells_its_own_preset_under_its_name(tmp_path: Path) -> None:
    preset = load_preset(written(tmp_path, DINOV3))
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / PRESET_NAME).write_text(preset.toml(), encoding="utf-8")
    told = bundle_preset(bundle, "mine")
    assert told == preset
    keys = [plan_key(make_plan(known, random_seed=0), None) for known in (preset, told)]
    assert keys[0] == keys[1]
    assert bundle_preset(bundle, "edge") is presets()["edge"]
    with pytest.raises(
        UsageError, match=r"preset 'other' of the bundle is unknown here, only tiny, .*; build it again"
    ):
        bundle_preset(tmp_path, "other")


@pytest.mark.parametrize(
    ("old", "new"), [("steps = 4", "steps = 5"), ("num_register_tokens = 4", "num_register_tokens = 3"), ("[method]", 'parity_classes="a; b"\n[method]')]
)  # fmt: skip
def test_whatever_a_file_says_changes_the_key(old: str, new: str, tmp_path: Path) -> None:
    text = DINOV3 if old != "[method]" else DINOV3.replace("about", 'parity_classes = "cat; dog"\nabout', 1)
    changed = text.replace(old, new) if old != "[method]" else DINOV3
    first, second = (load_preset(written(tmp_path, one)) for one in (text, changed))
    assert plan_key(make_plan(first, random_seed=0), None) != plan_key(make_plan(second, random_seed=0), None)


def test_a_name_that_is_neither_shipped_nor_a_file_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r"--preset is 'huge', expected one of: tiny, .*solo, or a file named \*\.toml"
    ):
        find_preset("huge")


def test_a_file_may_not_bear_the_name_of_a_shipped_preset(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"edge\.toml has the name of a shipped preset, edge; rename it"):
        find_preset(str(written(tmp_path, DINOV3, "edge")))


def line_of(text: str, start: str) -> int:
    return next(number for number, line in enumerate(text.splitlines(), 1) if line.startswith(start))


@pytest.mark.parametrize(
    ("text", "change", "field", "message"),
    [
        (DIFFUSION, ("steps = 4", "alpha = 1.0"), "alpha", r"method\.alpha is 1\.0, expected a number from 0 up to"),
        (DIFFUSION, ("up_blocks.1.attentions.1", "up_blocks.1.attentions.3"), "layers =", r"no self-attention layer 'up_blocks\.1\.attentions\.3' in mine's affinity; it has: down_blocks\.0\.attentions\.0, up_blocks\.1\.attentions\.0, up_blocks\.1\.attentions\.1;"),
        (DINOV3, ("model.layer.2", "encoder.layer.2"), "layers =", r"no self-attention layer 'encoder\.layer\.2' in mine's affinity; it has: model\.layer\.0, model\.layer\.1, model\.layer\.2;"),
        (DIFFUSION, ("clip_size_hw = [96, 192]", "clip_size_hw = [96, 200]"), "clip_size_hw", r"is \[96, 200\], expected multiples of 32 pixels, the patch of mine's clip"),
        (DINOV3, ("steps = 4", 'local_features = "latent"'), "local_features", r"is 'latent', but mine's affinity has none"),
        (DINOV3, ("[method]", '[networks.vae]\nname = "taesd"\n[method]'), "[networks.vae]", r"networks\.vae has no use"),
        (DIFFUSION, ("latent_channels = 8", "latent_channels = 4"), "[networks.affinity", r"makes latents of 4 channels, expected the 8 that the UNet reads"),
        (TINY_AUTOENCODER, ("num_decoder_blocks = [1, 1, 1]\nlatent_channels = 8", "latent_channels = 4"), "[networks.vae", r"networks\.vae makes latents of 4 channels"),
        (DINOV3, ("[networks.affinity.config]", '[networks.affinity]\nname = "dinov2-base"\n[networks.affinity.config]'), "[networks.affinity.config]", r"networks\.affinity\.config contradicts name: dinov2-base is known"),
        (DINOV3, ("[networks.affinity.config]", '[networks.affinity]\nhub = "a/b"\n[networks.affinity.config]'), "hub", r"networks\.affinity\.hub is given without revision, expected both"),
        (DINOV3, ("[networks.affinity.config]", '[networks.affinity]\nhub = "a/b"\npath = "c"\n[networks.affinity.config]'), "path", r"networks\.affinity\.path contradicts hub"),
        (DINOV3, ("[networks.affinity.config]", '[networks.affinity]\nrevision = "main"\n[networks.affinity.config]'), "revision", r"networks\.affinity\.revision is 'main': string should match"),
        (DINOV3, ('"dinov3_vit"', '"vit"'), "[networks.affinity.config]", r"model_type is 'vit', expected one of dinov2, dinov2_with_registers, dinov3_vit"),
        (DIFFUSION, ("[networks.affinity.config.vae]", "[networks.affinity.config.vea]"), "[networks.affinity.config.unet]", r"vea is no part of a pipeline, expected: unet, vae, "),
        (DIFFUSION, ("projection_dim = 32", 'projection_dim = 32\nmodel_type = "siglip2"'), "[networks.clip.config]", r"model_type is 'siglip2', expected 'clip': SigLIP compares words with one vector a picture"),
    ],
)  # fmt: skip
def test_what_contradicts_itself_is_refused_with_its_line(
    text: str, change: tuple[str, str], field: str, message: str, tmp_path: Path
) -> None:
    assert change[0] in text
    changed = text.replace(*change)
    with pytest.raises(UsageError, match=message) as refused:
        load_preset(written(tmp_path, changed))
    assert f"mine.toml:{line_of(changed, field)}: " in str(refused.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ('name = "clip-huge"', r"networks\.clip\.name is 'clip-huge', expected one of: tiny, clip-vit-large.*; or hub, path"),
        ("", r"networks\.clip names no network, expected name, hub with revision, path, or a table named config"),
        ('name = "tiny"', r"networks mix tiny with others"),
    ],
)  # fmt: skip
def test_a_source_that_names_nothing_is_refused(source: str, message: str, tmp_path: Path) -> None:
    text = DINOV3.replace(SMALL_CLIP, f"[networks.clip]\n{source}\n").replace("[96, 96]", "[224, 224]")
    with pytest.raises(UsageError, match=message):
        load_preset(written(tmp_path, text))


@pytest.fixture
def dino_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "networks" / "dino"
    folder.mkdir(parents=True)
    config = {"model_type": "dinov2", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def with_source(source: str) -> str:
    before, rest = DINOV3.split("[networks.affinity.config]")
    method = (
        rest[rest.index("[method]") :]
        .replace("model.layer.1", "encoder.layer.0")
        .replace("model.layer.2", "encoder.layer.1")
    )
    return f"{before}[networks.affinity]\n{source}\n{method}"


def test_a_local_folder_brings_its_configuration_and_its_weights(tmp_path: Path, dino_folder: Path) -> None:
    preset = load_preset(written(tmp_path, with_source('path = "networks/dino"\nlicence = "MIT"')))
    network = preset.backbones.affinity
    assert isinstance(network, Network)
    assert (network.name, network.licence, network.config("dinov2")["num_hidden_layers"]) == (
        "mine's affinity",
        "MIT",
        2,
    )
    plan = make_plan(preset)
    assert plan.weights.dinov2 == dino_folder
    assert make_plan(preset, weights=WeightChoice(dinov2=Path("other"))).weights.dinov2 == Path("other")
    assert make_plan(preset, random_seed=0).weights == WeightChoice()
    assert str(tmp_path) not in preset.toml()


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"there is no file or folder .*nowhere; check path in the preset"):
        load_preset(written(tmp_path, with_source('path = "nowhere"')))


def test_a_configuration_beside_a_folder_that_has_one_is_refused(tmp_path: Path, dino_folder: Path) -> None:
    text = with_source(f'path = "networks/{dino_folder.name}"\nconfig = {{ hidden_size = 32 }}')
    with pytest.raises(
        UsageError, match=r"networks\.affinity\.config contradicts path, a folder with its own config\.json"
    ):
        load_preset(written(tmp_path, text))


def test_a_single_file_needs_its_configuration_in_the_preset(tmp_path: Path) -> None:
    (tmp_path / "dino.safetensors").write_bytes(b"")
    source = 'path = "dino.safetensors"'
    with pytest.raises(
        UsageError, match=r"is no folder with a config\.json, so a table named config is needed beside it"
    ):
        load_preset(written(tmp_path, with_source(source)))
    config = "config = { hidden_size = 32, num_attention_heads = 2, num_hidden_layers = 2 }"
    preset = load_preset(written(tmp_path, with_source(f"{source}\n{config}")))
    assert preset.paths == {"affinity": tmp_path / "dino.safetensors"}


@pytest.fixture
def hub(tmp_path: Path, dino_folder: Path, monkeypatch: pytest.MonkeyPatch) -> FolderHub:
    hub, folders = FolderHub(tmp_path / "hub"), folders_in(tmp_path)
    shutil.copytree(dino_folder, hub.root / "someone--dino" / COMMIT)
    folders.packaged_lock.write_text('{"format_version": 1, "networks": {}}')
    monkeypatch.setattr(files_module, "HuggingFaceHub", lambda: hub)
    monkeypatch.setattr(files_module, "WeightFolders", lambda: folders)
    return hub


@pytest.fixture
def on_the_hub(tmp_path: Path) -> Callable[..., Preset]:
    path = written(tmp_path, with_source(f'hub = "someone/dino"\nrevision = "{COMMIT}"'))
    return lambda **options: load_preset(path, **options)


def test_a_configuration_on_the_hub_is_fetched_once(hub: FolderHub, on_the_hub: Callable[..., Preset]) -> None:
    with pytest.raises(BundleError, match=r"someone/dino: it was not downloaded before.*as a table named config"):
        on_the_hub(offline=True)
    assert hub.asked == []
    network = on_the_hub().backbones.affinity
    assert isinstance(network, Network)
    assert (network.name, network.repository, network.revision) == ("someone/dino", "someone/dino", COMMIT)
    asked = list(hub.asked)
    assert "config.json" in asked
    assert on_the_hub(offline=True).backbones.affinity == network
    assert hub.asked == asked
