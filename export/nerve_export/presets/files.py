"""Presets by name and by file: constants of the method, and the networks with their sources."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from nerve_export.presets.schema import (
    ANY_CLASSES,
    PresetFile,
    PresetText,
    Source,
    preset_toml,
    read_preset_text,
    without_nulls,
)
from nerve_export.weights.hub import HuggingFaceHub
from nerve_ref.params import NerveParams
from nerve_ref.weights.architectures import (
    OWN_CLIP,
    TINY,
    Backbones,
    clip_patch_px,
    is_dino,
    is_own_clip,
    known_networks,
    layer_shapes,
    network_config,
    vae_network,
)
from nerve_ref.weights.configs.files import TOP_ROLE, Part, folder_configs, hub_configs
from nerve_ref.weights.configs.own import UNKNOWN_LICENCE, AnyNetwork, Network, own_network
from nerve_ref.weights.download import WeightFolders, WeightStore
from nerve_ref.weights.errors import WeightError
from nerve_ref.weights.local import PIPELINE_ROLES
from nerve_runtime.errors import BundleError, UsageError

FOLDER = Path(__file__).parent
NAMES = ("tiny", "sd21", "sd21-fast", "paper", "edge", "sd15", "dinov2", "solo")
"""The shipped presets, in the order in which help lists them."""
SUFFIX = ".toml"
PRESET_NAME = "preset.toml"
"""The file in a bundle that holds its preset, where no package ships it."""
_PARTS: tuple[Part, ...] = ("clip", "affinity", "vae")
_FIELD = re.compile(r"NerveParams\.(\w+) (.*)", re.DOTALL)
_PIPELINE_CONFIGS = (*PIPELINE_ROLES, "empty_prompt")


@dataclass(frozen=True, slots=True)
class Preset:
    """What is built.

    Attributes:
        name: the file's, without its suffix.
        params: constants of the method.
        backbones: the networks.
        about: one line for `--help`, with the cost.
        parity_classes: class names that parity frames are segmented with.
        paths: local weights by part of the method, as the file names them.
        is_shipped: whether it comes with this package.
    """

    name: str
    params: NerveParams
    backbones: Backbones
    about: str
    parity_classes: str = ANY_CLASSES
    paths: Mapping[Part, Path] = field(default_factory=dict)
    is_shipped: bool = False

    @property
    def is_packaged(self) -> bool:
        """Whether the weights come with this package."""
        return self.backbones.clip == TINY

    def toml(self) -> str:
        """The preset as a file in full: every constant, and the configurations of networks that no lock lists.

        Local paths are left out, so that a bundle can carry it.
        """
        networks = {part: _source_fields(getattr(self.backbones, part)) for part in _PARTS}
        return preset_toml(
            {
                "about": self.about,
                "parity_classes": self.parity_classes,
                "networks": {part: source for part, source in networks.items() if source is not None},
                "method": {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self.params).items()},
            }
        )


def _source_fields(network: AnyNetwork | None) -> dict[str, Any] | None:
    if not isinstance(network, Network):
        return None if network is None else {"name": network}
    roles = network.roles()
    config = (
        network.config(roles[0]) if len(roles) == 1 and "unet" not in roles else {r: network.config(r) for r in roles}
    )
    source = {"hub": network.repository, "revision": network.revision, "licence": network.licence}
    return {**{name: value for name, value in source.items() if value is not None}, "config": config}


@cache
def presets() -> Mapping[str, Preset]:
    """The shipped presets by name."""
    return {name: load_preset(FOLDER / f"{name}{SUFFIX}") for name in NAMES}


def find_preset(name_or_file: str, *, offline: bool = False) -> Preset:
    """A shipped preset by its name, or the preset in a file whose name ends in .toml.

    Args:
        name_or_file: "edge", or "my.toml".
        offline: do not ask the hub for configurations that are not here yet.

    Raises:
        UsageError: there is no such preset, or a field of the file is not what it should be; with its line.
        BundleError: the configuration of a network on the hub cannot be had.
    """
    if name_or_file in NAMES:
        return presets()[name_or_file]
    path = Path(name_or_file)
    if path.suffix != SUFFIX:
        raise UsageError(
            f"--preset is {name_or_file!r}, expected one of: {', '.join(NAMES)}, or a file named *{SUFFIX}"
        )
    if path.stem in NAMES:
        raise UsageError(f"{path} has the name of a shipped preset, {path.stem}; rename it, its bundle bears its name")
    return load_preset(path, offline=offline)


def bundle_preset(bundle: Path, name: str) -> Preset:
    """The preset that a bundle was built from: a shipped one, or the one that it carries.

    Args:
        bundle: folder of the bundle.
        name: of the preset, as the manifest has it.

    Raises:
        UsageError: it is neither shipped nor carried, or the file is damaged.
    """
    if name in NAMES:
        return presets()[name]
    if not (bundle / PRESET_NAME).is_file():
        raise UsageError(f"preset {name!r} of the bundle is unknown here, only {', '.join(NAMES)}; build it again")
    return load_preset(bundle / PRESET_NAME, offline=True, name=name)


def load_preset(path: Path, *, offline: bool = False, name: str | None = None) -> Preset:
    """The preset in a file; see `find_preset`.

    Args:
        path: of the file.
        offline: do not ask the hub for configurations that are not here yet.
        name: what it is called; the file's name without its suffix by default.
    """
    text = read_preset_text(path)
    content = text.parsed()
    name = name or path.stem
    sources = {part: getattr(content.networks, part) for part in _PARTS}
    networks = {
        part: _network(f"{name}'s {part}", part, source, text, offline)
        for part, source in sources.items()
        if source is not None
    }
    backbones = Backbones(**networks)
    params = _params(content, text)
    _refuse_contradictions(backbones, params, text)
    paths = {part: path.parent / source.path for part, source in sources.items() if source and source.path}
    return Preset(
        name=name,
        params=params,
        backbones=backbones,
        about=content.about,
        parity_classes=content.parity_classes,
        paths=paths,
        is_shipped=path.parent == FOLDER,
    )


def _params(content: PresetFile, text: PresetText) -> NerveParams:
    try:
        return NerveParams(**content.method.model_dump())
    except ValueError as error:
        found = _FIELD.match(str(error))
        if found is None:
            raise
        text.refuse(["method", found[1]], found[2])


def _network(label: str, part: Part, source: Source, text: PresetText, offline: bool) -> AnyNetwork:
    """One network of the file, called as on the hub, or `label`.

    Raises:
        UsageError: its source is contradictory or its configuration unusable.
        BundleError: its configuration cannot be had.
    """

    def refuse(name: str, reason: str) -> NoReturn:
        text.refuse(["networks", part, *([name] if name else [])], reason)

    given = [name for name in ("name", "hub", "path") if getattr(source, name) is not None]
    if len(given) > 1:
        refuse(given[1], f"contradicts {given[0]}, expected one of the two")
    if source.config is not None and source.path is not None and (text.path.parent / source.path).is_dir():
        refuse("config", "contradicts path, a folder with its own config.json; leave one of them out")
    if (source.hub is None) != (source.revision is None):
        present, absent = ("hub", "revision") if source.revision is None else ("revision", "hub")
        refuse(present, f"is given without {absent}, expected both")
    if source.name is not None:
        return _locked_network(part, source, refuse)
    try:
        configs = _configs(part, source, text.path.parent, offline)
        if configs is None:
            refuse("", "names no network, expected name, hub with revision, path, or a table named config")
        licence = source.licence or UNKNOWN_LICENCE
        return own_network(
            source.hub or label, configs, repository=source.hub, revision=source.revision, licence=licence
        )
    except WeightError as error:
        raise BundleError(str(error)) from error
    except (ValueError, TypeError) as error:
        refuse("config" if source.config is not None else given[0], f"cannot be used: {error}")


def _locked_network(part: Part, source: Source, refuse: Any) -> str:
    for other in ("config", "licence"):
        if getattr(source, other) is not None:
            refuse(other, f"contradicts name: {source.name} is known; leave it out")
    roles = {"clip": ("clip",), "affinity": ("unet", "dinov2"), "vae": ("vae",)}[part]
    known = [*known_networks(*roles), *([OWN_CLIP] if part == "affinity" else [])]
    if source.name not in known:
        refuse(
            "name", f"is {source.name!r}, expected one of: {', '.join(known)}; or hub, path or config for another one"
        )
    return str(source.name)


def _configs(part: Part, source: Source, folder: Path, offline: bool) -> dict[str, Any] | None:
    """The configurations of a network by role, from the file itself, a local folder or the hub; None where none is."""
    if source.config is not None:
        config = without_nulls(source.config)
        return _inline_configs(part, config)
    if source.path is not None:
        path = folder / source.path
        if not path.exists():
            raise WeightError(f"there is no file or folder {path}; check path in the preset")
        if not path.is_dir():
            raise ValueError(f"{path} is no folder with a config.json, so a table named config is needed beside it")
        return folder_configs(part, path)
    if source.hub is None or source.revision is None:
        return None
    store = WeightStore(HuggingFaceHub(), WeightFolders(), lambda _line: None, offline=offline, locked=False)
    return hub_configs(part, source.hub, source.revision, store)


def _inline_configs(part: Part, config: dict[str, Any]) -> dict[str, Any]:
    if part != "affinity" or "unet" not in config:
        return {TOP_ROLE[part]: config}
    unknown = [name for name in config if name not in _PIPELINE_CONFIGS]
    if unknown:
        raise ValueError(f"{unknown[0]} is no part of a pipeline, expected: {', '.join(_PIPELINE_CONFIGS)}")
    return config


def _refuse_contradictions(backbones: Backbones, params: NerveParams, text: PresetText) -> None:
    """Refuse networks that do not fit each other or the constants."""
    fitting = (TINY, OWN_CLIP) if backbones.clip == TINY else ()
    if (TINY in (backbones.clip, backbones.affinity) and backbones.affinity not in fitting) or (
        backbones.clip == TINY and backbones.vae
    ):
        text.refuse(
            ["networks"], "mix tiny with others, expected tiny for clip with tiny or clip for affinity, or for none"
        )
    if is_dino(backbones) or is_own_clip(backbones):
        if backbones.vae is not None:
            text.refuse(["networks", "vae"], f"has no use: {backbones.affinity} has no latent; leave it out")
        if params.local_features == "latent":
            text.refuse(
                ["method", "local_features"], f"is 'latent', but {backbones.affinity} has none; expected keys or rgb"
            )
    else:
        _refuse_other_latents(backbones, text)
    patch_px = clip_patch_px(backbones.clip)
    if any(side % patch_px for side in params.clip_size_hw):
        expected = f"multiples of {patch_px} pixels, the patch of {backbones.clip}"
        text.refuse(["method", "clip_size_hw"], f"is {list(params.clip_size_hw)}, expected {expected}")
    try:
        layer_shapes(backbones, params)
    except ValueError as error:
        text.refuse(["method", "layers"], f"cannot be used: {error}")


def _refuse_other_latents(backbones: Backbones, text: PresetText) -> None:
    try:
        made = int(network_config(vae_network(backbones), "vae")["latent_channels"])
    except ValueError as error:
        text.refuse(["networks", "affinity"], f"cannot be used: {error}, or name an autoencoder as networks.vae")
    read = int(network_config(backbones.affinity, "unet")["in_channels"])
    if made != read:
        place = ["networks", "affinity" if backbones.vae is None else "vae"]
        text.refuse(place, f"makes latents of {made} channels, expected the {read} that the UNet reads")
