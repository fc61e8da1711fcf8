"""Vocabulary files: a text bank as a safetensors file that holds its own SHA-256. Specified line by line in docs/bundle.md."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from nerve_runtime.bundle.own_sha256 import NO_SHA256, OwnSha256
from nerve_runtime.errors import UsageError
from nerve_runtime.labels import CLASSES_LIMIT
from nerve_runtime.vocabulary.class_list import refuse_odd_characters
from nerve_runtime.vocabulary.text_bank import TextBank

FORMAT, VERSION = "nerve-vocabulary", "1"
VOCABULARY_FILE_LIMIT_BYTES = 200_000_000
VOCABULARY_SHA256 = OwnSha256(b'"sha256":"')
LENGTH_BYTES = 8
ZIP_START = b"PK\x03\x04"
BOOLEANS = {"true": True, "false": False}
TENSOR_NAMES = ("text_embeddings", "class_rows")
ANEW = "write it anew with nerve-vocab"


def vocabulary_bytes(bank: TextBank, text_sha: str) -> bytes:
    """The content of a vocabulary file, with its own hash in it."""
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "class_names": json.dumps(bank.class_names),
        "has_background": str(bank.has_background).lower(),
        "text_sha256": text_sha,
        "sha256": NO_SHA256,
    }
    tensors: dict[str, NDArray[Any]] = {"text_embeddings": bank.text_embeddings, "class_rows": bank.class_rows}
    return VOCABULARY_SHA256.filled_in(save(tensors, metadata))


def load_vocabulary(path: Path, text_sha: str, text_width: int) -> TextBank:
    """Read a vocabulary file written by `nerve-vocab` for the same text graph and tokenizer.

    Args:
        path: the file.
        text_sha: from `text_sha256` of the bundle.
        text_width: width of the bundle's embeddings.

    Raises:
        UsageError: the file is missing, too large, damaged, no vocabulary, or made with another bundle's text graph.
    """
    content = _read(path)
    _refuse_changed(path, content)
    metadata, tensors = _parsed(path, content)
    names, has_background = _described(path, metadata)
    made_with = metadata.get("text_sha256", "")
    if made_with != text_sha:
        raise UsageError(
            f"vocabulary {path} was made with text graph {made_with[:12]}..., this bundle has {text_sha[:12]}...; {ANEW}"
        )
    embeddings, rows = _arrays(path, tensors, len(names), text_width)
    for name in names:
        refuse_odd_characters(f"class {name!r} of vocabulary {path}", name)
    return TextBank(embeddings, rows, np.ones(len(rows), dtype=np.bool_), names, has_background)


def _read(path: Path) -> bytes:
    try:
        if not path.is_file() or path.stat().st_size > VOCABULARY_FILE_LIMIT_BYTES:
            raise UsageError(
                f"vocabulary {path} is no file of at most {VOCABULARY_FILE_LIMIT_BYTES} bytes; see nerve-vocab"
            )
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"vocabulary {path} cannot be read: {error.strerror or error}; check its rights") from error


def _refuse_changed(path: Path, content: bytes) -> None:
    if content.startswith(ZIP_START):
        raise UsageError(
            f"vocabulary {path} is a file of numpy, as nerve-vocab wrote before version 1 of the format; {ANEW}"
        )
    header_bytes = int.from_bytes(content[:LENGTH_BYTES], "little")
    if content[LENGTH_BYTES : LENGTH_BYTES + 1] != b"{" or header_bytes > len(content) - LENGTH_BYTES:
        raise UsageError(f"vocabulary {path} is no safetensors file, or was cut; {ANEW}")
    written = VOCABULARY_SHA256.written(content)
    if len(written) != 1:
        raise UsageError(
            f"vocabulary {path} is no file of nerve-vocab: it holds its own sha256 {len(written)} times, "
            f"expected once; {ANEW}"
        )
    computed = VOCABULARY_SHA256.of(content)
    if written[0] != computed:
        raise UsageError(
            f"vocabulary {path} was changed or cut after it was written: its sha256 is {computed[:12]}..., "
            f"it says {written[0][:12]}...; copy it again, or {ANEW}"
        )


def _parsed(path: Path, content: bytes) -> tuple[Mapping[str, str], Mapping[str, Any]]:
    """Metadata and tensors, checked by the library: sizes, offsets and types of the header."""
    header = content[LENGTH_BYTES : LENGTH_BYTES + int.from_bytes(content[:LENGTH_BYTES], "little")]
    try:
        tensors = dict(deserialize(content))
        entries = json.loads(header, object_pairs_hook=_without_repeats)
    except (SafetensorError, ValueError, RecursionError) as error:
        raise UsageError(f"vocabulary {path} is no valid safetensors file; {ANEW}") from error
    return entries.get("__metadata__") or {}, tensors


def _without_repeats(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return dict(pairs)


def _described(path: Path, metadata: Mapping[str, str]) -> tuple[tuple[str, ...], bool]:
    """The names of the classes, and whether class 0 is the background."""
    found = (metadata.get("format"), metadata.get("version"))
    if found != (FORMAT, VERSION):
        raise UsageError(
            f"vocabulary {path} has format {found[0]!r} version {found[1]!r}, "
            f"expected {FORMAT!r} version {VERSION!r}; {ANEW}"
        )
    names = _strings(metadata.get("class_names", ""))
    if names is None:
        raise UsageError(f"vocabulary {path} has class_names that are no JSON list of strings; {ANEW}")
    background = metadata.get("has_background")
    if background not in BOOLEANS:
        raise UsageError(f"vocabulary {path} has has_background {background!r}, expected 'true' or 'false'; {ANEW}")
    return names, BOOLEANS[background]


def _strings(text: str) -> tuple[str, ...] | None:
    try:
        names = json.loads(text)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            return None
        json.dumps(names, ensure_ascii=False).encode()  # an escaped half of a surrogate pair is no character
    except (ValueError, RecursionError):
        return None
    return tuple(names)


def _arrays(
    path: Path, tensors: Mapping[str, Any], classes: int, text_width: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    if set(tensors) != set(TENSOR_NAMES):
        raise UsageError(
            f"vocabulary {path} does not hold the tensors text_embeddings and class_rows, and only these; {ANEW}"
        )
    (dtype, shape), (row_dtype, row_shape) = (
        (tensors[name]["dtype"], tuple(tensors[name]["shape"])) for name in TENSOR_NAMES
    )
    if (
        (dtype, row_dtype) == ("F32", "I64")
        and (len(shape), len(row_shape)) == (2, 2)
        and shape[1] == text_width
        and 2 <= classes == row_shape[0] <= CLASSES_LIMIT
        and row_shape[1] > 0
    ):
        embeddings = np.frombuffer(tensors["text_embeddings"]["data"], "<f4").reshape(shape)
        rows = np.frombuffer(tensors["class_rows"]["data"], "<i8").reshape(row_shape)
        if rows.min() >= 0 and rows.max() < len(embeddings) and np.isfinite(embeddings).all():
            return embeddings.astype(np.float32), rows.astype(np.int64)
    raise UsageError(
        f"vocabulary {path} holds embeddings {dtype} {shape}, rows {row_dtype} {row_shape} and {classes} names, "
        f"expected finite F32 (r, {text_width}) and I64 (c, k) within them; {ANEW}"
    )
