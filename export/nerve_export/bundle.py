"""Writes a bundle atomically: into a folder beside the final one, which is renamed when all is checked."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from nerve_runtime.atomic import link_target
from nerve_runtime.bundle.manifest import (
    MANIFEST_NAME,
    FileRecord,
    Manifest,
    file_sha256,
    load_manifest,
    manifest_bytes,
    verify_file,
)
from nerve_runtime.errors import BundleError, ResourceError, UsageError

LOCK_TIMEOUT_S = 7200


@contextmanager
def bundle_lock(out: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Keep other builders of this bundle out; held locks of dead processes are released by the system.

    Args:
        out: the bundle's folder.
        waiting: called once where another builder holds the lock.

    Raises:
        ResourceError: the folder cannot be written, or another builder holds the lock for too long.
    """
    lock = FileLock(out.parent / f".{out.name}.lock")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            waiting()
            lock.acquire(timeout=LOCK_TIMEOUT_S)
    except Timeout as error:
        raise ResourceError(f"another builder has been making {out} for {LOCK_TIMEOUT_S} s; wait or stop it") from error
    except OSError as error:
        raise ResourceError(f"cannot write beside {out}: {error}; choose another place with --out") from error
    try:
        sweep_leftovers(out)
        yield
    finally:
        lock.release()


def sweep_leftovers(out: Path) -> None:
    """Remove leftovers of a killed builder of the folder `out`; called under its lock.

    A builder killed between the two renames of `replace_folder` has moved the old folder aside: it is put back.
    """
    for aside in out.parent.glob(f".{out.name}.old.*.tmp"):
        if not out.exists():
            aside.rename(out)
    for leftover in out.parent.glob(f".{out.name}.*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)


@contextmanager
def staging_folder(out: Path) -> Iterator[Path]:
    """An empty folder beside `out`, gone afterwards unless it was installed.

    Raises:
        ResourceError: the disk is full, or the folder cannot be written.
    """
    folder = out.parent / f".{out.name}.{os.getpid()}.tmp"
    try:
        folder.mkdir()
        yield folder
    except OSError as error:
        raise ResourceError(f"cannot write {folder}: {error}; free space or choose another place with --out") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def replaced_folder(
    out: Path, mark: str, kind: str, bundle: Path, others: Sequence[Path] = (), *, force: bool
) -> Iterator[Path]:
    """An empty folder that takes the place of `out` when the block ends without an error, and what was there is deleted.

    Args:
        out: the folder; its parent is made, and of a link what it leads to is replaced.
        mark: file that the block writes into the folder, which says that a later run may replace it.
        kind: of the folder and by what it is written, for the messages.
        bundle: what the folder is made of.
        others: files that it is made of beside the bundle.
        force: replace a folder with the mark.

    Raises:
        BundleError: there is something at `out` without the mark; it is left alone.
        UsageError: `out` is there and `force` is not given, lies within the bundle, or holds what it would be made of.
        ResourceError: somebody else writes it, the disk is full or it may not be written; nothing is left behind.
    """
    place = link_target(out)
    if place.is_relative_to(link_target(bundle)):
        raise UsageError(f"{out} lies within the bundle, which holds nothing but its own files; choose another --out")
    for path in (bundle, *others):
        if link_target(path).is_relative_to(place):
            raise UsageError(f"{path} lies within {out}, which would be replaced; choose another --out, or move it")
    with _exclusive(place):
        sweep_leftovers(place)
        if place.exists() and not (place.is_dir() and not any(place.iterdir())):
            if not (place / mark).is_file():
                raise BundleError(f"{out} exists and is no {kind} wrote; choose another --out")
            if not force:
                raise UsageError(f"{out} is there already; replace it with --force, or choose another --out")
        with staging_folder(place) as staged:
            yield staged
            replace_folder(staged, place)


@contextmanager
def _exclusive(out: Path) -> Iterator[None]:
    """Keep others from a folder that takes seconds to write: whoever comes second is refused."""
    lock = FileLock(out.parent / f".{out.name}.lock")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # Where no file can be made, as below /proc, the lock would wait for one.
        Path(lock.lock_file).touch()
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ResourceError(f"another nerve-build is writing {out}; wait for it") from error
    except OSError as error:
        raise ResourceError(f"cannot write beside {out}: {error}; choose another place with --out") from error
    try:
        yield
    finally:
        lock.release()


def file_records(folder: Path) -> dict[str, FileRecord]:
    """Size and hash of every file of a staged bundle, but the manifest, by relative path in sorted order."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST_NAME)
    return {
        path.relative_to(folder).as_posix(): FileRecord(bytes=path.stat().st_size, sha256=file_sha256(path))
        for path in paths
    }


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest, the last file of a bundle."""
    (folder / MANIFEST_NAME).write_bytes(manifest_bytes(manifest))


def refuse_foreign(out: Path) -> None:
    """Refuse to replace anything but a bundle, also an old or damaged one, or an empty folder.

    Raises:
        BundleError: there is something else at `out`; it is left alone.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        manifest = json.loads((out / MANIFEST_NAME).read_bytes())
    except (OSError, ValueError):
        manifest = None
    if not isinstance(manifest, dict) or not {"format_version", "plan_key"} <= manifest.keys():
        raise BundleError(
            f"{out} exists and is no bundle (its {MANIFEST_NAME} is missing or not ours); choose another --out"
        )


def install(staged: Path, out: Path) -> None:
    """Put a finished bundle in place of whatever bundle was there.

    Raises:
        BundleError: there is something at `out` that is no bundle; it is left alone.
    """
    refuse_foreign(out)
    replace_folder(staged, out)


def replace_folder(staged: Path, out: Path) -> None:
    """Flush a finished folder to disk and put it in place of the one at `out`, if any, which is deleted.

    Raises:
        OSError: one of them cannot be renamed.
    """
    for path in (*staged.rglob("*"), staged):
        _flush(path)
    old = out.parent / f".{out.name}.old.{os.getpid()}.tmp"
    if out.exists():
        out.rename(old)
    staged.rename(out)
    _flush(out.parent)
    shutil.rmtree(old, ignore_errors=True)


def _flush(path: Path) -> None:
    """Flush a file, or the names in a folder, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def installed_manifest(out: Path, key: str) -> Manifest | None:
    """The manifest of a whole bundle at `out` that was built by the same plan, or None."""
    try:
        manifest = load_manifest(out)
        if manifest.plan_key != key:
            return None
        _verify_touched(out, manifest)
    except (BundleError, OSError):
        return None  # missing or damaged: it will be built again
    return manifest


def _verify_touched(out: Path, manifest: Manifest) -> None:
    """Compare sizes, and hashes of what was written after the manifest, the last file of a build.

    Hashing all of a true-size bundle would take longer than a cache hit may; whoever opens a file hashes it anyway.
    """
    written_ns = (out / MANIFEST_NAME).stat().st_mtime_ns
    for relative, record in manifest.files.items():
        status = (out / relative).lstat()
        if status.st_size != record.bytes or status.st_mtime_ns > written_ns:
            verify_file(out, manifest, relative)
