"""The lock: which repositories serve which network, at which commit, and the hash of each file."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nerve_ref.weights.errors import WeightError
from nerve_ref.weights.whole_files import read_json_object, write_text_whole

PACKAGED_LOCK = Path(__file__).parent / "weights.lock.json"
FORMAT_VERSION = 1
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class FilePin:
    """What a file must be.

    Attributes:
        sha256: 64 hex digits, or None where nobody has vouched for one yet.
        bytes: its size, or None.
    """

    sha256: str | None = None
    bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Mirror:
    """One repository of the hub that serves a network.

    Attributes:
        repository: "owner/name".
        revision: 40 hex digits of a commit; None or a branch is asked for at first use.
        files: pins by path in the repository.
    """

    repository: str
    revision: str | None
    files: Mapping[str, FilePin]


@dataclass(frozen=True, slots=True)
class LockedNetwork:
    """One network.

    Attributes:
        licence: under which its weights may be used.
        mirrors: where it is served, in the order in which they are tried; all must serve the same bytes.
    """

    licence: str
    mirrors: tuple[Mirror, ...]


Lock = Mapping[str, LockedNetwork]


def is_commit(revision: str | None) -> bool:
    """Whether a revision names one commit for ever: 40 hex digits, no branch and no tag."""
    return revision is not None and _COMMIT.fullmatch(revision) is not None


def read_lock(path: Path) -> dict[str, LockedNetwork]:
    """The networks of a lock file, by name.

    Raises:
        WeightError: it is missing, or a line of it is not what it should be.
    """
    content = read_json_object(path)
    if content.get("format_version") != FORMAT_VERSION:
        raise WeightError(
            f"{path} has format_version {content.get('format_version')!r}, expected {FORMAT_VERSION}; "
            "take the lock of this version of nerve-deploy"
        )
    try:
        return {name: _network(entry) for name, entry in content["networks"].items()}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise WeightError(f"{path} is no sound lock ({error}); make it anew with: nerve-build lock") from error


def _network(entry: Mapping[str, Any]) -> LockedNetwork:
    mirrors = tuple(_mirror(mirror) for mirror in entry["mirrors"])
    if not mirrors or not isinstance(entry["licence"], str):
        raise ValueError("a network needs a licence and at least one mirror")
    return LockedNetwork(entry["licence"], mirrors)


def _mirror(entry: Mapping[str, Any]) -> Mirror:
    repository, revision = entry["repository"], entry["revision"]
    if not _REPOSITORY.fullmatch(repository):
        raise ValueError(f"repository is {repository!r}, expected 'owner/name'")
    if revision is not None and not isinstance(revision, str):
        raise ValueError(f"revision of {repository} is {revision!r}, expected text or null")
    return Mirror(repository, revision, {path: _pin(path, pin) for path, pin in entry["files"].items()})


def _pin(path: str, entry: Mapping[str, Any]) -> FilePin:
    if not path or "\\" in path or any(part in ("", ".", "..") for part in path.split("/")):
        raise ValueError(f"file {path!r} is no path inside a repository")
    sha256, size = entry["sha256"], entry["bytes"]
    if sha256 is not None and not _SHA256.fullmatch(sha256):
        raise ValueError(f"sha256 of {path} is {sha256!r}, expected 64 hex digits or null")
    if size is not None and (type(size) is not int or size < 0):
        raise ValueError(f"bytes of {path} is {size!r}, expected a count or null")
    return FilePin(sha256, size)


def lock_text(lock: Lock) -> str:
    """A lock as the text of its file: sorted, so that a change shows as few lines."""
    networks = {
        name: {
            "licence": entry.licence,
            "mirrors": [
                {
                    "repository": mirror.repository,
                    "revision": mirror.revision,
                    "files": {
                        path: {"sha256": pin.sha256, "bytes": pin.bytes} for path, pin in sorted(mirror.files.items())
                    },
                }
                for mirror in entry.mirrors
            ],
        }
        for name, entry in sorted(lock.items())
    }
    return json.dumps({"format_version": FORMAT_VERSION, "networks": networks}, indent=2) + "\n"


def write_lock_file(path: Path, lock: Lock) -> None:
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
    return {
        name: replace(entry, mirrors=tuple(_completed(mirror, user.get(name)) for mirror in entry.mirrors))
        for name, entry in packaged.items()
    }


def _completed(mirror: Mirror, user: LockedNetwork | None) -> Mirror:
    for known in user.mirrors if user else ():
        if known.repository != mirror.repository:
            continue
        if is_commit(mirror.revision) and mirror.revision != known.revision:
            continue  # pinned at another commit, by an older version of the packaged lock
        files = {path: _filled(pin, known.files.get(path)) for path, pin in mirror.files.items()}
        return replace(mirror, revision=known.revision, files=files)
    return mirror


def _filled(pin: FilePin, known: FilePin | None) -> FilePin:
    if known is None or (pin.sha256 is not None and pin.sha256 != known.sha256):
        return pin
    return FilePin(pin.sha256 or known.sha256, known.bytes if pin.bytes is None else pin.bytes)


def with_pins(lock: Lock, name: str, licence: str, pinned: Mirror) -> dict[str, LockedNetwork]:
    """The lock with the facts of one mirror added, or put in the place of those of another commit."""
    entry = lock.get(name, LockedNetwork(licence, ()))
    older = [mirror for mirror in entry.mirrors if mirror.repository == pinned.repository]
    if older and older[0].revision == pinned.revision:
        pinned = replace(pinned, files={**older[0].files, **pinned.files})
    others = tuple(mirror for mirror in entry.mirrors if mirror.repository != pinned.repository)
    return {**lock, name: replace(entry, mirrors=(*others, pinned))}


def expected_pins(entry: LockedNetwork, mirror: Mirror, paths: tuple[str, ...]) -> dict[str, FilePin]:
    """What the files of a mirror must be; where it has no pin, the first mirror that has one binds it too."""
    return {path: _expected(entry, mirror.files[path], path) for path in paths}


def _expected(entry: LockedNetwork, pin: FilePin, path: str) -> FilePin:
    if pin.sha256 is not None:
        return pin
    others = (mirror.files.get(path, FilePin()) for mirror in entry.mirrors)
    return next((other for other in others if other.sha256 is not None), pin)
