"""Long jobs that go on where they broke off: a record beside the outputs of what is finished, and for which settings."""

import hashlib
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TextIO

from filelock import FileLock, Timeout

from nerve_runtime import UsageError
from nerve_runtime.atomic import resource_errors, write_bytes_whole
from nerve_stream.redaction import redacted

RECORD_NAME = ".nerve-job.jsonl"
SOURCE_FIELDS = frozenset({"source", "outputs"})
PICTURE_FIELDS = frozenset({"source", "index", "picture", "mask", "mask_bytes"})
SHORT_CHARACTERS = 80


@dataclass(frozen=True, slots=True)
class JobKey:
    """Everything that decides what the outputs look like; outputs of another key are not mixed with them.

    Attributes:
        manifest_sha256: of the bundle's manifest.json.
        classes: class names with their synonyms, in order.
        background: background words.
        templates: the template set's name, or the templates of a file.
        constants: threshold, alpha, beta and whatever else changes labels, by name.
        outputs: options that change what is written, by name, such as rle or opacity.
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
        """The key as it stands in the record's first line, with `job_key`, its SHA-256."""
        # Through JSON and back, so that it equals what is read from a file: tuples become lists.
        fields: dict[str, Any] = json.loads(json.dumps(asdict(self), sort_keys=True))
        digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
        return {"job_key": digest, **fields}


def package_version() -> str:
    """The version of nerve-deploy, or `source` when it is run from a checkout."""
    try:
        return version("nerve-deploy")
    except PackageNotFoundError:
        return "source"


def record_beside(output: Path, *, folder: bool = False) -> Path:
    """Where the record of an output belongs: inside a folder of masks, else beside the file, hidden.

    >>> record_beside(Path("out/street.mp4")).as_posix(), record_beside(Path("masks"), folder=True).as_posix()
    ('out/.street.mp4.nerve-job.jsonl', 'masks/.nerve-job.jsonl')
    """
    return output / RECORD_NAME if folder else output.with_name(f".{output.name}{RECORD_NAME}")


class Job:
    """What is finished of one job; made by `open_job`, which holds the lock. Several threads may note what is finished.

    Attributes:
        resumed: lines of an earlier run were found.
    """

    def __init__(self, path: Path, stream: TextIO, lines: Sequence[Mapping[str, Any]]) -> None:
        self._path = path
        self._stream = stream
        self._writing = threading.Lock()
        self.resumed = bool(lines)
        self._sources: dict[str, Mapping[str, Any]] = {}
        self._pictures: dict[tuple[str, int], Mapping[str, Any]] = {}
        for line in lines:
            self._take(line)

    def _take(self, line: Mapping[str, Any]) -> None:
        if "picture" in line:
            self._pictures[line["source"], line["index"]] = line
        else:
            self._sources[line["source"]] = line

    def finished(self, source: str | Path) -> bool:
        """Whether a source was finished, is the same file as then, and all its outputs are there in their size.

        A camera or URL is never finished; a folder is judged by the names, sizes and times of the files in it.
        """
        stamp, line = _stamp(Path(source)), self._sources.get(str(source))
        if stamp is None or line is None or any(line.get(name) != value for name, value in stamp.items()):
            return False
        return all(_size_bytes(Path(path)) == size_bytes for path, size_bytes in line["outputs"].items())

    def finish(self, source: str | Path, frames: int, outputs: Sequence[Path]) -> None:
        """Note that a source is finished; call it after its outputs are in place.

        Args:
            source: as it is given to `finished`.
            frames: results written.
            outputs: files and folders; those that do not exist (an overlay of no frames) are left out.

        Raises:
            ResourceError: the record cannot be written.
        """
        sizes = {str(path): _size_bytes(path) for path in outputs if path.exists()}
        # A URL is never found finished; that it was is told without its password.
        self._add({"source": redacted(str(source)), **(_stamp(Path(source)) or {}), "frames": frames, "outputs": sizes})

    def finished_pictures(self, source: str | Path, pictures: Sequence[Path], masks: Path) -> frozenset[int]:
        """Numbers of the frames of a folder of pictures whose masks are finished.

        That is so when the picture with that number has the name, size and time that it had then, and its mask is there
        in its size. A picture added or removed moves the numbers of those after it, which are then done anew.

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
        stamp = _stamp(picture) or {}
        unchanged = all(line.get(name) == value for name, value in stamp.items())
        return bool(stamp) and unchanged and _size_bytes(masks / line["mask"]) == line["mask_bytes"]

    def finish_picture(self, source: str | Path, index: int, picture: Path, mask: Path) -> None:
        """Note that the mask of one picture of a folder is in place.

        Raises:
            ResourceError: the record cannot be written.
        """
        names = {"source": str(source), "index": index, "picture": picture.name}
        self._add({**names, **(_stamp(picture) or {}), "mask": mask.name, "mask_bytes": _size_bytes(mask)})

    def _add(self, line: Mapping[str, Any]) -> None:
        with self._writing, resource_errors(self._path):
            self._stream.write(json.dumps(line, ensure_ascii=True) + "\n")
            self._stream.flush()
            if "picture" not in line:  # a folder has thousands of pictures; their masks are checked by size anyway
                os.fsync(self._stream.fileno())
        self._take(line)


@contextmanager
def open_job(record: Path, key: JobKey, *, resume: bool, force: bool = False) -> Iterator[Job]:
    """Open the record of a job, alone, and begin it if it is new.

    Args:
        record: its path, see `record_beside`.
        key: what the outputs depend on.
        resume: go on with the job that the record is of.
        force: forget the record if there is one, and start over; with `resume`, only if its key is another.

    Yields:
        The job, whose lock is held until the block ends.

    Raises:
        UsageError: a record is there and neither `resume` nor `force` is given; its key is another one; it is damaged;
            another run holds the lock.
        ResourceError: the folder cannot be written.
    """
    with resource_errors(record):
        record.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(record.with_name(f"{record.name}.lock"))
    with resource_errors(record):
        try:
            lock.acquire(timeout=0)
        except Timeout as error:  # inside, because it is an OSError too
            raise UsageError(
                f"another run is writing the outputs that {record} records; wait for it to end, or choose another folder"
            ) from error
    try:
        lines = _usable_lines(record, key, resume=resume, force=force)
        if lines is None:
            lines = []
            write_bytes_whole(record, (json.dumps(key.record(), ensure_ascii=True) + "\n").encode())
        with resource_errors(record):
            stream = record.open("a", encoding="utf-8", newline="\n")
        with stream:
            yield Job(record, stream, lines)
    finally:
        lock.release()


def _usable_lines(record: Path, key: JobKey, *, resume: bool, force: bool) -> list[dict[str, Any]] | None:
    """The finished work in the record, None to begin a new one; cuts a torn last line off."""
    if not record.exists() or (force and not resume):
        return None
    if not resume:
        raise UsageError(f"{record} records a job that was begun here; add --resume to go on or --force to start over")
    with resource_errors(record):
        content = record.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if not whole:
        return None
    header, *finished = _parsed(record, whole, force=force) or [{}]
    if header != key.record():
        if force:
            return None
        raise UsageError(
            f"{record} is of a job with other settings ({_differences(header, key.record())}); "
            "use the same settings, choose another folder, or add --force to start over"
        )
    if whole != content:
        with resource_errors(record), record.open("r+b") as stream:
            stream.truncate(len(whole))
    return finished


def _parsed(record: Path, whole: bytes, *, force: bool) -> list[dict[str, Any]] | None:
    """The lines of a record, the header first; None if it is damaged and may be forgotten."""
    try:
        lines: list[dict[str, Any]] = [json.loads(line) for line in whole.splitlines()]
        sound = "job_key" in lines[0] and all(
            line.keys() >= PICTURE_FIELDS or line.keys() >= SOURCE_FIELDS for line in lines[1:]
        )
    except (ValueError, AttributeError, TypeError):
        sound = False
    if sound:
        return lines
    if force:
        return None
    raise UsageError(f"{record} is damaged; add --force to start over")


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Which fields of two keys differ, and how where that is short."""
    words = []
    for name in now:
        if name == "job_key" or before.get(name) == now[name]:
            continue
        if name == "manifest_sha256":
            words.append("another bundle")
        else:
            words.append(f"{name}: then {_in_short(before.get(name))}, now {_in_short(now[name])}")
    return "; ".join(words) or "another kind of record"


def _in_short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHORT_CHARACTERS else f"{text[: SHORT_CHARACTERS - 3]}..."


def _size_bytes(path: Path) -> int | None:
    """Size of a file, or of all files in a folder, None if there is none."""
    if path.is_dir():
        return sum(inside.stat().st_size for inside in path.iterdir() if inside.is_file() and inside.name[0] != ".")
    return path.stat().st_size if path.exists() else None


def _stamp(source: Path) -> dict[str, Any] | None:
    """What tells that a source is the same as before: size and time; of a folder, those of its files; None of a URL."""
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
