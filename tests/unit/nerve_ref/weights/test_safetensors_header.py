"""The header of a safetensors file: what is sound is read, what lies is refused (row 43 of the reliability table)."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from nerve_ref.weights.errors import WeightError
from nerve_ref.weights.safetensors_header import StoredTensor, read_header

TENSORS: dict[str, np.ndarray[Any, Any]] = {
    "b": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a": np.arange(4, dtype=np.float16),
    "empty": np.zeros((0, 3), np.int64),
}
SOUND = save(TENSORS, {"format": "pt"})
HEADER_BYTES = struct.unpack("<Q", SOUND[:8])[0]
DATA = SOUND[8 + HEADER_BYTES :]


def written(path: Path, header: object, data: bytes = b"\0" * 8, length: int | None = None) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return path


def entry(**changes: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}


def test_a_file_of_the_library_is_read_as_the_library_wrote_it(tmp_path: Path) -> None:
    path = tmp_path / "sound.safetensors"
    path.write_bytes(SOUND)
    tensors = read_header(path)
    assert set(tensors) == {"a", "b", "empty"}
    assert tensors["b"].dtype == "F32"
    assert tensors["b"].shape == (2, 3)
    for name, tensor in tensors.items():
        assert DATA[tensor.start : tensor.end] == TENSORS[name].tobytes()


def test_only_the_header_is_read(tmp_path: Path) -> None:
    path = written(tmp_path / "large.safetensors", {"x": entry(shape=[1 << 28], data_offsets=[0, 1 << 30])}, b"")
    with path.open("r+b") as stream:
        stream.truncate(path.stat().st_size + (1 << 30))  # a hole on disk: reading it would take a second
    assert read_header(path) == {"x": StoredTensor("F32", (1 << 28,), 0, 1 << 30)}


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"x": entry(data_offsets=[0, 4])}, r"tensor 'x' of F32 \[2\] has 4 bytes, expected 8"),
        ({"x": entry(shape=[3])}, r"has 8 bytes, expected 12"),
        ({"x": entry(dtype="F99")}, r"dtype 'F99', expected one of BOOL"),
        ({"x": entry(dtype=["F32"])}, r"dtype \['F32'\]"),
        ({"x": entry(shape=[-2])}, r"shape \[-2\]"),
        ({"x": entry(shape=[2.0])}, r"shape \[2\.0\]"),
        ({"x": entry(shape=[True, 2])}, r"shape \[True, 2\]"),
        ({"x": entry(shape="2")}, r"shape '2'"),
        ({"x": entry(data_offsets=[8, 0])}, r"lies at \[8, 0\]"),
        ({"x": entry(data_offsets=[0, 8, 8])}, r"lies at \[0, 8, 8\]"),
        ({"x": entry(more=1)}, r"not described by exactly dtype, shape and data_offsets"),
        ({"x": [1]}, r"not described by exactly"),
        ({"x": entry(), "y": entry()}, r"tensor 'y' starts at 0 and overlaps the one that ends at 8"),
        ({"x": entry(shape=[1], data_offsets=[4, 8])}, r"a hole of 4 bytes before tensor 'x'"),
        ({"x": entry(shape=[4], data_offsets=[0, 16])}, r"need 16 bytes, but 8 are there: it is cut off"),
        ({"x": entry(shape=[1], data_offsets=[0, 4])}, r"4 bytes at its end belong to no tensor"),
        ({"x": entry(), "__metadata__": {"format": 1}}, r"__metadata__ is not a map from text to text"),
        (b'{"x":' + json.dumps(entry()).encode() + b',"x":' + json.dumps(entry()).encode() + b"}", r"'x' occurs twice"),
        (b'{"x": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 8]}}', r"NaN is no number"),
        (b"[1, 2]", r"starts with b'\[1, 2\]', expected '\{'"),
        (b"{" * 200_000, r"no sound JSON"),
        (b'{"\xff": 1}', r"no sound JSON"),
    ],
)
def test_row_43_a_lying_header_is_refused_with_the_reason(tmp_path: Path, header: object, reason: str) -> None:
    path = written(tmp_path / "model.safetensors", header)
    with pytest.raises(
        WeightError, match=rf"model\.safetensors is no sound safetensors file: .*{reason}.*; fetch it again"
    ):
        read_header(path)


@pytest.mark.parametrize(
    ("length", "reason"),
    [
        (10_000, "claims 10000 bytes, but the file has only .*: it is cut off"),
        ((1 << 64) - 1, "claims 18446744073709551615 bytes, at most 100000000 are accepted"),
        (0, r"starts with b'', expected"),
        (3, "no sound JSON"),
    ],
)
def test_row_43_a_lying_header_length_is_refused(tmp_path: Path, length: int, reason: str) -> None:
    path = written(tmp_path / "model.safetensors", {"x": entry()}, length=length)
    with pytest.raises(WeightError, match=reason):
        read_header(path)


@pytest.mark.parametrize("kept", [0, 7, 8, 8 + HEADER_BYTES // 2, len(SOUND) - 1])
def test_row_43_a_truncated_file_is_refused(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(SOUND[:kept])
    with pytest.raises(WeightError, match="no sound safetensors file"):
        read_header(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightError, match=r"cannot read .*nowhere\.safetensors: No such file"):
        read_header(tmp_path / "nowhere.safetensors")


@given(
    changes=st.lists(st.tuples(st.integers(0, 8 + HEADER_BYTES - 1), st.integers(0, 255)), min_size=1, max_size=3),
)
def test_row_43_a_mutated_header_is_refused_or_still_describes_the_same_bytes(
    changes: list[tuple[int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    mutated = bytearray(SOUND)
    for place, byte in changes:
        mutated[place] = byte
    path = tmp_path_factory.getbasetemp() / "mutated.safetensors"
    path.write_bytes(mutated)
    try:
        accepted = read_header(path)
    except WeightError:
        return
    # A mutation may rename a tensor: then the library must open the file as we read it, over exactly the same bytes.
    opened = dict(deserialize(bytes(mutated)))  # type: ignore[no-untyped-call]
    assert {name: (tensor.dtype, list(tensor.shape)) for name, tensor in accepted.items()} == {
        name: (facts["dtype"], facts["shape"]) for name, facts in opened.items()
    }
    in_order = sorted(accepted, key=lambda name: (accepted[name].start, accepted[name].end))
    assert b"".join(bytes(opened[name]["data"]) for name in in_order) == DATA


@given(start=st.integers(0, 40), stop=st.integers(0, 40), side=st.integers(0, 12), tail=st.integers(0, 24))
def test_row_43_whatever_the_library_refuses_is_refused_here_too(
    start: int, stop: int, side: int, tail: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    header = {"a": entry(), "b": entry(dtype="F16", shape=[side], data_offsets=[start, stop])}
    path = written(tmp_path_factory.getbasetemp() / "two.safetensors", header, b"\1" * tail)
    try:
        deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
    except SafetensorError:
        with pytest.raises(WeightError, match="no sound safetensors file"):
            read_header(path)
        return
    assert set(read_header(path)) == {"a", "b"}
