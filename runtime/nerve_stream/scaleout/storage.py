"""Files of inputs and outputs wherever they are: local ones as usual, others through fsspec, an extra."""

import asyncio
import json
import os
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nerve_runtime import CompatibilityError, HungError, ResourceError, SourceError, UsageError
from nerve_runtime.atomic import resource_errors, write_bytes_whole
from nerve_stream.jobs import file_fingerprint, stored_bytes
from nerve_stream.redaction import redacted
from nerve_stream.scaleout.job import OPEN_LIMIT_S
from nerve_stream.sinks.masks import CLASSES_FILE

PARTIAL_SUFFIX = ".partial"
STATE_FIELDS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "updated", "created")
"""What file systems call the one fact that tells a changed file from the same one."""
MISSING_EXTRA = (
    'reading and writing {} needs the extra "ray", fsspec is not installed; run: pip install "nerve-deploy[stream,ray]"'
)

_URL = re.compile(r"[a-z][a-z0-9+.-]+(::[a-z0-9+.-]+)*://", re.IGNORECASE)
# A path object keeps one slash of two.
_URL_OF_PATH = re.compile(r"(?P<scheme>(file|local)|[a-z][a-z0-9+.-]+(::[a-z0-9+.-]+)*):/(?!/)", re.IGNORECASE)


def is_url(text: str) -> bool:
    """Whether a place is a URL rather than a path."""
    return _URL.match(text) is not None


def url_of_path(path: Path) -> str:
    """A path from the command line as text, with both slashes where it is a URL.

    >>> url_of_path(Path("s3://bucket/out")), url_of_path(Path("file:///tmp/out")), url_of_path(Path("out"))
    ('s3://bucket/out', 'file:///tmp/out', 'out')
    """
    match = _URL_OF_PATH.match(str(path))
    if match is None:
        return str(path)
    return f"{match['scheme']}:{'///' if match[2] else '//'}{str(path)[match.end() :]}"


@dataclass(frozen=True, slots=True)
class RemotePath:
    """A path in a file system of fsspec."""

    system: Any
    path: str
    url: str


def remote_path(url: str, silence_s: float = OPEN_LIMIT_S) -> RemotePath:
    """Open the file system of a URL.

    Args:
        url: as fsspec takes it.
        silence_s: HTTP servers that send nothing for so long are given up; other file systems have limits of their own.

    Raises:
        CompatibilityError: fsspec, or the package that it needs for this kind of URL, is not installed.
    """
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise CompatibilityError(MISSING_EXTRA.format(redacted(url))) from error
    try:
        system, path = url_to_fs(url, **_http_limits(url, silence_s))
    except ImportError as error:  # such as: install s3fs to access S3
        raise CompatibilityError(f"{redacted(url)} cannot be opened: {error}") from error
    except ValueError as error:
        raise CompatibilityError(
            f"{redacted(url)} cannot be opened: {redacted(str(error))}; check the part before ://"
        ) from error
    return RemotePath(system, path, url)


def _http_limits(url: str, silence_s: float) -> dict[str, Any]:
    """Options by protocol: silence is limited, the whole is not, which ends after 5 min by aiohttp's own default."""
    schemes = {part.partition("://")[0].lower() for part in url.split("::")} & {"http", "https"}
    if not schemes:
        return {}
    from aiohttp import ClientTimeout
    from fsspec.config import conf

    limits = ClientTimeout(total=None, sock_connect=silence_s, sock_read=silence_s)
    return {
        # What the user has configured wins.
        scheme: {"client_kwargs": {"timeout": limits, **conf.get(scheme, {}).get("client_kwargs", {})}}
        for scheme in schemes
    }


def input_fingerprint(source: str, silence_s: float = OPEN_LIMIT_S) -> dict[str, Any]:
    """Size of an input, and its time, tag or hash, whichever its file system tells.

    Raises:
        SourceError: it does not exist or cannot be looked at.
        HungError: its server is silent.
    """
    if not is_url(source):
        return file_fingerprint(Path(source)) or {}
    remote = remote_path(source, silence_s)
    with source_errors(source):
        info = remote.system.info(remote.path)
    state = next((str(info[field]) for field in STATE_FIELDS if info.get(field) is not None), "")
    return {"size_bytes": info.get("size"), "state": state}


def fetched(source: str, folder: Path, silence_s: float = OPEN_LIMIT_S) -> Path:
    """The input as a local file: itself, or a copy of the same name in `folder`.

    Raises:
        SourceError: it cannot be fetched.
        HungError: its server is silent.
    """
    if not is_url(source):
        return Path(source)
    remote = remote_path(source, silence_s)
    copy = folder / (remote.path.rstrip("/").rpartition("/")[2].partition("?")[0] or "input")
    with source_errors(source):
        remote.system.get_file(remote.path, str(copy))
    return copy


def fetched_bytes(folder: Path) -> int:
    """How much of an input has come into its folder so far; -1 where that cannot be said, as when it is deleted."""
    # Looked at from outside, because the file systems of FTP and SFTP call no callback of fsspec.
    try:
        return sum(entry.stat().st_size for entry in os.scandir(folder) if entry.is_file())
    except OSError:
        return -1


def silence(source: str) -> HungError:
    """What is said of an input whose server sends nothing."""
    return HungError(f"source {redacted(source)} is not sent any more; its server or the network hangs")


@contextmanager
def source_errors(source: str) -> Iterator[None]:
    """Turn what a transport raises into a SourceError that names the input, and a limit of silence into a HungError."""
    try:
        yield
    except _transport_errors() as error:
        # fsspec says that a file is missing where its server was silent when asked for the size.
        if _is_silence(error) or _is_silence(error.__cause__):
            raise silence(source) from error
        raise SourceError(f"source {redacted(source)} cannot be read: {redacted(_reason(error))}") from error


def _transport_errors() -> tuple[type[Exception], ...]:
    aiohttp = sys.modules.get("aiohttp")  # imported by fsspec, for http only
    # Before Python 3.11 the second is no OSError.
    return (OSError, asyncio.TimeoutError, *([aiohttp.ClientError] if aiohttp else []))


def _is_silence(error: BaseException | None) -> bool:
    """Whether a transport gave up; where the system did, as on connecting, the error has a number."""
    return isinstance(error, asyncio.TimeoutError) and getattr(error, "errno", None) is None


def _reason(error: Exception) -> str:
    strerror = getattr(error, "strerror", None)
    return str(strerror or f"{type(error).__name__}: {error}")


class OutputFolder(ABC):
    """A folder of outputs or records; names are paths below it, with `/`."""

    @abstractmethod
    def place(self, name: str) -> str:
        """The path or URL of a file."""

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """The content of a file, None if there is none."""

    @abstractmethod
    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all.

        Raises:
            ResourceError: there is no space, or it may not be written.
        """

    @abstractmethod
    def stored_bytes(self, name: str) -> int | None:
        """Size of a file, or of all files of a folder; None if there is none."""


class LocalFolder(OutputFolder):
    """A folder of this machine, or one that is mounted."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def place(self, name: str) -> str:
        """The path of a file."""
        return str(self.path / name)

    def read(self, name: str) -> bytes | None:
        """See OutputFolder."""
        with resource_errors(self.path / name):
            try:
                return (self.path / name).read_bytes()
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes) -> None:
        """See OutputFolder."""
        write_bytes_whole(self.path / name, content)

    def stored_bytes(self, name: str) -> int | None:
        """See OutputFolder."""
        return stored_bytes(self.path / name)


class RemoteFolder(OutputFolder):
    """A folder of a file system of fsspec. A file is written under another name and then moved."""

    def __init__(self, url: str) -> None:
        self._remote = remote_path(url.rstrip("/"))
        self.url = url.rstrip("/")
        self._listed: dict[str, frozenset[str]] = {}

    def place(self, name: str) -> str:
        """The URL of a file."""
        return f"{self.url}/{name}"

    def read(self, name: str) -> bytes | None:
        """See OutputFolder."""
        with self._errors(name):
            try:
                content: bytes = self._remote.system.cat_file(self._path(name))
            except FileNotFoundError:
                return None
            return content

    def write(self, name: str, content: bytes) -> None:
        """See OutputFolder."""
        with self._moved_into_place(name) as partial:
            self._remote.system.pipe_file(partial, content)

    def upload(self, folder: Path) -> None:
        """Write every file of a local folder, at the same path below this one."""
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            with self._moved_into_place(file.relative_to(folder).as_posix()) as partial:
                self._remote.system.put_file(str(file), partial)

    def stored_bytes(self, name: str) -> int | None:
        """See OutputFolder."""
        with self._errors(name):
            self._remote.system.invalidate_cache()
            if not self._remote.system.exists(self._path(name)):
                return None
            return int(self._remote.system.du(self._path(name)))

    def refuse_existing(self, name: str, *, is_mask_folder: bool = False) -> None:
        """Refuse to replace a file, as `nerve_runtime.atomic.refuse_existing` does with local ones.

        Args:
            name: of the file, or of a folder of masks.
            is_mask_folder: refuse a folder that holds PNG files or a `classes.json`, as `refuse_mask_folder` does.

        Raises:
            UsageError: it exists.
            ResourceError: the folder cannot be listed.
        """
        if is_mask_folder:
            if any(inside == CLASSES_FILE or inside.lower().endswith(".png") for inside in self._names_in(name)):
                raise UsageError(
                    f"folder {redacted(self.place(name))} holds masks already; choose another or add --force to replace them"
                )
            return
        folder, _, own = name.rpartition("/")
        if own in self._names_in(folder):
            raise UsageError(
                f"output {redacted(self.place(name))} exists already; choose another name or add --force to replace it"
            )

    def _names_in(self, folder: str) -> frozenset[str]:
        """Names of the files and folders in a folder, as they were when this was first asked: one request a folder.

        A folder that is not in the list of the one above it is not asked for, so a new tree of outputs costs one request.
        """
        if folder not in self._listed:
            above, _, name = folder.rpartition("/")
            is_there = not folder or name in self._names_in(above)
            self._listed[folder] = self._list(folder) if is_there else frozenset()
        return self._listed[folder]

    def _list(self, folder: str) -> frozenset[str]:
        with self._errors(folder):
            self._remote.system.invalidate_cache()
            try:
                paths = self._remote.system.ls(self._path(folder).rstrip("/"), detail=False)
            except (FileNotFoundError, NotADirectoryError):
                return frozenset()
        return frozenset(path.rstrip("/").rpartition("/")[2] for path in paths)

    def _path(self, name: str) -> str:
        return f"{self._remote.path}/{name}"

    @contextmanager
    def _moved_into_place(self, name: str) -> Iterator[str]:
        system, path = self._remote.system, self._path(name)
        with self._errors(name):
            system.makedirs(path.rpartition("/")[0], exist_ok=True)
            yield f"{path}{PARTIAL_SUFFIX}"
            system.mv(f"{path}{PARTIAL_SUFFIX}", path)

    @contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ResourceError(f"cannot write {redacted(self.place(name))}: {redacted(_reason(error))}") from error


def open_folder(place: str) -> LocalFolder | RemoteFolder:
    """The folder at a path or URL; nothing is made.

    Raises:
        CompatibilityError: what its kind of URL needs is not installed.
    """
    return RemoteFolder(place) if is_url(place) else LocalFolder(Path(place))


def parsed(content: bytes | None) -> dict[str, Any]:
    """A JSON object from a file; an empty one where there is none or it is damaged."""
    try:
        value = json.loads(content or b"{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
