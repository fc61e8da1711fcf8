"""SHA-256 of files, remembered for the large ones."""

import hashlib
import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from nerve_ref.weights.errors import WeightError

REMEMBERED_FROM_BYTES = 1 << 20
CLOCK_STEP_S = 0.05
"""A file system notes times in steps of up to 10 ms: a change within one step of the last one would not show."""


def write_text_whole(path: Path, text: str) -> None:
    """Write a file so that readers see the old content or the new one, never a part.

    Raises:
        OSError: there is no space, or the folder cannot be written; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file as 64 hex digits; about two seconds per gigabyte.

    Raises:
        WeightError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise WeightError(f"cannot read {path}: {error.strerror or error}; give a file that can be read") from error
    return digest.hexdigest()


class RememberedDigests:
    """SHA-256 of files, remembered by path, size and times in a small JSON file, so that 5 GB are hashed only once.

    A changed file is hashed again, and so is every file if the JSON file is lost, damaged or cannot be written.
    """

    def __init__(self, store: Path, from_bytes: int = REMEMBERED_FROM_BYTES) -> None:
        """Remember in `store`; files smaller than `from_bytes` are always hashed."""
        self._store = store
        self._from_bytes = from_bytes

    def sha256(self, path: Path) -> str:
        """SHA-256 of `path`, 64 hex digits.

        Raises:
            WeightError: it cannot be read, or changes while it is read.
        """
        before = _size_and_times(path)
        if before[0] < self._from_bytes:
            return file_sha256(path)
        key = os.path.realpath(path)
        known = self._remembered().get(key)
        if isinstance(known, list) and known[:-1] == before and isinstance(known[-1], str):
            return known[-1]
        # The last change must lie so far back that the next one shows in the file's times.
        time.sleep(min(max(max(before[1:]) / 1e9 + CLOCK_STEP_S - time.time(), 0.0), CLOCK_STEP_S))
        digest = file_sha256(path)
        if _size_and_times(path) != before:
            raise WeightError(f"{path} changed while it was read; wait until it is whole and try again")
        # Cannot be written: it costs the time to hash again, never correctness.
        with suppress(OSError):
            write_text_whole(self._store, json.dumps({**self._remembered(), key: [*before, digest]}, indent=0))
        return digest

    def _remembered(self) -> dict[str, Any]:
        with suppress(OSError, ValueError, RecursionError):
            known = json.loads(self._store.read_bytes())
            return known if isinstance(known, dict) else {}
        return {}


def _size_and_times(path: Path) -> list[int]:
    try:
        status = path.stat()
    except OSError as error:
        raise WeightError(f"cannot read {path}: {error.strerror or error}; give a file that can be read") from error
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
