"""The tensors of the reference on disk: inputs and expected outputs of every stage, and tensors inside the stages.

A folder of plain arrays lies between the two halves of a comparison, so that the PyTorch reference and the sessions
that run a bundle, 5 GB each at true size, never have to be in memory together.

    facts.json      frames, size, names of the layers, class names
    text.npz        token ids and their embeddings
    frame_0.npz     one frame alone: every stage's inputs and outputs, latent, q0 k0 q1 k1 ..., features, margin
    item_0.npz      one frame of several in a run, with a vocabulary and constants of its own: inputs, expected outputs
    chain_0.npz     one frame of a short video: its picture, the reference's scores, labels and margin
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nerve_runtime.errors import BundleError

Tensors = Mapping[str, NDArray[Any]]
FACTS_NAME = "facts.json"
MARGIN = "margin"
"""Margin of the reference's label, (H,W): its probability minus the next, or the distance to the threshold."""


@dataclass(frozen=True, slots=True)
class TapFacts:
    """What a folder of taps holds.

    Attributes:
        frames: frames that are compared alone.
        chain_frames: frames of the short video; the first is a keyframe.
        size_hw: working size.
        grid_hw: token grid.
        layers: names of the layers that q0 k0, q1 k1 ... belong to.
        class_names: display names in label order.
        items: frames of the one run that stages of several frames are compared on; 0 where there is none.
    """

    frames: int
    chain_frames: int
    size_hw: tuple[int, int]
    grid_hw: tuple[int, int]
    layers: tuple[str, ...]
    class_names: tuple[str, ...]
    items: int = 0


@dataclass(frozen=True, slots=True)
class TapFolder:
    """A folder written by `reference_taps`, opened for reading; arrays are read on access."""

    folder: Path
    facts: TapFacts

    @classmethod
    def open(cls, folder: Path) -> "TapFolder":
        """Open a finished folder.

        Raises:
            BundleError: it is not one, or was left unfinished.
        """
        try:
            stored: dict[str, Any] = json.loads((folder / FACTS_NAME).read_bytes())
            values: dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()
            }
            facts = TapFacts(**values)
        except (OSError, ValueError, TypeError) as error:
            raise BundleError(
                f"{folder} holds no finished reference ({error}); write it again with reference_taps"
            ) from error
        return cls(folder, facts)

    @contextmanager
    def text(self) -> Iterator[Tensors]:
        """Token ids and text embeddings."""
        with np.load(self.folder / "text.npz", allow_pickle=False) as tensors:
            yield tensors

    @contextmanager
    def frame(self, index: int) -> Iterator[Tensors]:
        """Inputs, expected outputs and inner tensors of one frame."""
        with np.load(self.folder / f"frame_{index}.npz", allow_pickle=False) as tensors:
            yield tensors

    @contextmanager
    def item(self, index: int) -> Iterator[Tensors]:
        """Inputs and expected outputs of one frame of several in a run."""
        with np.load(self.folder / f"item_{index}.npz", allow_pickle=False) as tensors:
            yield tensors

    @contextmanager
    def chain(self, index: int) -> Iterator[Tensors]:
        """Picture, scores, labels and margin of one frame of the short video."""
        with np.load(self.folder / f"chain_{index}.npz", allow_pickle=False) as tensors:
            yield tensors


def write_tensors(folder: Path, name: str, tensors: Tensors) -> None:
    """Write arrays as `name`.npz, uncompressed: they are read once, soon."""
    arrays: dict[str, Any] = dict(tensors)
    np.savez(folder / f"{name}.npz", **arrays)


def write_facts(folder: Path, facts: TapFacts) -> None:
    """Write the facts, the last file: a folder without them is unfinished."""
    (folder / FACTS_NAME).write_text(json.dumps(asdict(facts), indent=1) + "\n", encoding="utf-8")
