"""Resumable jobs: a record beside the outputs says what is finished, and with which settings."""

import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from filelock import FileLock, Timeout

from nerve_runtime import UsageError
from nerve_runtime.atomic import link_target, resource_errors, temporary_affixes, write_bytes_whole
from nerve_stream.redaction import redacted

RECORD_NAME = ".nerve-job.jsonl"
SOURCE_FIELDS = frozenset({"source", "outputs"})
PICTURE_FIELDS = frozenset({"source", "index", "picture", "mask", "mask_bytes"})
SHORT_CHARACTERS = 80


@dataclass(frozen=True, slots=True)
class JobKey:
    """Everything that determines the outputs; outputs of different keys are not mixed.

    Attributes:
        manifest_sha256: of the bundle's manifest.json.
        classes: class names with their synonyms, in order.
        background: background words.
        templates: the template set's name, or the templates of a file.
        constants: threshold, alpha, beta and all else that changes labels, by name.
        outputs: options that change what is written, such as rle or opacity, by name.
        version: of this package.
    """

    manifest_sha256: str
    classes: tuple[str, ...]
    background: tuple[str, ...]
    templates: str
    constants: Mapping[str, float | int | str | None]
    outputs: Mapping[str, float | int | str | None]
    version: str

    def record(self) -> dict[str, Any]:
        """The first line of the record: the key with `job_key`, its SHA-256."""
        # Through JSON and back, so that it equals the line read from a file: tuples become lists.
        fields: dict[str, Any] = json.loads(json.dumps(asdict(self), sort_keys=True))
        digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
        return {"job_key": digest, **fields}


def record_beside(output: Path, *, folder: bool = False) -> Path:
    """Path of the record of an output: inside a folder of masks, else hidden beside the file.

    >>> record_beside(Path("out/street.mp4")).as_posix(), record_beside(Path("masks"), folder=True).as_posix()
    ('out/.street.mp4.nerve-job.jsonl', 'masks/.nerve-job.jsonl')
    """
    return output / RECORD_NAME if folder else output.with_name(f".{output.name}{RECORD_NAME}")


class Job:
    """The finished work of one job; made by `open_job`, which holds the lock. Thread-safe.

    Attributes:
        resumed: whether an earlier run finished something.
    """

    def __init__(self, path: Path, stream: TextIO, lines: Sequence[Mapping[str, Any]]) -> None:
        self._path = path
        self._stream = stream
        self._lock = threading.Lock()
        self.resumed = bool(lines)
        self._sources: dict[str, Mapping[str, Any]] = {}
        self._pictures: dict[tuple[str, int], Mapping[str, Any]] = {}
        for line in lines:
            self._index_line(line)

    def _index_line(self, line: Mapping[str, Any]) -> None:
        if "picture" in line:
            self._pictures[line["source"], line["index"]] = line
        else:
            self._sources[line["source"]] = line

    def finished(self, source: str | Path) -> bool:
        """Whether a source was finished, is unchanged, and all its outputs exist in their size.

        A camera or URL is never finished; of a folder the names, sizes and times of its files are compared.
        """
        fingerprint, line = file_fingerprint(Path(source)), self._sources.get(str(source))
        if fingerprint is None or line is None or not line.items() >= fingerprint.items():
            return False
        return all(stored_bytes(Path(path)) == size_bytes for path, size_bytes in line["outputs"].items())

    def finish(self, source: str | Path, frames: int, outputs: Sequence[Path]) -> None:
        """Record that a source is finished; call it after its outputs are in place.

        Args:
            source: as given to `finished`.
            frames: results written.
            outputs: files and folders; those that do not exist (an overlay without frames) are left out.

        Raises:
            ResourceError: the record cannot be written.
        """
        sizes = {str(path): stored_bytes(path) for path in outputs if path.exists()}
        # A URL is never looked up again; it is recorded without its password.
        self._add(
            {
                "source": redacted(str(source)),
                **(file_fingerprint(Path(source)) or {}),
                "frames": frames,
                "outputs": sizes,
            }
        )

    def finished_pictures(self, source: str | Path, pictures: Sequence[Path], masks: Path) -> frozenset[int]:
        """Numbers of the frames of a folder of pictures whose masks are finished.

        A picture is finished if its number, name, size and time are those of the record, and its mask exists in its size.
        Adding or removing a picture changes the numbers of those after it, which are then done again.

        Args:
            source: the folder as the user named it.
            pictures: its pictures in the order of their frames.
            masks: the folder of the masks.
        """
        return frozenset(
            index
            for index, picture in enumerate(pictures)
            if self._picture_finished(self._pictures.get((str(source), index)), picture, masks)
        )

    def _picture_finished(self, line: Mapping[str, Any] | None, picture: Path, masks: Path) -> bool:
        if line is None or line["picture"] != picture.name:
            return False
        fingerprint = file_fingerprint(picture)
        if fingerprint is None or not line.items() >= fingerprint.items():
            return False
        return stored_bytes(masks / line["mask"]) == line["mask_bytes"]

    def finish_picture(self, source: str | Path, index: int, picture: Path, mask: Path) -> None:
        """Record that the mask of one picture of a folder is in place.

        Raises:
            ResourceError: the record cannot be written.
        """
        names = {"source": str(source), "index": index, "picture": picture.name}
        self._add({**names, **(file_fingerprint(picture) or {}), "mask": mask.name, "mask_bytes": stored_bytes(mask)})

    def _add(self, line: Mapping[str, Any]) -> None:
        with self._lock, resource_errors(self._path):
            self._stream.write(json.dumps(line, ensure_ascii=True) + "\n")
            self._stream.flush()
            if "picture" not in line:  # of thousands of pictures the masks are checked by size anyway
                os.fsync(self._stream.fileno())
        self._index_line(line)


@contextmanager
def open_job(record: Path, key: JobKey, *, resume: bool, force: bool = False) -> Iterator[Job]:
    """Open the record of a job under its lock, and create it if it is new.

    Args:
        record: its path, see `record_beside`.
        key: what the outputs depend on.
        resume: continue the recorded job.
        force: discard an existing record and start over; with `resume`, only if its key differs.

    Yields:
        The job; its lock is held until the block ends.

    Raises:
        UsageError: a record exists and neither `resume` nor `force` is given; its key differs; it is damaged; another run
            holds the lock.
        ResourceError: the folder cannot be written.
    """
    with locked_outputs(record.with_name(f"{record.name}.lock"), f"the outputs that {record} records"):
        lines = _usable_lines(record, key, resume=resume, force=force)
        if lines is None:
            lines = []
            write_bytes_whole(record, (json.dumps(key.record(), ensure_ascii=True) + "\n").encode())
        with resource_errors(record):
            stream = record.open("a", encoding="utf-8", newline="\n")
        with stream:
            yield Job(record, stream, lines)


@contextmanager
def locked_outputs(lock_file: Path, outputs: str) -> Iterator[None]:
    """Keep other runs from the same outputs during the block.

    Args:
        lock_file: made with its folder if needed.
        outputs: what is locked, for the message.

    Raises:
        UsageError: another run holds the lock.
        ResourceError: the folder cannot be written.
    """
    lock = FileLock(lock_file)
    with resource_errors(lock_file):
        lock_file.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:  # inside resource_errors, because it is an OSError too
            raise UsageError(
                f"another run is writing {outputs}; wait for it to end, or choose another folder"
            ) from error
    try:
        yield
    finally:
        lock.release()


def _usable_lines(record: Path, key: JobKey, *, resume: bool, force: bool) -> list[dict[str, Any]] | None:
    """The finished work in the record, None to start a new one; truncates an incomplete last line."""
    if not record.exists() or (force and not resume):
        return None
    if not resume:
        raise UsageError(f"{record} records a job that was begun here; add --resume to go on or --force to start over")
    with resource_errors(record):
        content = record.read_bytes()
    complete = content[: content.rfind(b"\n") + 1]
    if not complete:
        return None
    header, *finished = _parsed(record, complete, force=force) or [{}]
    if header != key.record():
        if force:
            return None
        raise UsageError(
            f"{record} is of a job with other settings ({key_differences(header, key.record())}); "
            "use the same settings, choose another folder, or add --force to start over"
        )
    if complete != content:
        with resource_errors(record), record.open("r+b") as stream:
            stream.truncate(len(complete))
    return finished


def _parsed(record: Path, content: bytes, *, force: bool) -> list[dict[str, Any]] | None:
    """The lines of a record, the header first; None if it is damaged and may be discarded."""
    try:
        lines: list[dict[str, Any]] = [json.loads(line) for line in content.splitlines()]
        valid = "job_key" in lines[0] and all(
            line.keys() >= PICTURE_FIELDS or line.keys() >= SOURCE_FIELDS for line in lines[1:]
        )
    except (ValueError, AttributeError, TypeError):
        valid = False
    if valid:
        return lines
    if force:
        return None
    raise UsageError(f"{record} is damaged; add --force to start over")


def key_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Which fields of two keys differ, and how."""
    differences = []
    for name in now:
        if name == "job_key" or before.get(name) == now[name]:
            continue
        if name == "manifest_sha256":
            differences.append("another bundle")
        else:
            differences.append(f"{name}: then {_shortened_json(before.get(name))}, now {_shortened_json(now[name])}")
    return "; ".join(differences) or "another kind of record"


def _shortened_json(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHORT_CHARACTERS else f"{text[: SHORT_CHARACTERS - 3]}..."


def stored_bytes(path: Path) -> int | None:
    """Size of a file, or of all files in a folder, None if there is none."""
    if path.is_dir():
        return sum(inside.stat().st_size for inside in path.iterdir() if inside.is_file() and inside.name[0] != ".")
    return path.stat().st_size if path.exists() else None


def file_fingerprint(source: Path) -> dict[str, Any] | None:
    """Size and modification time of a file, or of all files in a folder; None for a URL."""
    try:
        if not source.is_dir():
            state = source.stat()
            return {"size_bytes": state.st_size, "mtime_ns": state.st_mtime_ns} if source.is_file() else None
        files = sorted((path.name, path.stat()) for path in source.iterdir() if path.is_file())
    except OSError:
        return None
    digest = hashlib.sha256(
        json.dumps([[name, state.st_size, state.st_mtime_ns] for name, state in files]).encode()
    ).hexdigest()
    return {"size_bytes": sum(state.st_size for _, state in files), "files_sha256": digest}


def sweep_temporaries(path: Path) -> None:
    """Delete the temporary files and folders that killed runs left of `path`; the caller holds a lock against other writers.

    Raises:
        ResourceError: the folder cannot be written.
    """
    with resource_errors(path):
        path = link_target(path)
        prefix, suffix = map(re.escape, temporary_affixes(path))
        temporary = re.compile(rf"{prefix}[a-z0-9_]{{8}}{suffix}")  # mkstemp inserts eight random characters
        for beside in path.parent.iterdir() if path.parent.is_dir() else ():
            if temporary.fullmatch(beside.name):
                if beside.is_dir():  # a folder of overlays
                    shutil.rmtree(beside)
                else:
                    beside.unlink(missing_ok=True)
