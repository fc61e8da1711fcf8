"""Training pictures of the shapes world with their words: what a captioned web picture would give, nothing finer."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nerve_bench.world import CLASS_NAMES, SEEDS, STUFF, make_scene

TEMPLATE = "a photo of a {}."
CONTEXT_LENGTH = 40
START, END, UNKNOWN = "<start>", "<end>", "<unk>"
THING_SHARE, STUFF_SHARE = 0.01, 0.05
"""Smallest share of the picture from which a thing, or a kind of stuff, is mentioned in the caption."""


@dataclass(frozen=True, slots=True)
class CaptionedScenes:
    """`rgb` uint8 (n,128,128,3) and `present` bool (n,c): which classes a complete caption would name."""

    rgb: NDArray[np.uint8]
    present: NDArray[np.bool_]

    def caption(self, index: int, rng: np.random.Generator) -> str:
        """A complete caption of one scene, its nouns in random order."""
        nouns = [CLASS_NAMES[k] for k in rng.permutation(np.flatnonzero(self.present[index]))]
        return TEMPLATE.format(" and a ".join(nouns))


def captioned_scenes(folder: Path, count: int, progress: "ProgressFactory") -> CaptionedScenes:
    """Make the first `count` training scenes, or read them back from `folder` if they were made before."""
    rgb_path, present_path = folder / f"rgb-{count}.npy", folder / f"present-{count}.npy"
    if not present_path.exists():
        _write_scenes(rgb_path, present_path, progress(range(count), "drawing scenes"))
    return CaptionedScenes(np.load(rgb_path, mmap_mode="r"), np.load(present_path))


def _write_scenes(rgb_path: Path, present_path: Path, indices: Iterable[int]) -> None:
    threshold = np.where(np.arange(len(CLASS_NAMES)) < len(STUFF), STUFF_SHARE, THING_SHARE)
    pictures, present = [], []
    for index in indices:
        scene = make_scene(SEEDS["train"][index])
        share = np.bincount(scene.labels.ravel(), minlength=len(CLASS_NAMES)) / scene.labels.size
        pictures.append(scene.rgb)
        present.append(share > threshold)
    np.save(rgb_path, np.stack(pictures))
    np.save(present_path, np.stack(present))  # written last: its presence says that both files are whole


def make_tokenizer() -> Any:
    """Word-level tokenizer of the world's own vocabulary, padded with the end token to `CONTEXT_LENGTH`, as CLIP does."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    words = sorted({word for text in (*CLASS_NAMES, TEMPLATE.format("and")) for word in text.strip(".").split()})
    vocabulary = {word: index for index, word in enumerate([START, END, UNKNOWN, ".", ",", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, vocabulary[START]), (END, vocabulary[END])]
    )
    tokenizer.enable_padding(pad_id=vocabulary[END], pad_token=END, length=CONTEXT_LENGTH)
    tokenizer.enable_truncation(CONTEXT_LENGTH)
    return tokenizer


class ProgressFactory:
    """Wraps an iterable in a progress bar on stderr with a description; replaceable in tests."""

    def __call__(self, items: Iterable[Any], description: str, total: float | None = None) -> Iterable[Any]:
        """Yield the items while the bar moves; `total` where the items do not know their number."""
        from rich.console import Console
        from rich.progress import track

        return track(items, description=description, total=total, console=Console(stderr=True))
