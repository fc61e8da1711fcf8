"""The hub behind three methods, so that everything about mirrors can be tested with folders; whoever fetches brings one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable


@runtime_checkable
class Hub(Protocol):
    """A hub of repositories; each method raises `MirrorError` if the hub cannot answer."""

    def files(self, repository: str, revision: str) -> tuple[str, Mapping[str, tuple[int, str | None]]]:
        """The commit (40 hex digits) of a revision, and of each file the size in bytes and, if large, the SHA-256."""
        ...

    def expect(self, total_bytes: int, here_bytes: int) -> None:
        """Hear, before the first file, how many bytes will be fetched in all, and how many of them are here already."""
        ...

    def download(self, repository: str, commit: str, path: str, target: Path, size: int | None) -> None:
        """Fetch one file to `target`, in a folder that exists; what lies there already is its beginning.

        Args:
            repository: "owner/name".
            commit: 40 hex digits.
            path: of the file in the repository.
            target: a real file afterwards.
            size: in bytes, where it is known.
        """
        ...
