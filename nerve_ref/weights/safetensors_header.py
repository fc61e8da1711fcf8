"""Checks the header of a safetensors file with json alone, before any library opens it.

The format (source: the safetensors project's format description): eight bytes with the length n of the header, little
endian; n bytes of JSON that map tensor names to dtype, shape and the two ends of their bytes; then those bytes, each
belonging to exactly one tensor.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nerve_ref.weights.errors import WeightError

LENGTH_BYTES = 8
MOST_HEADER_BYTES = 100_000_000
"""The limit of the safetensors library; the UNet of Stable Diffusion has a header of 0.1 MB."""
METADATA = "__metadata__"
DTYPE_BYTES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "I64": 8,
    "U64": 8,
    "F64": 8,
}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor as the header describes it.

    Attributes:
        dtype: one of `DTYPE_BYTES`.
        shape: its sides, outermost first.
        start: offset of its first byte after the header.
        end: offset after its last byte.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file, by name; reads the header only and refuses whatever is not exactly sound.

    Raises:
        WeightError: the file is missing, cut off, padded, or its header lies about length, dtype, shape or place.
    """
    try:
        file_bytes = path.stat().st_size
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(LENGTH_BYTES), "little")
            _check_length(path, length, file_bytes)
            raw = stream.read(length)
    except OSError as error:
        raise WeightError(f"cannot read {path}: {error.strerror or error}; give a file that can be read") from error
    tensors = {
        name: _stored_tensor(path, name, entry) for name, entry in _entries(path, raw).items() if name != METADATA
    }
    _check_places(path, tensors, file_bytes - LENGTH_BYTES - length)
    return tensors


def _check_length(path: Path, length: int, file_bytes: int) -> None:
    if file_bytes < LENGTH_BYTES:
        raise _refusal(path, f"it has {file_bytes} bytes, fewer than the {LENGTH_BYTES} of the header's length")
    if length > MOST_HEADER_BYTES:
        raise _refusal(path, f"its header claims {length} bytes, at most {MOST_HEADER_BYTES} are accepted")
    if LENGTH_BYTES + length > file_bytes:
        raise _refusal(path, f"its header claims {length} bytes, but the file has only {file_bytes}: it is cut off")


def _entries(path: Path, raw: bytes) -> dict[str, Any]:
    """The header as a dictionary; names that occur twice and numbers that are none are refused."""
    if not raw.startswith(b"{"):
        raise _refusal(path, f"its header starts with {raw[:8]!r}, expected '{{'")
    try:
        entries = json.loads(raw.decode("utf-8"), object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise _refusal(path, f"its header is no sound JSON ({error})") from error
    metadata = entries.get(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _refusal(path, f"{METADATA} is not a map from text to text")
    return entries


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} occurs twice")
    return entries


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _stored_tensor(path: Path, name: str, entry: object) -> StoredTensor:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _refusal(path, f"tensor {name!r} is not described by exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise _refusal(path, f"tensor {name!r} has dtype {dtype!r}, expected one of {', '.join(DTYPE_BYTES)}")
    if not _are_counts(shape):
        raise _refusal(path, f"tensor {name!r} has shape {shape!r}, expected a list of sides")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _refusal(path, f"tensor {name!r} lies at {offsets!r}, expected its start and its end")
    expected_bytes = math.prod(shape) * DTYPE_BYTES[dtype]
    if offsets[1] - offsets[0] != expected_bytes:
        raise _refusal(
            path, f"tensor {name!r} of {dtype} {shape} has {offsets[1] - offsets[0]} bytes, expected {expected_bytes}"
        )
    return StoredTensor(dtype, tuple(shape), offsets[0], offsets[1])


def _are_counts(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 63 for item in value)


def _check_places(path: Path, tensors: Mapping[str, StoredTensor], data_bytes: int) -> None:
    """Each byte after the header must belong to exactly one tensor."""
    reached = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if tensor.start < reached:
            raise _refusal(
                path, f"tensor {name!r} starts at {tensor.start} and overlaps the one that ends at {reached}"
            )
        if tensor.start > reached:
            raise _refusal(path, f"there is a hole of {tensor.start - reached} bytes before tensor {name!r}")
        reached = tensor.end
    if reached > data_bytes:
        raise _refusal(path, f"its tensors need {reached} bytes, but {data_bytes} are there: it is cut off")
    if reached < data_bytes:
        raise _refusal(path, f"{data_bytes - reached} bytes at its end belong to no tensor")


def _refusal(path: Path, reason: str) -> WeightError:
    return WeightError(f"{path} is no sound safetensors file: {reason}; fetch it again from where it came")
