"""The lock: which repositories serve which network, at which commit, and the hash of each file."""

import json
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from nerve_ref.weights.digests import file_sha256, write_text_whole
from nerve_ref.weights.errors import MirrorError, WeightError
from nerve_ref.weights.formats import MOST_JSON_BYTES, read_json_object
from nerve_ref.weights.hub import Hub

PACKAGED_LOCK = Path(__file__).parent / "weights.lock.json"
FORMAT_VERSION = 1
_NOTHING_ELSE = ConfigDict(extra="forbid")


def _path_inside(path: str) -> str:
    if "\\" in path or any(part in ("", ".", "..") for part in path.split("/")):
        raise ValueError("expected a path inside the repository")
    return path


@dataclass(frozen=True, slots=True, config=_NOTHING_ELSE)
class FilePin:
    """What a file must be.

    Attributes:
        sha256: 64 hex digits, or None where nobody has vouched for one yet.
        bytes: its size, or None.
    """

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None
    bytes: Annotated[int, Field(ge=0, strict=True)] | None


@dataclass(frozen=True, slots=True, config=_NOTHING_ELSE)
class Mirror:
    """One repository of the hub that serves a network.

    Attributes:
        repository: "owner/name".
        revision: 40 hex digits of a commit; None or a branch is resolved at first use.
        files: pins by path in the repository.
    """

    repository: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")]
    revision: str | None
    files: Mapping[Annotated[str, AfterValidator(_path_inside)], FilePin]


@dataclass(frozen=True, slots=True, config=_NOTHING_ELSE)
class LockedNetwork:
    """One network.

    Attributes:
        licence: under which its weights may be used.
        mirrors: where it is served, in the order in which they are tried; all must serve the same bytes.
    """

    licence: str
    mirrors: Annotated[tuple[Mirror, ...], Field(min_length=1)]


Lock = Mapping[str, LockedNetwork]
_NETWORKS = TypeAdapter(dict[str, LockedNetwork])


def is_commit(revision: str | None) -> bool:
    """Whether a revision names one commit for ever: 40 hex digits, no branch and no tag."""
    return revision is not None and re.fullmatch("[0-9a-f]{40}", revision) is not None


def read_lock(path: Path) -> dict[str, LockedNetwork]:
    """The networks of a lock file, by name.

    Raises:
        WeightError: it is missing, or a field of it is not what it should be.
    """
    content = read_json_object(path)
    if content.get("format_version") != FORMAT_VERSION:
        raise WeightError(
            f"{path} has format_version {content.get('format_version')!r}, expected {FORMAT_VERSION}; "
            "take the lock of this version of nerve-deploy"
        )
    try:
        return _NETWORKS.validate_python(content.get("networks"))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in ("networks", *first["loc"]))
        raise WeightError(
            f"{path} is no sound lock: {field} is {first['input']!r}: {first['msg']}; make it anew with: nerve-build lock"
        ) from error


def lock_text(lock: Lock) -> str:
    """A lock as the text of its file."""
    networks = _NETWORKS.dump_python(dict(lock))
    return json.dumps({"format_version": FORMAT_VERSION, "networks": networks}, indent=2) + "\n"


def write_lock(path: Path, lock: Lock) -> None:
    """Write a lock, whole or not at all.

    Raises:
        WeightError: it cannot be written.
    """
    try:
        write_text_whole(path, lock_text(lock))
    except OSError as error:
        raise WeightError(
            f"cannot write {path}: {error.strerror or error}; choose a folder that can be written"
        ) from error


def completed(packaged: Lock, user: Lock) -> dict[str, LockedNetwork]:
    """The packaged lock, its gaps filled with what this user pinned at first use; what is packaged always wins."""
    pinned = {(name, mirror.repository): mirror for name, entry in user.items() for mirror in entry.mirrors}
    return {
        name: replace(
            entry, mirrors=tuple(_completed(mirror, pinned.get((name, mirror.repository))) for mirror in entry.mirrors)
        )
        for name, entry in packaged.items()
    }


def _completed(mirror: Mirror, user: Mirror | None) -> Mirror:
    # A user's pins of another commit were made under an older version of the packaged lock.
    if user is None or (is_commit(mirror.revision) and mirror.revision != user.revision):
        return mirror
    files = {path: pin if pin.sha256 else user.files.get(path, pin) for path, pin in mirror.files.items()}
    return replace(mirror, revision=user.revision, files=files)


def with_pins(lock: Lock, name: str, licence: str, pinned: Mirror) -> dict[str, LockedNetwork]:
    """The lock with the pins of one mirror added; they replace those of another commit."""
    mirrors = {mirror.repository: mirror for mirror in lock[name].mirrors} if name in lock else {}
    older = mirrors.get(pinned.repository)
    if older is not None and older.revision == pinned.revision:
        pinned = replace(pinned, files={**older.files, **pinned.files})
    return {**lock, name: LockedNetwork(licence, tuple({**mirrors, pinned.repository: pinned}.values()))}


def expected_pins(entry: LockedNetwork, mirror: Mirror, paths: tuple[str, ...]) -> dict[str, FilePin]:
    """What the files of a mirror must be; where it has no hash, the first mirror that has one binds it too."""
    candidates = (mirror, *entry.mirrors)
    pins = {path: [other.files[path] for other in candidates if path in other.files] for path in paths}
    return {path: next((pin for pin in known if pin.sha256 is not None), known[0]) for path, known in pins.items()}


def fill_lock(
    path: Path, progress: Callable[[str], None], *, hub: Hub, source: Path = PACKAGED_LOCK
) -> tuple[str, ...]:
    """Write a copy of a lock in which every gap is filled that a mirror can fill; pins are never changed.

    Args:
        path: of the lock to write; may be that of `source`.
        progress: gets one line per mirror.
        hub: which is asked.
        source: the lock to start from.

    Returns:
        What is still open, one line each: "network owner/name path"; empty if all is pinned.

    Raises:
        WeightError: the source is not sound, or the lock cannot be written.
    """
    lock = read_lock(source)
    for name, entry in lock.items():
        mirrors = tuple(_filled(name, mirror, hub, progress) for mirror in entry.mirrors)
        lock[name] = replace(entry, mirrors=mirrors)
    write_lock(path, lock)
    return tuple(
        f"{name} {mirror.repository} {file}"
        for name, entry in lock.items()
        for mirror in entry.mirrors
        for file, pin in sorted(mirror.files.items())
        if not is_commit(mirror.revision) or pin.sha256 is None
    )


def _filled(name: str, mirror: Mirror, hub: Hub, progress: Callable[[str], None]) -> Mirror:
    """The mirror with its commit, sizes and hashes; as it was, with a warning, where the hub has no such files."""
    try:
        commit, facts = hub.files(mirror.repository, mirror.revision or "main")
        files = {
            path: _filled_pin(mirror.repository, commit, path, pin, facts, hub) for path, pin in mirror.files.items()
        }
    except MirrorError as error:
        progress(f"warning: {name}: {mirror.repository}: {error}; left as it was")
        return mirror
    progress(f"{name}: {mirror.repository} at {commit}")
    return replace(mirror, revision=commit, files=files)


def _filled_pin(
    repository: str, commit: str, path: str, pin: FilePin, facts: Mapping[str, tuple[int, str | None]], hub: Hub
) -> FilePin:
    if path not in facts:
        raise MirrorError(f"it has no {path} at commit {commit}")
    size, sha256 = facts[path]
    if sha256 is None and size > MOST_JSON_BYTES:
        raise MirrorError(f"the hub knows no sha256 of {path}, and {size} bytes are too many to fetch for it")
    if sha256 is None:  # of large files only; a configuration is fetched for its hash
        with tempfile.TemporaryDirectory() as folder:
            fetched = Path(folder) / "file"
            hub.download(repository, commit, path, fetched, size)
            sha256 = file_sha256(fetched)
    if pin.sha256 not in (None, sha256) or pin.bytes not in (None, size):
        raise MirrorError(f"{path} is now {sha256} of {size} bytes, pinned are {pin.sha256} of {pin.bytes}")
    return FilePin(sha256, size)
