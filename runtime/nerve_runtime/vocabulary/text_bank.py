"""Class names to text embeddings: prompts, averaging over templates, a disk cache by content."""

import hashlib
import io
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nerve_runtime.atomic import write_bytes_whole
from nerve_runtime.bundle.manifest import Manifest
from nerve_runtime.errors import NumericError, ResourceError, UsageError
from nerve_runtime.vocabulary.class_list import ClassList, refuse_odd_characters, strings_of

PROMPTS_PER_RUN = 256  # bounds the memory of the text graph whatever the length of the list
NORM_FLOOR = 1e-12
DIGEST_BYTES = 32

Float32Array = NDArray[np.float32]
EncodePrompts = Callable[[Sequence[str]], Float32Array]
"""Prompts to embeddings, float32 (n, d), each of length 1."""
EmbeddingProgress = Callable[[int, int], None]
"""Called with how many prompts are embedded and how many there are, before the first batch and after each."""

logger = logging.getLogger("nerve_runtime")


@dataclass(frozen=True, slots=True)
class TextBank:
    """A class list as the graphs read it.

    Attributes:
        text_embeddings: float32 (r, d), one row a word, each of length 1.
        class_rows: int64 (c, k), the rows of each class, padded by repeating its first.
        class_mask: bool (c,), which class slots are in use.
        class_names: the names of the classes in use, in the order of the labels.
        has_background: class 0 is "background".
    """

    text_embeddings: Float32Array
    class_rows: NDArray[np.int64]
    class_mask: NDArray[np.bool_]
    class_names: tuple[str, ...]
    has_background: bool


def text_sha256(manifest: Manifest) -> str:
    """One hash of all that turns words into embeddings: the text graph, its external data, the tokenizer's file."""
    stage = manifest.stages["text"]
    parts = [manifest.files[path].sha256 for path in (stage.onnx, *stage.external_data, manifest.vocabulary.tokenizer)]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def chosen_templates(manifest: Manifest, templates: str | Iterable[str] | None) -> tuple[str, ...]:
    """Prompt templates by name, as given, or the bundle's default set for None.

    Raises:
        UsageError: the name is unknown, they are no iterable of plain strings, or one does not hold `{}` exactly once.
    """
    sets = manifest.vocabulary.template_sets
    if templates is None:
        return tuple(sets[manifest.vocabulary.default_template_set])
    if isinstance(templates, str):
        if templates not in sets:
            raise UsageError(f"template set {templates!r} is not in the bundle, expected one of {sorted(sets)}")
        return tuple(sets[templates])
    given = strings_of("the list of templates", templates, ", such as ['a photo of a {}.']")
    for template in given:
        refuse_odd_characters(f"template {template!r}", template)
    wrong = [template for template in given if template.count("{}") != 1]
    if wrong or not given:
        raise UsageError(f"templates {wrong} do not hold {{}} exactly once, expected such as: a photo of a {{}}.")
    return tuple(given)


def build_text_bank(
    class_list: ClassList,
    templates: Sequence[str],
    encode_prompts: EncodePrompts,
    text_sha: str,
    cache_dir: Path | None,
    progress: EmbeddingProgress | None = None,
) -> TextBank:
    """Embed a class list: one row a word, the mean over the templates, of length 1; from the cache where it is there.

    Args:
        class_list: checked names.
        templates: texts with `{}` where the word goes.
        encode_prompts: runs the tokenizer and the text graph on at most `PROMPTS_PER_RUN` prompts.
        text_sha: from `text_sha256`; part of the cache's key.
        cache_dir: folder of the cache, None for no cache.
        progress: told how far it is; not called for what is in the cache.

    Raises:
        NumericError: the text graph gave numbers that are not finite.
    """
    words = [word for synonyms in class_list.synonyms for word in synonyms]
    prompts = [[template.replace("{}", word) for template in templates] for word in words]
    key = hashlib.sha256(json.dumps([text_sha, prompts]).encode()).hexdigest()
    cached = _read_cache(cache_dir, key) if cache_dir else None
    embeddings = cached if cached is not None else _embed(prompts, encode_prompts, progress)
    if cached is None and cache_dir:
        _write_cache(cache_dir, key, embeddings)
    rows = class_rows([len(synonyms) for synonyms in class_list.synonyms])
    mask = np.ones(len(rows), dtype=np.bool_)
    return TextBank(embeddings, rows, mask, class_list.names, class_list.has_background)


def class_rows(words_per_class: Sequence[int]) -> NDArray[np.int64]:
    """Rows of each class, int64 (c, k), when words lie one after another; short classes repeat their first row.

    >>> class_rows([2, 1]).tolist()
    [[0, 1], [2, 2]]
    """
    longest = max(words_per_class)
    starts = np.cumsum([0, *words_per_class[:-1]])
    offsets = np.arange(longest)
    counts = np.asarray(words_per_class)[:, None]
    rows: NDArray[np.int64] = (starts[:, None] + np.where(offsets < counts, offsets, 0)).astype(np.int64)
    return rows


def pad_classes(bank: TextBank, slots: int) -> TextBank:
    """The same bank with its class axis filled up to `slots`; the new slots repeat class 0's rows and are masked off.

    Raises:
        UsageError: the bank has more classes than slots.
    """
    classes = len(bank.class_rows)
    if classes > slots:
        raise UsageError(f"{classes} classes do not fit the {slots} slots of this engine; name fewer classes")
    spare = slots - classes
    rows = np.concatenate([bank.class_rows, np.repeat(bank.class_rows[:1], spare, axis=0)])
    mask = np.concatenate([bank.class_mask, np.zeros(spare, dtype=np.bool_)])
    return TextBank(bank.text_embeddings, rows, mask, bank.class_names, bank.has_background)


def _embed(
    prompts: Sequence[Sequence[str]], encode_prompts: EncodePrompts, progress: EmbeddingProgress | None
) -> Float32Array:
    """The mean over each word's prompts, of length 1; sums are kept, as 80 templates of 1,203 words are 0.3 GB."""
    flat, templates = [prompt for group in prompts for prompt in group], len(prompts[0])
    report = progress or (lambda done, total: None)
    report(0, len(flat))
    sums = np.zeros((len(prompts), 0), dtype=np.float32)
    for start in range(0, len(flat), PROMPTS_PER_RUN):
        embedded = encode_prompts(flat[start : start + PROMPTS_PER_RUN])
        if not start:
            sums = np.zeros((len(prompts), embedded.shape[1]), dtype=np.float32)
        np.add.at(sums, np.arange(start, start + len(embedded)) // templates, embedded)
        report(start + len(embedded), len(flat))
    means = sums / np.float32(templates)
    if not np.isfinite(means).all():
        raise NumericError("the text graph gave embeddings that are not finite; rebuild the bundle in fp32")
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    normalised: Float32Array = (means / np.maximum(lengths, NORM_FLOOR)).astype(np.float32)
    return normalised


def _read_cache(cache_dir: Path, key: str) -> Float32Array | None:
    path = cache_dir / f"{key}.embeddings"
    if not path.is_file():
        return None
    try:
        content = path.read_bytes()
    except OSError as error:
        logger.warning("text cache %s cannot be read (%s) and is computed anew", path, error)
        return None
    digest, payload = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
    if hashlib.sha256(payload).digest() != digest:
        logger.warning("text cache %s is damaged and is computed anew", path)
        return None
    return np.asarray(np.lib.format.read_array(io.BytesIO(payload), allow_pickle=False), dtype=np.float32)


def _write_cache(cache_dir: Path, key: str, embeddings: Float32Array) -> None:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, embeddings, allow_pickle=False)
    payload = buffer.getvalue()
    try:
        write_bytes_whole(cache_dir / f"{key}.embeddings", hashlib.sha256(payload).digest() + payload)
    except ResourceError as error:
        logger.info("text embeddings are not kept for the next start: %s", error)
