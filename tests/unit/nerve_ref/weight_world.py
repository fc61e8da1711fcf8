"""A small world for tests of weights: a fake hub with every network of two variants, and a lock that pins it."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from nerve_ref.weights.architectures import Backbones
from nerve_ref.weights.files import ResolvedWeights, WeightChoice, resolve_weights
from tests.unit.nerve_ref.fake_hub import (
    COMMIT,
    FolderHub,
    folders_in,
    make_pipeline,
    make_role,
    mirror,
    write_lock_json,
)

SD = Backbones("clip-vit-base-patch16", "stable-diffusion-2-1-base")
SD_TAESD = Backbones("clip-vit-base-patch16", "stable-diffusion-2-1-base", "taesd")
DINO = Backbones("clip-vit-base-patch16", "dinov2-base")
LICENCES = {"stable-diffusion-2-1-base": "openrail++", "dinov2-base": "Apache-2.0"}
MAKERS: dict[str, Callable[[Path], Path]] = {
    "clip-vit-base-patch16": lambda folder: make_role(folder, "clip"),
    "clip-tokenizer": lambda folder: make_role(folder, "tokenizer"),
    "stable-diffusion-2-1-base": make_pipeline,
    "taesd": lambda folder: make_role(folder, "vae", 5),
    "dinov2-base": lambda folder: make_role(folder, "dinov2"),
}


@dataclass
class World:
    """A fresh folder with a hub whose repositories are first/<network> and second/<network>."""

    root: Path
    progress_lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.hub = FolderHub(self.root / "hub")
        self.folders = folders_in(self.root)
        for network, make in MAKERS.items():
            shutil.copytree(make(self.folder("first", network)), self.folder("second", network))
            for owner in ("first", "second"):
                self.hub.branches[f"{owner}/{network}"] = COMMIT
        self.lock()

    def folder(self, owner: str, network: str, commit: str = COMMIT) -> Path:
        return self.hub.root / f"{owner}--{network}" / commit

    def lock(
        self, revision: str | None = COMMIT, *, pinned: bool = True, owners: tuple[str, ...] = ("first", "second")
    ) -> None:
        """Write the packaged lock: all pinned, or with nulls."""
        networks = {
            network: {
                "licence": LICENCES.get(network, "MIT"),
                "mirrors": [
                    mirror(f"{owner}/{network}", revision, self.folder("first", network), pinned=pinned)
                    for owner in owners
                ],
            }
            for network in MAKERS
        }
        write_lock_json(self.folders.packaged_lock, **networks)

    def resolve(self, backbones: Backbones = SD, choice: WeightChoice | None = None) -> ResolvedWeights:
        return resolve_weights(
            backbones, choice or WeightChoice(), self.progress_lines.append, hub=self.hub, folders=self.folders
        )

    def downloaded(self, network: str, path: str, owner: str = "first") -> Path:
        return self.folders.downloads / f"{owner}--{network}" / COMMIT / path
