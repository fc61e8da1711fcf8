"""The header of a safetensors file: what lies is refused, by the library (row 43 of docs/faults.md)."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from nerve_ref.weights.errors import WeightError
from nerve_ref.weights.formats import check_safetensors

TENSORS: dict[str, np.ndarray[Any, Any]] = {
    "b": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a": np.arange(4, dtype=np.float16),
    "empty": np.zeros((0, 3), np.int64),
}
SOUND = save(TENSORS, {"format": "pt"})
HEADER_BYTES = struct.unpack("<Q", SOUND[:8])[0]


def written(path: Path, header: object, data: bytes = b"\0" * 8, length: int | None = None) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return path


def entry(**changes: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}


def test_only_the_header_is_read(tmp_path: Path) -> None:
    path = written(tmp_path / "large.safetensors", {"x": entry(shape=[1 << 28], data_offsets=[0, 1 << 30])}, b"")
    with path.open("r+b") as stream:
        stream.truncate(path.stat().st_size + (1 << 30))  # a hole on disk: reading it would take a second
    assert check_safetensors(path) == ("x",)


@pytest.mark.parametrize(
    "header",
    [
        {"x": entry(data_offsets=[0, 4])},
        {"x": entry(shape=[3])},
        {"x": entry(dtype="F99")},
        {"x": entry(dtype=["F32"])},
        {"x": entry(shape=[-2])},
        {"x": entry(shape=[2.5])},
        {"x": entry(shape="2")},
        {"x": entry(data_offsets=[8, 0])},
        {"x": entry(data_offsets=[0, 8, 8])},
        {"x": [1]},
        {"x": entry(), "y": entry()},
        {"x": entry(shape=[1], data_offsets=[4, 8])},
        {"x": entry(shape=[4], data_offsets=[0, 16])},
        {"x": entry(shape=[1], data_offsets=[0, 4])},
        {"x": entry(), "__metadata__": {"format": 1}},
        b'{"x": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 8]}}',
        b"[1, 2]",
        b"{" * 200_000,
        b'{"\xff": 1}',
    ],
)
def test_row_43_a_lying_header_is_refused(tmp_path: Path, header: object) -> None:
    path = written(tmp_path / "model.safetensors", header)
    with pytest.raises(WeightError, match=r"model\.safetensors is no sound safetensors file: .*; fetch it again"):
        check_safetensors(path)


@pytest.mark.parametrize("length", [10_000, (1 << 64) - 1, 0, 3])
def test_row_43_a_lying_header_length_is_refused(tmp_path: Path, length: int) -> None:
    path = written(tmp_path / "model.safetensors", {"x": entry()}, length=length)
    with pytest.raises(WeightError, match="is no sound safetensors file"):
        check_safetensors(path)


@pytest.mark.parametrize("kept", [0, 7, 8, 8 + HEADER_BYTES // 2, len(SOUND) - 1])
def test_row_43_a_truncated_file_is_refused(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(SOUND[:kept])
    with pytest.raises(WeightError, match="no sound safetensors file"):
        check_safetensors(path)
