"""Training pictures of the world with their words: what a captioned web picture would give, nothing finer."""

from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nerve_bench.world import CLASS_NAMES, SEEDS, STUFF, make_scene, words_of
from nerve_bench.world.scenes import WORLD_PX, WORLD_THINGS

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
        """A complete caption of one scene, its nouns in random order, each by any of its words."""
        present = rng.permutation(np.flatnonzero(self.present[index]))
        nouns = [str(rng.choice(words_of(CLASS_NAMES[k]))) for k in present]
        return TEMPLATE.format(" and a ".join(nouns))


def captioned_scenes(
    folder: Path, count: int, progress: "ProgressFactory", things: int = WORLD_THINGS
) -> CaptionedScenes:
    """Make the first `count` training scenes of the atlas's first `things`, or read them back from `folder`.

    Captions name the world's classes alone, also where `things` draws others.
    """
    rgb_path, present_path = folder / f"rgb-{count}-{things}.npy", folder / f"present-{count}-{things}.npy"
    if not present_path.exists():
        _write_scenes(rgb_path, present_path, progress(range(count), "drawing scenes"), count, things)
    return CaptionedScenes(np.load(rgb_path, mmap_mode="r"), np.load(present_path))


def _write_scenes(rgb_path: Path, present_path: Path, indices: Iterable[int], count: int, things: int) -> None:
    """Draw on all processors; pictures go straight into a file that is mapped into memory."""
    pictures = np.lib.format.open_memmap(rgb_path, "w+", np.uint8, (count, WORLD_PX, WORLD_PX, 3))
    present = np.zeros((count, len(CLASS_NAMES)), np.bool_)
    with ProcessPoolExecutor() as pool:
        drawn = pool.map(partial(_drawn, things=things), SEEDS["train"][:count], chunksize=64)
        for index, (rgb, classes) in zip(indices, drawn, strict=True):
            pictures[index], present[index] = rgb, classes
    np.save(present_path, present)  # written last: its presence says that both files are whole


def _drawn(seed: int, things: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """The picture with this seed and which classes a complete caption would name."""
    threshold = np.where(np.arange(len(CLASS_NAMES)) < len(STUFF), STUFF_SHARE, THING_SHARE)
    scene = make_scene(seed, things=things)
    share = np.bincount(scene.labels.ravel(), minlength=len(CLASS_NAMES)) / scene.labels.size
    return scene.rgb, share[: len(CLASS_NAMES)] > threshold


def make_tokenizer() -> Any:
    """Word-level tokenizer of the world's own vocabulary, padded with the end token to `CONTEXT_LENGTH`, as CLIP does."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    texts = [TEMPLATE.format("and").strip("."), *(text for name in CLASS_NAMES for text in words_of(name))]
    words = sorted({word for text in texts for word in text.split()})
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
