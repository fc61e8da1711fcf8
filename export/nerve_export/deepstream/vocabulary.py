"""Reads vocabulary files of `nerve-vocab`: the export may not import the runtime's own reader."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize

from nerve_runtime.bundle.manifest import Manifest
from nerve_runtime.bundle.own_sha256 import OwnSha256
from nerve_runtime.errors import UsageError

FORMAT = ("nerve-vocabulary", "1")
VOCABULARY_SHA256 = OwnSha256(b'"sha256":"')
LENGTH_BYTES = 8
SIZE_LIMIT_BYTES = 200_000_000
DTYPES = {"text_embeddings": "F32", "class_rows": "I64"}
ANEW = "write it with nerve-vocab and this bundle"


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Class names with their embeddings.

    Attributes:
        class_names: of the labels 0, 1, ...
        has_background: whether class 0 is the background.
        text_embeddings: float32 (r, d).
        class_rows: int64 (c, k), the rows of each class.
    """

    class_names: tuple[str, ...]
    has_background: bool
    text_embeddings: NDArray[np.float32]
    class_rows: NDArray[np.int64]


def read_vocabulary(path: Path, manifest: Manifest) -> Vocabulary:
    """Read a vocabulary file that was made with the text graph of this bundle.

    Raises:
        UsageError: the file cannot be read, is damaged or no vocabulary, or was made with another bundle.
    """
    content = _content(path)
    try:
        tensors = dict(deserialize(content))
        header = content[LENGTH_BYTES : LENGTH_BYTES + int.from_bytes(content[:LENGTH_BYTES], "little")]
        metadata = json.loads(header).get("__metadata__") or {}
        names = json.loads(metadata.get("class_names", "null"))
    except (SafetensorError, ValueError, RecursionError) as error:
        raise UsageError(f"vocabulary {path} is no valid safetensors file; {ANEW}") from error
    found = (metadata.get("format"), metadata.get("version"))
    if found != FORMAT:
        raise UsageError(f"vocabulary {path} has format and version {found}, expected {FORMAT}; {ANEW}")
    if metadata.get("text_sha256") != text_sha256(manifest):
        raise UsageError(f"vocabulary {path} was made with the text graph of another bundle; {ANEW}")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UsageError(f"vocabulary {path} has class_names that are no list of strings; {ANEW}")
    embeddings, rows = (_array(path, tensors, name) for name in DTYPES)
    is_sound = embeddings.shape[1] == manifest.geometry.text_width and len(rows) == len(names) > 0 and rows.size
    if not is_sound or rows.min() < 0 or rows.max() >= len(embeddings) or not np.isfinite(embeddings).all():
        raise UsageError(
            f"vocabulary {path} has embeddings {embeddings.shape}, rows {rows.shape} and {len(names)} names, expected "
            f"finite embeddings (r, {manifest.geometry.text_width}) and a row of them for each name; {ANEW}"
        )
    if len(names) > manifest.geometry.max_classes:
        raise UsageError(
            f"vocabulary {path} has {len(names)} classes, the bundle takes up to {manifest.geometry.max_classes}; "
            "build it with nerve-build --max-classes"
        )
    return Vocabulary(tuple(names), metadata.get("has_background") == "true", embeddings, rows)


def text_sha256(manifest: Manifest) -> str:
    """One hash of all that turns words into embeddings, as `nerve-vocab` writes it."""
    stage = manifest.stages["text"]
    files = (stage.onnx, *stage.external_data, manifest.vocabulary.tokenizer)
    return hashlib.sha256("".join(manifest.files[path].sha256 for path in files).encode()).hexdigest()


def _content(path: Path) -> bytes:
    try:
        if not path.is_file() or path.stat().st_size > SIZE_LIMIT_BYTES:
            raise UsageError(f"vocabulary {path} is no file of at most {SIZE_LIMIT_BYTES} bytes; {ANEW}")
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"vocabulary {path} cannot be read: {error.strerror or error}; check its rights") from error
    if VOCABULARY_SHA256.written(content) != [VOCABULARY_SHA256.of(content)]:
        raise UsageError(f"vocabulary {path} is no file of nerve-vocab, or was changed or cut; {ANEW}")
    return content


def _array(path: Path, tensors: dict[str, Any], name: str) -> NDArray[Any]:
    tensor = tensors.get(name)
    if tensor is None or tensor["dtype"] != DTYPES[name] or len(tensor["shape"]) != 2:
        raise UsageError(f"vocabulary {path} has no tensor {name} of type {DTYPES[name]} with two axes; {ANEW}")
    kind = "<f4" if name == "text_embeddings" else "<i8"
    return np.frombuffer(tensor["data"], kind).reshape(tensor["shape"])
