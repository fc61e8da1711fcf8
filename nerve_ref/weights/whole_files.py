"""Small files of ours that appear whole or not at all, and the hashes of large ones."""

import hashlib
import json
import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from nerve_ref.weights.errors import WeightError

MOST_JSON_BYTES = 64_000_000
"""The tokenizer of CLIP has 2 MB, an index of shards less than 1 MB."""
REMEMBERED_FROM_BYTES = 1 << 20
CLOCK_STEP_S = 0.05
"""A file system notes times in steps of up to 10 ms: a change within one step of the last one would not show."""


def write_text_whole(path: Path, text: str) -> None:
    """Write a file so that readers see the old content or the new one, never a part.

    Raises:
        OSError: there is no space, or the folder cannot be written; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file of at most 64 MB.

    Raises:
        WeightError: it is missing, too large, no JSON, or not an object.
    """
    try:
        if path.stat().st_size > MOST_JSON_BYTES:
            raise WeightError(f"{path} has {path.stat().st_size} bytes, expected at most {MOST_JSON_BYTES} of JSON")
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise WeightError(f"cannot read {path}: {error.strerror or error}; give a folder that has it") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, WeightError):
            raise
        raise WeightError(f"{path} is no JSON ({error}); fetch it again from where it came") from error
    if not isinstance(content, dict):
        raise WeightError(f"{path} holds a {type(content).__name__}, expected a JSON object; fetch it again")
    return content


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
    """SHA-256 of files, remembered in a small JSON file by path, size and times, so that 5 GB are hashed only once.

    The only state is that file. It is a convenience: a file that changed is hashed again, and so is everything if the
    memory is lost, damaged or cannot be written.
    """

    def __init__(self, store: Path, from_bytes: int = REMEMBERED_FROM_BYTES) -> None:
        """Remember in `store`; files smaller than `from_bytes` are always hashed."""
        self._store = store
        self._from_bytes = from_bytes

    def sha256(self, path: Path) -> str:
        """SHA-256 of `path`, 64 hex digits.

        Raises:
            WeightError: it cannot be read.
        """
        try:
            facts = _facts(path)
        except OSError as error:
            raise WeightError(f"cannot read {path}: {error.strerror or error}; give a file that can be read") from error
        if facts[0] < self._from_bytes:
            return file_sha256(path)
        key = os.path.realpath(path)
        known = self._remembered().get(key)
        if isinstance(known, list) and known[:-1] == facts and isinstance(known[-1], str):
            return known[-1]
        _wait_for_the_clock(facts)
        digest = file_sha256(path)
        if _facts(path) != facts:
            raise WeightError(f"{path} changed while it was read; wait until it is whole and try again")
        # Cannot be written: it costs the time to hash again, never correctness.
        with suppress(OSError):
            write_text_whole(self._store, json.dumps({**self._remembered(), key: [*facts, digest]}, indent=0))
        return digest

    def _remembered(self) -> dict[str, Any]:
        try:
            return read_json_object(self._store)
        except WeightError:
            return {}  # none yet, or damaged: everything is hashed again


def _facts(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _wait_for_the_clock(facts: list[int]) -> None:
    """Let a file's last change lie far enough back that the next one must show in its times."""
    age_s = time.time() - max(facts[1:]) / 1e9
    if age_s < CLOCK_STEP_S:
        time.sleep(CLOCK_STEP_S - max(age_s, 0.0))
