"""Weight files with the tensors of the published ones and random numbers in them, made while they are sent.

A number depends on the name of its tensor and its place alone, so any part of a file can be made again at any time.
They keep the variance of what goes through a layer, as trained weights do: with zeros all frames would look alike, and
the comparison with the reference would compare nothing.
"""

import hashlib
import json
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from tests.data.published_files import Tensor, Writer

BLOCK_VALUES = 1 << 20
JITTER = 0.02
LOGIT_SCALE = 4.6052
"""Of CLIP: the logarithm of 100."""
FILE_BLOCK_BYTES = 1 << 22


def _scale(tensor: Tensor) -> tuple[float, float]:
    """Mean and deviation of a tensor's numbers."""
    if tensor.name == "logit_scale":
        return LOGIT_SCALE, 0.0
    if "embedding" in tensor.name.removesuffix(".weight").rsplit(".", 1)[-1] and len(tensor.shape) <= 2:
        return 0.0, tensor.shape[-1] ** -0.5
    if len(tensor.shape) > 1:
        return 0.0, float(np.prod(tensor.shape[1:])) ** -0.5
    return (1.0, JITTER) if tensor.name.endswith(("weight", "lambda1")) else (0.0, JITTER)


def _block(tensor: Tensor, number: int) -> npt.NDArray[np.float32] | npt.NDArray[np.int64]:
    """The numbers of a tensor from `number * BLOCK_VALUES` on."""
    if tensor.dtype == "I64":
        return np.arange(tensor.size // 8, dtype=np.int64)
    count = min(BLOCK_VALUES, tensor.size // 4 - number * BLOCK_VALUES)
    mean, deviation = _scale(tensor)
    generator = np.random.Generator(np.random.SFC64([zlib.crc32(tensor.name.encode()), number]))
    values = generator.random(count, dtype=np.float32)
    values -= np.float32(0.5)
    values *= np.float32(deviation * 12**0.5)
    values += np.float32(mean)
    return values


def _bytes(tensor: Tensor, first: int) -> Iterator[bytes]:
    """The bytes of a tensor from the one with this number on."""
    block_bytes = BLOCK_VALUES * 4
    for number in range(first // block_bytes, -(-tensor.size // block_bytes)):
        yield _block(tensor, number).tobytes()[max(first - number * block_bytes, 0) :]


@dataclass(frozen=True)
class RandomSafetensors:
    """A safetensors file of these tensors that is nowhere; see `tests.data.hub_server.Served`."""

    tensors: Sequence[Tensor]
    writer: Writer

    @cached_property
    def header(self) -> bytes:
        """Length and JSON, as the library writes them."""
        described: dict[str, object] = {"__metadata__": {"format": "pt"}}
        offset = 0
        for tensor in self.tensors:
            offsets = [offset, offset + tensor.size]
            described[tensor.name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": offsets}
            offset += tensor.size
        text = json.dumps(described, separators=(",", ":")).encode()
        text += b" " * self.writer.padding(len(text))
        return len(text).to_bytes(8, "little") + text

    @cached_property
    def size(self) -> int:
        """In bytes."""
        return len(self.header) + sum(tensor.size for tensor in self.tensors)

    @cached_property
    def sha256(self) -> str:
        """64 hex digits; seconds per gigabyte."""
        digest = hashlib.sha256()
        for block in self.blocks(0):
            digest.update(block)
        return digest.hexdigest()

    def blocks(self, first: int) -> Iterator[bytes]:
        """Its bytes from the one with this number on."""
        yield self.header[first:]
        begins = len(self.header)
        for tensor in self.tensors:
            if first < begins + tensor.size:
                yield from _bytes(tensor, max(first - begins, 0))
            begins += tensor.size


@dataclass(frozen=True)
class FileOnDisk:
    """A file that the hub serves from a folder."""

    path: Path

    @cached_property
    def size(self) -> int:
        """In bytes."""
        return self.path.stat().st_size

    @cached_property
    def sha256(self) -> str:
        """64 hex digits."""
        with self.path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def blocks(self, first: int) -> Iterator[bytes]:
        """Its bytes from the one with this number on."""
        with self.path.open("rb") as stream:
            stream.seek(first)
            while block := stream.read(FILE_BLOCK_BYTES):
                yield block


def write_pickle(path: Path, tensors: Sequence[Tensor], size: int | None) -> None:
    """A file of PyTorch with these tensors; a part that nobody reads fills it up to a size in bytes."""
    torch.save({tensor.name: whole(tensor) for tensor in tensors}, path)
    if size is None:
        return
    missing = size - _with_filling(path, b"")
    if missing < 0:
        raise ValueError(f"{path.name} has {-missing} bytes too many")
    torch.save({tensor.name: whole(tensor) for tensor in tensors}, path)
    _with_filling(path, bytes(missing))


def whole(tensor: Tensor) -> torch.Tensor:
    """All numbers of a tensor, in its shape."""
    blocks = [_block(tensor, number) for number in range(-(-tensor.size // (BLOCK_VALUES * 4)))]
    return torch.from_numpy(np.concatenate(blocks).reshape(tensor.shape))


def _with_filling(path: Path, content: bytes) -> int:
    with zipfile.ZipFile(path, "a") as archive:
        folder = archive.namelist()[0].split("/")[0]
        archive.writestr(f"{folder}/filling", content)
    return path.stat().st_size
