"""Fetches the files of a network from the first mirror that serves what the lock pins, and keeps them."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_path, user_data_path

from nerve_ref.weights.conversion import convert_pickle, is_conversion_of, safetensors_name
from nerve_ref.weights.errors import MirrorError, WeightError
from nerve_ref.weights.formats import PICKLED
from nerve_ref.weights.hub import Hub
from nerve_ref.weights.lock import (
    PACKAGED_LOCK,
    FilePin,
    Lock,
    LockedNetwork,
    Mirror,
    completed,
    expected_pins,
    is_commit,
    read_lock,
    with_pins,
    write_lock_file,
)
from nerve_ref.weights.whole_files import RememberedDigests, file_sha256

APPLICATION = "nerve-deploy"
RELOCK = "have the lock completed with `nerve-build lock`"


@dataclass(frozen=True, slots=True)
class WeightFolders:
    """Where things lie.

    Attributes:
        packaged_lock: the lock that came with this version.
        user_lock: what this user pinned at first use.
        downloads: what was fetched: <owner>--<name>/<commit>/<path>, real files.
        digests: remembered hashes.
    """

    packaged_lock: Path
    user_lock: Path
    downloads: Path
    digests: Path


def user_folders() -> WeightFolders:
    """The usual folders of this user; nothing is made there until it is needed."""
    cache = user_cache_path(APPLICATION)
    return WeightFolders(
        PACKAGED_LOCK, user_data_path(APPLICATION) / "weights.lock.json", cache / "weights", cache / "digests.json"
    )


@dataclass(frozen=True, slots=True)
class WeightStore:
    """What fetching needs: the lock in force, the hub, the folders, and what is allowed.

    Attributes:
        lock: packaged lock, completed with the user's unless `locked`.
        hub: asked only for what is not there yet.
        folders: where things lie.
        digests: remembered hashes.
        progress: told one line at a time.
        offline: never ask the hub.
        locked: refuse what the packaged lock does not pin.
    """

    lock: Lock
    hub: Hub
    folders: WeightFolders
    digests: RememberedDigests
    progress: Callable[[str], None]
    offline: bool
    locked: bool


def open_store(
    hub: Hub, folders: WeightFolders, progress: Callable[[str], None], *, offline: bool, locked: bool
) -> WeightStore:
    """Read the locks.

    Raises:
        WeightError: one of them is not sound.
    """
    lock: Lock = read_lock(folders.packaged_lock)
    if not locked and folders.user_lock.is_file():
        lock = completed(lock, read_lock(folders.user_lock))
    return WeightStore(lock, hub, folders, RememberedDigests(folders.digests), progress, offline, locked)


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """One file of a network.

    Attributes:
        path: in the repository.
        here: where it lies; a conversion to safetensors if the repository has a pickle.
        sha256: of the file in the repository.
    """

    path: str
    here: Path
    sha256: str


@dataclass(frozen=True, slots=True)
class Fetched:
    """The files of a network that were asked for, all from one mirror at one commit."""

    repository: str
    commit: str
    licence: str
    folder: Path
    files: tuple[FetchedFile, ...]


def locked_network(lock: Lock, network: str) -> LockedNetwork:
    """The entry of a network.

    Raises:
        WeightError: the lock has none.
    """
    if network not in lock:
        raise WeightError(f"the lock knows no network {network!r}, only {', '.join(sorted(lock))}; give a local folder")
    return lock[network]


def fetch(network: str, wanted: Callable[[str], bool], advice: str, store: WeightStore) -> Fetched:
    """The wanted files of a network: those that are here already, or from the first mirror that serves them.

    Args:
        network: its name in the lock.
        wanted: whether a path in the repository is needed.
        advice: what the user can do if no mirror serves it, e.g. "give a local folder with --sd PATH".
        store: see there.

    Raises:
        WeightError: no mirror could; names each with its reason.
    """
    entry = locked_network(store.lock, network)
    failures = []
    for mirror in entry.mirrors:
        paths = tuple(sorted(path for path in mirror.files if wanted(path)))
        pins = expected_pins(entry, mirror, paths)
        try:
            _refuse_unpinned(mirror, pins, store)
            return _from_mirror(network, entry, mirror, pins, store)
        except MirrorError as error:
            failures.append(f"{mirror.repository}: {error}")
            store.progress(f"warning: {network}: {mirror.repository}: {error}")
    raise WeightError(f"no mirror serves {network} ({'; '.join(failures)}); {advice}")


def _refuse_unpinned(mirror: Mirror, pins: Mapping[str, FilePin], store: WeightStore) -> None:
    if not store.locked:
        return
    if not is_commit(mirror.revision):
        raise MirrorError(
            f"--locked needs a commit of 40 hex digits, the lock has revision {mirror.revision!r}; "
            f"leave --locked out to pin at first use, or {RELOCK}"
        )
    for path, pin in pins.items():
        if pin.sha256 is None:
            raise MirrorError(
                f"--locked needs a sha256 of {path}, the lock has none; "
                f"leave --locked out to pin at first use, or {RELOCK}"
            )


def _from_mirror(
    network: str, entry: LockedNetwork, mirror: Mirror, pins: Mapping[str, FilePin], store: WeightStore
) -> Fetched:
    if is_commit(mirror.revision):
        present = _present(mirror, pins, entry.licence, store)
        if present is not None:
            return present
    if store.offline:
        raise MirrorError("it was not downloaded before, and the network is not to be used (--offline)")
    commit = mirror.revision if is_commit(mirror.revision) else None
    commit = commit or store.hub.commit(mirror.repository, mirror.revision or "main")
    if not is_commit(commit):
        raise MirrorError(f"the hub names {commit!r} as the commit, expected 40 hex digits")
    mirror = Mirror(mirror.repository, commit, mirror.files)
    pins = _agreed_pins(pins, store.hub.file_facts(mirror.repository, commit), commit)
    try:
        store.folders.downloads.mkdir(parents=True, exist_ok=True)
        # Two builders fetch one after the other; the second finds the files of the first.
        with FileLock(store.folders.downloads / f".{_folder_name(mirror)}.lock"):
            missing = {path: pin for path, pin in pins.items() if _local_file(mirror, path, pin, store) is None}
            _announce(network, mirror, missing, store)
            known = {path: _download(mirror, path, pin, store) for path, pin in missing.items()}
            shutil.rmtree(_partial(mirror, store), ignore_errors=True)
    except OSError as error:
        raise WeightError(
            f"cannot keep {network} in {store.folders.downloads}: {error.strerror or error}; free space or make it writable"
        ) from error
    pins = {**pins, **known}
    _remember_pins(network, entry, Mirror(mirror.repository, commit, pins), store)
    present = _present(mirror, pins, entry.licence, store)
    if present is None:
        raise MirrorError("its files changed while they were fetched")
    return present


def _folder_name(mirror: Mirror) -> str:
    return mirror.repository.replace("/", "--")


def _folder(mirror: Mirror, store: WeightStore) -> Path:
    return store.folders.downloads / _folder_name(mirror) / str(mirror.revision)


def _partial(mirror: Mirror, store: WeightStore) -> Path:
    """Where files lie until they are checked; kept after a failure, so that huggingface_hub can resume."""
    folder = _folder(mirror, store)
    return folder.with_name(f".{folder.name}.part")


def _present(mirror: Mirror, pins: Mapping[str, FilePin], licence: str, store: WeightStore) -> Fetched | None:
    """The files, if all of them are here and are what they must be."""
    files = []
    for path, pin in pins.items():
        here = _local_file(mirror, path, pin, store)
        if here is None or pin.sha256 is None:
            return None
        files.append(FetchedFile(path, here, pin.sha256))
    return Fetched(mirror.repository, str(mirror.revision), licence, _folder(mirror, store), tuple(files))


def _local_file(mirror: Mirror, path: str, pin: FilePin, store: WeightStore) -> Path | None:
    """Where a file lies that was fetched before and is what it must be; None if it has to be fetched (again)."""
    folder = _folder(mirror, store)
    if pin.sha256 is None:
        return None
    if path.endswith(PICKLED):
        converted = folder / safetensors_name(path)
        return converted if is_conversion_of(converted, pin.sha256, store.digests) else None
    if not (folder / path).is_file():
        return None
    if store.digests.sha256(folder / path) == pin.sha256:
        return folder / path
    store.progress(f"warning: {folder / path} is no longer what was downloaded")
    return None


def _agreed_pins(
    pins: Mapping[str, FilePin], facts: Mapping[str, tuple[int, str | None]], commit: str
) -> dict[str, FilePin]:
    """The pins, their gaps filled with what the hub says; where the two disagree the hub's file is refused.

    Raises:
        MirrorError: a file is missing, or is another one.
    """
    agreed = {}
    for path, pin in pins.items():
        if path not in facts:
            raise MirrorError(f"it has no {path} at commit {commit}")
        size, sha256 = facts[path]
        if None not in (pin.sha256, sha256) and pin.sha256 != sha256:
            raise _other_file(path, f"sha256 {sha256}", f"{pin.sha256}")
        if pin.bytes is not None and pin.bytes != size:
            raise _other_file(path, f"{size} bytes", f"{pin.bytes}")
        agreed[path] = FilePin(pin.sha256 or sha256, size)
    return agreed


def _other_file(path: str, got: str, expected: str) -> MirrorError:
    return MirrorError(
        f"{path} is not the file that is pinned: got {got}, expected {expected}; it was changed upstream"
    )


def _announce(network: str, mirror: Mirror, missing: Mapping[str, FilePin], store: WeightStore) -> None:
    if not missing:
        return
    total = sum(pin.bytes or 0 for pin in missing.values())
    free = shutil.disk_usage(store.folders.downloads).free
    if total > free:
        raise WeightError(
            f"{network} needs {total / 1e9:.2f} GB in {store.folders.downloads}, {free / 1e9:.2f} GB are free; free space"
        )
    store.progress(
        f"downloading {network} from {mirror.repository} at {str(mirror.revision)[:12]}: "
        f"{len(missing)} files, {total / 1e9:.2f} GB, into {_folder(mirror, store)}"
    )


def _download(mirror: Mirror, path: str, pin: FilePin, store: WeightStore) -> FilePin:
    """Fetch one file beside its place, check it, move it there; returns what it is now known to be."""
    folder = _folder(mirror, store)
    fetched = store.hub.download(mirror.repository, str(mirror.revision), path, _partial(mirror, store))
    size = fetched.stat().st_size
    sha256 = file_sha256(fetched)
    try:
        if pin.bytes is not None and size != pin.bytes:
            raise MirrorError(f"{path} came with {size} bytes, expected {pin.bytes}: it was cut off on the way")
        if pin.sha256 is not None and sha256 != pin.sha256:
            raise _other_file(path, f"sha256 {sha256}", pin.sha256)
        target = folder / (safetensors_name(path) if path.endswith(PICKLED) else path)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.endswith(PICKLED):
            store.progress(f"converting {path} to {target.name}")
            convert_pickle(fetched, target, sha256)
        else:
            fetched.replace(target)
    finally:
        fetched.unlink(missing_ok=True)
    return FilePin(sha256, size)


def _remember_pins(network: str, entry: LockedNetwork, pinned: Mirror, store: WeightStore) -> None:
    """Note in the user's lock what the packaged one leaves open: from now on other files are refused."""
    packaged = locked_network(read_lock(store.folders.packaged_lock), network)
    for mirror in packaged.mirrors:
        same = mirror.repository == pinned.repository and is_commit(mirror.revision)
        if same and all(mirror.files[path].sha256 == pin.sha256 for path, pin in pinned.files.items()):
            return
    lock_path = store.folders.user_lock
    try:
        lock_path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock_path.with_name(f".{lock_path.name}.lock")):
            user = read_lock(lock_path) if lock_path.is_file() else {}
            write_lock_file(lock_path, with_pins(user, network, entry.licence, pinned))
    except OSError as error:
        raise WeightError(f"cannot write {lock_path}: {error.strerror or error}; make its folder writable") from error
    store.progress(f"pinned {network} at {pinned.repository}@{pinned.revision} in {lock_path}")
