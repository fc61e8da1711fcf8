"""Fetches the files of a network from the first mirror that serves what the lock pins, and keeps them."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_path, user_data_path

from nerve_ref.weights.configs.own import AnyNetwork, Network
from nerve_ref.weights.digests import RememberedDigests, file_sha256
from nerve_ref.weights.errors import MirrorError, StorageError, WeightError
from nerve_ref.weights.formats import PICKLED, UNFINISHED, convert_pickle, is_conversion_of, safetensors_name
from nerve_ref.weights.hub import Hub
from nerve_ref.weights.local import PIPELINE_ROLES, TOKENIZER_FILES, role_file_names
from nerve_ref.weights.lock import (
    PACKAGED_LOCK,
    FilePin,
    LockedNetwork,
    Mirror,
    completed,
    expected_pins,
    is_commit,
    read_lock,
    with_pins,
    write_lock,
)

APPLICATION = "nerve-deploy"
GIGABYTE = 1e9


class DamagedFileError(MirrorError):
    """What came is not what is pinned; it is deleted."""


@dataclass(frozen=True, slots=True)
class WeightFolders:
    """Where things lie, by default in the usual folders of this user; nothing is made there until it is needed.

    Attributes:
        packaged_lock: the lock that came with this version.
        user_lock: what this user pinned at first use.
        downloads: what was fetched: <owner>--<name>/<commit>/<path>, real files.
        digests: remembered hashes.
    """

    packaged_lock: Path = PACKAGED_LOCK
    user_lock: Path = field(default_factory=lambda: user_data_path(APPLICATION) / "weights.lock.json")
    downloads: Path = field(default_factory=lambda: user_cache_path(APPLICATION) / "weights")
    digests: Path = field(default_factory=lambda: user_cache_path(APPLICATION) / "digests.json")


class WeightStore:
    """The weights on this machine, and the hub for what is not there yet.

    Attributes:
        lock: packaged lock, completed with the user's unless `locked`.
        digests: remembered hashes.
    """

    def __init__(
        self, hub: Hub | None, folders: WeightFolders, progress: Callable[[str], None], *, offline: bool, locked: bool
    ) -> None:
        """Read the locks.

        Args:
            hub: asked only for what is not there yet; None where nothing may be asked.
            folders: where things lie.
            progress: gets one line at a time.
            offline: never ask the hub.
            locked: refuse what the packaged lock does not pin.

        Raises:
            WeightError: a lock is not sound.
        """
        self.hub, self.folders, self.progress, self.offline, self.locked = hub, folders, progress, offline, locked
        self.digests = RememberedDigests(folders.digests)
        self.lock = read_lock(folders.packaged_lock)
        self._user_lock = read_lock(folders.user_lock) if not locked and folders.user_lock.is_file() else {}
        self.lock = completed(self.lock, self._user_lock)

    def entry(self, network: AnyNetwork) -> LockedNetwork:
        """The lock's entry of a network; of one that brings its configuration, its repository as pinned at first use.

        Raises:
            WeightError: the lock has none, or the network has no repository.
        """
        if isinstance(network, Network):
            return self._own_entry(network)
        if network not in self.lock:
            known = ", ".join(sorted(self.lock))
            raise WeightError(f"the lock knows no network {network!r}, only {known}; give a local folder")
        return self.lock[network]

    def _own_entry(self, network: Network) -> LockedNetwork:
        if network.repository is None:
            raise WeightError(
                f"{network} has no weights of its own: the preset gives a configuration only; "
                "add hub and revision or path to it, or build with --random-weights"
            )
        files = dict.fromkeys(repository_files(network), FilePin(None, None))
        entry = LockedNetwork(network.licence, (Mirror(network.repository, network.revision, files),))
        return completed({network.name: entry}, self._user_lock)[network.name]

    def folder(self, mirror: Mirror) -> Path:
        """Where the files of a mirror at its commit lie."""
        return self.folders.downloads / mirror.repository.replace("/", "--") / str(mirror.revision)


def repository_files(network: Network) -> tuple[str, ...]:
    """The files of a network that brings its configuration, in the usual layout of the hub: safetensors, unsharded."""
    if "unet" not in network.roles():
        return role_file_names(network.roles()[0])
    parts = tuple(f"{role}/{file}" for role in PIPELINE_ROLES for file in role_file_names(role))
    return (*parts, *(f"tokenizer/{file}" for file in TOKENIZER_FILES))


def fetch(network: AnyNetwork, prefixes: tuple[str, ...], advice: str, store: WeightStore) -> Mirror:
    """The files of a network below some folders: those that are here already, or from the first mirror that serves them.

    Args:
        network: its name in the lock, or one that brings its configuration and has a repository.
        prefixes: what the paths in the repository begin with; "" for all.
        advice: what the user can do if no mirror serves it, e.g. "give a local folder with --sd PATH".
        store: see there.

    Returns:
        The mirror at its commit with these files and their hashes; they lie in `store.folder(mirror)`, pickles as
        safetensors.

    Raises:
        WeightError: no mirror could; names each with its reason.
    """
    entry = store.entry(network)
    failures = []
    for mirror in entry.mirrors:
        paths = tuple(sorted(path for path in mirror.files if path.startswith(prefixes)))
        needed = replace(mirror, files=expected_pins(entry, mirror, paths))
        try:
            if store.locked:
                _refuse_unpinned(needed)
            return _from_mirror(network, needed, store)
        except MirrorError as error:
            failures.append(f"{mirror.repository}: {error}")
            store.progress(f"warning: {network}: {mirror.repository}: {error}")
    raise WeightError(f"no mirror serves {network} ({'; '.join(failures)}); {advice}")


def _refuse_unpinned(mirror: Mirror) -> None:
    advice = "leave --locked out to pin at first use, or have the lock completed with `nerve-build lock`"
    if not is_commit(mirror.revision):
        raise MirrorError(
            f"--locked needs a commit of 40 hex digits, the lock has revision {mirror.revision!r}; {advice}"
        )
    for path, pin in mirror.files.items():
        if pin.sha256 is None:
            raise MirrorError(f"--locked needs a sha256 of {path}, the lock has none; {advice}")


def _from_mirror(network: AnyNetwork, mirror: Mirror, store: WeightStore) -> Mirror:
    if is_commit(mirror.revision) and not _missing(mirror, store):
        return mirror
    if store.offline or store.hub is None:
        raise MirrorError("it was not downloaded before, and the network is not to be used (--offline)")
    is_pinned = is_commit(mirror.revision) and all(pin.sha256 for pin in mirror.files.values())
    if not is_commit(mirror.revision):
        commit, _ = store.hub.files(mirror.repository, mirror.revision or "main")
        if not is_commit(commit):
            raise MirrorError(f"the hub names {commit!r} as the commit, expected 40 hex digits")
        mirror = replace(mirror, revision=commit)
    try:
        store.folders.downloads.mkdir(parents=True, exist_ok=True)
        # Two builders fetch one after the other; the second finds the files of the first.
        with FileLock(store.folders.downloads / f".{mirror.repository.replace('/', '--')}.lock"):
            missing = _with_sizes(mirror, _missing(mirror, store), store.hub)
            _announce(network, mirror, missing, store)
            fetched = {path: _download(mirror, path, pin, store, store.hub) for path, pin in missing.items()}
    except OSError as error:
        raise StorageError(
            f"cannot keep {network} in {store.folders.downloads}: {error.strerror or error}; free space or make it writable"
        ) from error
    mirror = replace(mirror, files={**mirror.files, **fetched})
    if not is_pinned:
        _remember_pins(network, mirror, store)
    return mirror


def _missing(mirror: Mirror, store: WeightStore) -> dict[str, FilePin]:
    """The files that have to be fetched (again): not here, damaged since, or not pinned."""
    return {path: pin for path, pin in mirror.files.items() if not _is_here(mirror, path, pin, store)}


def _is_here(mirror: Mirror, path: str, pin: FilePin, store: WeightStore) -> bool:
    here = store.folder(mirror) / safetensors_name(path)
    if pin.sha256 is None or not here.is_file():
        return False
    if path.endswith(PICKLED):
        return is_conversion_of(here, pin.sha256, store.digests)
    if store.digests.sha256(here) == pin.sha256:
        return True
    store.progress(f"warning: {here} is no longer what was downloaded")
    return False


def _with_sizes(mirror: Mirror, missing: dict[str, FilePin], hub: Hub) -> dict[str, FilePin]:
    """The files with their sizes, asked from the hub where the lock leaves one open."""
    if all(pin.bytes is not None for pin in missing.values()):
        return missing
    _, facts = hub.files(mirror.repository, str(mirror.revision))
    if lost := [path for path in missing if path not in facts]:
        raise MirrorError(f"it no longer has the file {lost[0]}")
    return {path: pin if pin.bytes is not None else replace(pin, bytes=facts[path][0]) for path, pin in missing.items()}


def _announce(network: AnyNetwork, mirror: Mirror, missing: Mapping[str, FilePin], store: WeightStore) -> None:
    if not missing:
        return
    total = sum(pin.bytes or 0 for pin in missing.values())
    here = sum(min(begun_bytes(store.folder(mirror) / path), pin.bytes or 0) for path, pin in missing.items())
    refuse_full_disk(str(network), total - here, store.folders.downloads)
    store.progress(
        f"downloading {network} from {mirror.repository} at {str(mirror.revision)[:12]}: "
        f"{len(missing)} files, {total / GIGABYTE:.2f} GB, into {store.folder(mirror)}"
        + (f"; {here / GIGABYTE:.2f} GB of them are here from before" if here else "")
    )


def refuse_full_disk(what: str, needed_bytes: int, folder: Path) -> None:
    """Refuse what the file system of a folder, which may not be there yet, has no space for.

    Raises:
        StorageError: it is larger than what is free.
    """
    there = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    free = shutil.disk_usage(there).free
    if needed_bytes > free:
        raise StorageError(
            f"{what} needs {needed_bytes / GIGABYTE:.2f} GB in {folder}, {free / GIGABYTE:.2f} GB are free; free space, or "
            "name a larger disk with XDG_CACHE_HOME"
        )


def unfinished_path(path: Path) -> Path:
    """Where a file lies while it is fetched."""
    return path.with_name(f"{path.name}{UNFINISHED}")


def begun_bytes(path: Path) -> int:
    """How much of a file an interrupted download left; 0 if nothing."""
    unfinished = unfinished_path(path)
    return unfinished.stat().st_size if unfinished.is_file() else 0


def _download(mirror: Mirror, path: str, pin: FilePin, store: WeightStore, hub: Hub) -> FilePin:
    """Fetch one file, refuse it unless it is what is pinned; returns what it is now known to be.

    What an interrupted download left is gone on with. A file that is not what is pinned is fetched once more from its
    first byte: its beginning may be older than what the hub serves now.
    """
    target = store.folder(mirror) / path
    unfinished = unfinished_path(target)
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    try:
        got = _arrived(mirror, path, pin, unfinished, hub)
    except DamagedFileError as error:
        store.progress(f"warning: {mirror.repository}: {error}; it is fetched once more")
        got = _arrived(mirror, path, pin, unfinished, hub)
    if not path.endswith(PICKLED):
        unfinished.replace(target)
        return got
    converted = target.with_name(Path(safetensors_name(path)).name)
    store.progress(f"converting {path} to {converted.name}")
    try:
        convert_pickle(unfinished, converted, str(got.sha256))
    except WeightError:
        unfinished.unlink()
        raise
    unfinished.unlink()
    return got


def _arrived(mirror: Mirror, path: str, pin: FilePin, unfinished: Path, hub: Hub) -> FilePin:
    """Fetch what is missing of a file and compare all of it with its pin."""
    if pin.bytes is not None and unfinished.is_file() and unfinished.stat().st_size > pin.bytes:
        unfinished.unlink()
    hub.download(mirror.repository, str(mirror.revision), path, unfinished, pin.bytes)
    got = FilePin(file_sha256(unfinished), unfinished.stat().st_size)
    if pin.bytes not in (None, got.bytes):
        unfinished.unlink()
        raise DamagedFileError(f"{path} came with {got.bytes} bytes, expected {pin.bytes}: it was cut off on the way")
    if pin.sha256 not in (None, got.sha256):
        unfinished.unlink()
        raise DamagedFileError(
            f"{path} is not the file that is pinned: got sha256 {got.sha256}, expected {pin.sha256}; "
            "it was damaged on the way, or changed upstream"
        )
    return got


def _remember_pins(network: AnyNetwork, mirror: Mirror, store: WeightStore) -> None:
    """Note in the user's lock what the packaged one leaves open: from now on other files are refused."""
    path = store.folders.user_lock
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            user = read_lock(path) if path.is_file() else {}
            write_lock(path, with_pins(user, str(network), store.entry(network).licence, mirror))
    except OSError as error:
        raise WeightError(f"cannot write {path}: {error.strerror or error}; make its folder writable") from error
    store.progress(f"pinned {network} at {mirror.repository}@{mirror.revision} in {path}")
