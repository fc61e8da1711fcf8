"""Fills the gaps of a lock from the hub; for those who maintain the packaged one."""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from nerve_ref.weights.errors import MirrorError
from nerve_ref.weights.hub import Hub, HuggingFaceHub
from nerve_ref.weights.lock import PACKAGED_LOCK, FilePin, Mirror, is_commit, read_lock, write_lock_file
from nerve_ref.weights.whole_files import MOST_JSON_BYTES, file_sha256


def write_lock(
    path: Path, progress: Callable[[str], None], *, hub: Hub | None = None, source: Path = PACKAGED_LOCK
) -> tuple[str, ...]:
    """Write a copy of the lock in which every gap is filled that a mirror can fill; pins are never changed.

    Args:
        path: of the lock to write; may be that of `source`.
        progress: told one line per mirror.
        hub: the public one by default.
        source: the lock to start from.

    Returns:
        What is still open, one line each: "network owner/name path"; empty if all is pinned.

    Raises:
        WeightError: the source is not sound, or the lock cannot be written.
    """
    hub = hub or HuggingFaceHub()
    lock = read_lock(source)
    for name, entry in lock.items():
        mirrors = tuple(_filled_or_left(name, mirror, hub, progress) for mirror in entry.mirrors)
        lock[name] = replace(entry, mirrors=mirrors)
    write_lock_file(path, lock)
    return tuple(
        f"{name} {mirror.repository} {file}"
        for name, entry in lock.items()
        for mirror in entry.mirrors
        for file, pin in sorted(mirror.files.items())
        if not is_commit(mirror.revision) or pin.sha256 is None
    )


def _filled_or_left(name: str, mirror: Mirror, hub: Hub, progress: Callable[[str], None]) -> Mirror:
    try:
        filled = _filled(mirror, hub)
    except MirrorError as error:
        progress(f"warning: {name}: {mirror.repository}: {error}; left as it was")
        return mirror
    progress(f"{name}: {mirror.repository} at {filled.revision}")
    return filled


def _filled(mirror: Mirror, hub: Hub) -> Mirror:
    """The mirror with its commit, sizes and hashes.

    Raises:
        MirrorError: the hub does not serve it, or serves another file than is pinned.
    """
    commit = mirror.revision if is_commit(mirror.revision) else hub.commit(mirror.repository, mirror.revision or "main")
    commit = str(commit)
    facts = hub.file_facts(mirror.repository, commit)
    files = {}
    for path, pin in mirror.files.items():
        if path not in facts:
            raise MirrorError(f"it has no {path} at commit {commit}")
        size, sha256 = facts[path]
        sha256 = sha256 or _small_file_sha256(mirror.repository, commit, path, size, hub)
        if (pin.sha256 or sha256) != sha256 or (size if pin.bytes is None else pin.bytes) != size:
            raise MirrorError(f"{path} is now {sha256} of {size} bytes, pinned are {pin.sha256} of {pin.bytes}")
        files[path] = FilePin(sha256, size)
    return Mirror(mirror.repository, commit, files)


def _small_file_sha256(repository: str, commit: str, path: str, size: int, hub: Hub) -> str:
    """The hub knows hashes of large files only; a configuration is fetched for its hash."""
    if size > MOST_JSON_BYTES:
        raise MirrorError(f"the hub knows no sha256 of {path}, and {size} bytes are too many to fetch for it")
    with tempfile.TemporaryDirectory() as folder:
        return file_sha256(hub.download(repository, commit, path, Path(folder)))
