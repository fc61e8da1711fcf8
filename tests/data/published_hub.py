"""The repositories of a preset as the hub has them, served by the stand-in, with random numbers in the tensors."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nerve_ref.weights.lock import PACKAGED_LOCK, FilePin, LockedNetwork, lock_text, read_lock
from nerve_ref.weights.random import synthetic_tokenizer
from tests.data.hub_server import PROXIES, TOKEN, HubServer, Served
from tests.data.published_files import (
    CLIP,
    CLIP_336,
    CONFIGS,
    DINOV2,
    SD,
    SD15,
    TAESD,
    TOKENIZER,
    config_text,
    tensors,
    writer,
)
from tests.data.random_checkpoints import FileOnDisk, RandomSafetensors, write_pickle

NETWORKS = {
    "edge": (TOKENIZER, CLIP, SD, TAESD),
    "sd15": (TOKENIZER, CLIP_336, SD15),
    "dinov2": (TOKENIZER, CLIP_336, DINOV2),
}
"""What a preset is built from, by the names of the lock."""
UNET = "unet/diffusion_pytorch_model.safetensors"
PICKLE = "pytorch_model.bin"
Configs = Mapping[str, Mapping[str, Mapping[str, Any]]]
SITE = """\
import json, pathlib
from nerve_ref.weights.configs.published import CONFIGS
for network, roles in json.loads(pathlib.Path(__file__).with_name("configs.json").read_text()).items():
    CONFIGS[network].update(roles)
"""
"""Every Python that is started with this in its path takes other configurations for the published ones."""


@dataclass(frozen=True)
class PublishedHub:
    """Repositories, and a lock of them that has no hash of a file whose content is random.

    Attributes:
        files: by network and path.
        open_lock: from which `nerve-build lock` makes one that is whole.
    """

    files: Mapping[str, Mapping[str, bytes | Served]]
    open_lock: Path


def publish(hub: HubServer, folder: Path, configs: Configs = CONFIGS, preset: str = "edge") -> PublishedHub:
    """Let the hub serve every repository that the lock names for a preset, at the lock's commits, mirrors included.

    Args:
        hub: the stand-in.
        folder: takes the files that are not made while they are sent: a pickle of 0.6 GB.
        configs: the published ones, or narrower ones; the sizes of files are the lock's for the former only.
        preset: "edge", "sd15" or "dinov2".
    """
    networks = NETWORKS[preset]
    locked = {network: read_lock(PACKAGED_LOCK)[network] for network in networks}
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: _files(name, locked[name], folder, configs) for name in networks}
    repositories: dict[tuple[str, str], dict[str, bytes | Served]] = {}
    for network, entry in locked.items():
        for mirror in entry.mirrors:
            repositories.setdefault((mirror.repository, str(mirror.revision)), {}).update(files[network])
    for (repository, commit), served in repositories.items():
        hub.add(repository, served, commit=commit)
    is_true = configs is CONFIGS
    open_lock = folder / "open.lock.json"
    open_lock.write_text(lock_text({name: _opened(entry, files[name], is_true) for name, entry in locked.items()}))
    return PublishedHub(files, open_lock)


def _files(network: str, entry: LockedNetwork, folder: Path, configs: Configs) -> dict[str, bytes | Served]:
    pins = entry.mirrors[0].files
    return {path: _file(network, path, pins[path].bytes, folder, configs) for path in pins}


def _file(network: str, path: str, size: int | None, folder: Path, configs: Configs) -> bytes | Served:
    if path == "tokenizer.json":
        return synthetic_tokenizer().to_str().encode().ljust(size or 0)
    if path.endswith(".json"):
        return config_text(configs[network][path])
    held = tensors(configs, network, path)
    if path != PICKLE:
        return RandomSafetensors(held, writer(network))
    write_pickle(folder / path, held, size if configs is CONFIGS else None)
    return FileOnDisk(folder / path)


def _opened(entry: LockedNetwork, files: Mapping[str, bytes | Served], is_true: bool) -> LockedNetwork:
    """The lock's entry without the hashes that random content cannot have; sizes stay where they are the lock's."""
    from dataclasses import replace
    from hashlib import sha256

    def opened(path: str, pin: FilePin) -> FilePin:
        content = files[path]
        keeps = isinstance(content, bytes) and sha256(content).hexdigest() == pin.sha256
        return FilePin(pin.sha256 if keeps else None, pin.bytes if is_true else None)

    return replace(
        entry,
        mirrors=tuple(
            replace(mirror, files={path: opened(path, pin) for path, pin in mirror.files.items()})
            for mirror in entry.mirrors
        ),
    )


def environment(hub: HubServer, folder: Path, configs: Configs = CONFIGS) -> dict[str, str]:
    """The variables under which a command talks to the stand-in, keeps all in `folder`, and knows the configurations."""
    kept = {name: value for name, value in os.environ.items() if name not in PROXIES and not name.startswith("HF_")}
    changed = {
        "HF_ENDPOINT": hub.address,
        "HF_TOKEN": TOKEN,
        "XDG_CACHE_HOME": str(folder / "cache"),
        "XDG_DATA_HOME": str(folder / "data"),
    }
    if configs is not CONFIGS:
        site = folder / "site"
        site.mkdir(parents=True, exist_ok=True)
        (site / "sitecustomize.py").write_text(SITE)
        (site / "configs.json").write_text(json.dumps(roles(configs)))
        root = Path(__file__).parents[2]
        paths = (site, root, root / "export", root / "runtime")
        changed["PYTHONPATH"] = os.pathsep.join(str(path) for path in paths)
    return {**kept, **changed}


def roles(configs: Configs) -> dict[str, dict[str, Any]]:
    """The configurations by network and role, as `nerve_ref.weights.configs.published` has them."""
    from nerve_ref.weights.configs.published import CONFIGS as OURS

    found: dict[str, dict[str, Any]] = {}
    for network in {name for names in NETWORKS.values() for name in names} - {TOKENIZER, TAESD}:
        theirs, ours = configs[network], OURS[network]
        if "clip" in ours:
            found[network] = {"clip": _clip_roles(ours["clip"], theirs["config.json"])}
            continue
        files = {"dinov2": "config.json"} if "dinov2" in ours else {role: f"{role}/config.json" for role in _NARROWED}
        found[network] = {role: _narrowed(ours[role], theirs[path]) for role, path in files.items()}
    return found


_NARROWED = ("unet", "text_encoder")
_WIDTHS = ("hidden_size", "intermediate_size", "block_out_channels", "attention_head_dim", "cross_attention_dim")


def _narrowed(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    return {**ours, **{name: theirs[name] for name in _WIDTHS if name in theirs}}


def _clip_roles(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    return {**ours, **{tower: _narrowed(ours[tower], theirs[tower]) for tower in ("text_config", "vision_config")}}
