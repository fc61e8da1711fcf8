"""An export: a sink whose files appear whole at the end."""

from abc import abstractmethod
from pathlib import Path

from nerve_runtime import FrameResult
from nerve_runtime.atomic import refuse_existing, write_bytes_whole
from nerve_stream.exports.segments import picture_name
from nerve_stream.sinks.base import Sink, UInt8Array
from nerve_stream.sources.images import Picture


class FileExport(Sink):
    """One file for all pictures of a source, written at the end.

    Args:
        path: the file.
        force: replace an existing file.

    Raises:
        UsageError: the file exists and `force` is false.
    """

    kind = "export"
    inside: tuple[str, ...] = ()

    def __init__(self, path: Path, *, force: bool = False) -> None:
        self.refuse(path, force=force)
        self.path = path

    @staticmethod
    def refuse(path: Path, *, force: bool) -> None:
        """Refuse a file that is there, unless `force`."""
        refuse_existing(path, force=force)

    def write(self, rgb: UInt8Array, result: FrameResult, picture: Picture | None = None) -> None:
        """Add one picture; one whose scores were not finite has no segments."""
        self.add(picture_name(result.index, picture), result)

    @abstractmethod
    def add(self, name: str, result: FrameResult) -> None:
        """Add a picture of that file name."""

    @abstractmethod
    def content(self) -> bytes:
        """The file."""

    def commit(self) -> None:
        """Write the file."""
        write_bytes_whole(self.path, self.content())

    def abort(self) -> None:
        """Nothing was written."""
