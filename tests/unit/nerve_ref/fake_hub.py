"""A hub made of local folders, which can lose repositories, swap files, cut them off or be down."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from nerve_ref.weights.download import WeightFolders
from nerve_ref.weights.errors import MirrorError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER_COMMIT = "89abcdef0123456789abcdef0123456789abcdef"
CONFIGS = {
    "clip": {"model_type": "clip"},
    "text_encoder": {"model_type": "clip_text_model"},
    "dinov2": {"model_type": "dinov2"},
    "unet": {"_class_name": "UNet2DConditionModel"},
    "vae": {"_class_name": "AutoencoderKL"},
}
WEIGHT_NAMES = {
    role: "diffusion_pytorch_model.safetensors" if role in ("unet", "vae") else "model.safetensors" for role in CONFIGS
}


class FolderHub:
    """Serves folders root/owner--name/commit; counts what it is asked; `branches` maps "owner/name" to a commit."""

    def __init__(self, root: Path, branches: Mapping[str, str] | None = None) -> None:
        self.root = root
        self.branches = dict(branches or {})
        self.gone: set[str] = set()
        self.down = False
        self.cut_off: set[str] = set()
        self.swapped: set[str] = set()
        self.large = ".safetensors", ".bin"
        self.asked: list[str] = []
        self.expected: list[tuple[int, int]] = []
        self.began_at: list[int] = []
        self.sizes: dict[str, int | None] = {}

    def files(self, repository: str, revision: str) -> tuple[str, dict[str, tuple[int, str | None]]]:
        self._answer("files", repository)
        commit = self.branches.get(repository, revision) if len(revision) < 40 else revision
        folder = self._folder(repository, commit)
        return commit, {
            path.relative_to(folder).as_posix(): (
                path.stat().st_size,
                sha256(path) if path.name.endswith(self.large) else None,
            )
            for path in folder.rglob("*")
            if path.is_file()
        }

    def expect(self, total_bytes: int, here_bytes: int) -> None:
        self.expected.append((total_bytes, here_bytes))

    def download(self, repository: str, commit: str, path: str, target: Path, size: int | None) -> None:
        self._answer(path, repository)
        if not (self._folder(repository, commit) / path).is_file():
            raise MirrorError(f"it no longer has the file {path}")
        here = target.read_bytes() if target.is_file() else b""
        self.began_at.append(len(here))
        self.sizes[path] = size
        content = (self._folder(repository, commit) / path).read_bytes()
        target.write_bytes(here + content[len(here) :])
        content = target.read_bytes()
        if path in self.cut_off:
            target.write_bytes(content[:-1])
        if path in self.swapped:
            target.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    def _answer(self, what: str, repository: str) -> None:
        self.asked.append(what)
        if self.down:
            raise MirrorError("the hub could not be reached")
        if repository in self.gone:
            raise MirrorError("it is gone or private (the hub answered 401 or 404)")

    def _folder(self, repository: str, commit: str) -> Path:
        return self.root / repository.replace("/", "--") / commit


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def make_role(folder: Path, role: str, seed: int = 0) -> Path:
    """A folder as the hub lays out one network: configuration and one small safetensors file."""
    folder.mkdir(parents=True, exist_ok=True)
    if role == "scheduler":
        (folder / "scheduler_config.json").write_text('{"num_train_timesteps": 1000}')
        return folder
    if role == "tokenizer":
        (folder / "tokenizer.json").write_text('{"model": {}}')
        return folder
    (folder / "config.json").write_text(json.dumps(CONFIGS[role]))
    tensors = {f"{role}.weight": np.random.default_rng(seed).normal(size=(4, 4)).astype(np.float32)}
    save_file(tensors, folder / WEIGHT_NAMES[role], {"format": "pt"})
    return folder


def make_pipeline(folder: Path, seed: int = 0) -> Path:
    """A diffusers pipeline."""
    for role in ("unet", "vae", "text_encoder", "scheduler"):
        make_role(folder / role, role, seed)
    return folder


def mirror(repository: str, revision: str | None, folder: Path, *, pinned: bool = True) -> dict[str, object]:
    """A mirror of a lock file with the files of `folder`: their pins, or nulls."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    pins = {
        path.relative_to(folder).as_posix(): {
            "sha256": sha256(path) if pinned else None,
            "bytes": path.stat().st_size if pinned else None,
        }
        for path in paths
    }
    return {"repository": repository, "revision": revision, "files": pins}


def write_lock_json(path: Path, **networks: Mapping[str, object]) -> Path:
    named = {name.replace("_", "-"): entry for name, entry in networks.items()}
    path.write_text(json.dumps({"format_version": 1, "networks": named}))
    return path


def folders_in(root: Path) -> WeightFolders:
    return WeightFolders(
        root / "lock.json", root / "data" / "weights.lock.json", root / "weights", root / "digests.json"
    )
