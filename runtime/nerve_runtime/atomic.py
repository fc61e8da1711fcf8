"""Atomic writing of files, which never replaces a device or a pipe."""

import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nerve_runtime.errors import ResourceError, UsageError

__all__ = [
    "link_target", "move_into_place", "refuse_existing", "refuse_special", "resource_errors", "temporary_affixes",
    "temporary_beside", "write_bytes_whole",
]  # fmt: skip


@contextmanager
def resource_errors(path: Path) -> Iterator[None]:
    """Turn an OSError while writing `path` into a ResourceError that names the file."""
    try:
        yield
    except OSError as error:
        reason = errno.errorcode.get(error.errno or 0, "") or type(error).__name__
        raise ResourceError(
            f"cannot write {path}: {error.strerror or error} ({reason}); free space or choose a folder that can be written"
        ) from error


def link_target(path: Path) -> Path:
    """The absolute path that `path` leads to; of links that lead to each other, one of them, which cannot be opened.

    `Path.resolve` raises a RuntimeError for those before Python 3.13.
    """
    return Path(os.path.realpath(path))


def refuse_special(path: Path, *, pipes: bool = False) -> None:
    """Refuse an output that is no regular file: renaming a file onto a device or pipe would remove it.

    Args:
        path: the output; need not exist.
        pipes: accept a named pipe.

    Raises:
        UsageError: `path`, or what it links to, is a device, a socket or a pipe.
        ResourceError: `stat` fails.
    """
    with resource_errors(path):
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:
            return
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode) or (pipes and stat.S_ISFIFO(mode)):
        return
    kind = "named pipe" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "device"
    expected = "a file name or a named pipe" if pipes else "a file name"
    raise UsageError(f"output {path} is a {kind}, expected {expected}; leave the output out if nobody is to have it")


def temporary_beside(path: Path) -> Path:
    """An empty new file in the folder of `path` (made if needed), hidden, with the same suffix; a link is followed.

    Raises:
        ResourceError: the folder cannot be made or written.
    """
    with resource_errors(path):
        path = link_target(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix, suffix = temporary_affixes(path)
        handle, name = tempfile.mkstemp(prefix=prefix, suffix=suffix, dir=path.parent)
        os.close(handle)
        # mkstemp makes files private; results are as readable as any other file the user writes.
        mask = os.umask(0)
        os.umask(mask)
        Path(name).chmod(0o666 & ~mask)
    return Path(name)


def temporary_affixes(path: Path) -> tuple[str, str]:
    """Prefix and suffix of the temporary names of `path`."""
    return f".{path.stem[:40]}.", f".tmp{path.suffix}"


def move_into_place(temporary: Path, path: Path) -> None:
    """Flush `temporary` to disk and rename it to `path`, replacing a file that is there; of a link, what it leads to.

    Raises:
        UsageError: a device, a socket or a pipe is there.
        ResourceError: the folder cannot be written.
    """
    refuse_special(path)
    with resource_errors(path):
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(link_target(path))


def write_bytes_whole(path: Path, content: bytes) -> None:
    """Write a small file atomically: readers see the old content or the new one, never a part. A pipe is written to.

    Raises:
        UsageError: a device or a socket is there.
        ResourceError: there is no space, or the folder cannot be written; nothing is left behind.
    """
    refuse_special(path, pipes=True)
    if path.is_fifo():
        with resource_errors(path):
            path.write_bytes(content)
        return
    temporary = temporary_beside(path)
    try:
        with resource_errors(path):
            temporary.write_bytes(content)
        move_into_place(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def refuse_existing(path: Path, *, force: bool, pipes: bool = False) -> None:
    """Refuse to overwrite a file unless `force`; writing to a pipe needs no `force`.

    Args:
        path: the output.
        force: replace a file.
        pipes: accept a named pipe.

    Raises:
        UsageError: it exists and `force` is false, or it is a folder, a device, a socket or, without `pipes`, a pipe.
    """
    if path.is_dir():
        raise UsageError(f"output {path} is a folder, expected a file name")
    refuse_special(path, pipes=pipes)
    if path.exists() and not force and not path.is_fifo():
        raise UsageError(f"output {path} exists already; choose another name or add --force to replace it")
