"""Results as JSON lines: one object a frame."""

import json
import sys
from contextlib import suppress
from pathlib import Path

from nerve_runtime import FrameResult, ResourceError
from nerve_runtime.atomic import move_into_place, refuse_existing, resource_errors, temporary_beside
from nerve_runtime.result import result_record
from nerve_stream.redaction import readable
from nerve_stream.sinks.base import ReaderGoneError, Sink, UInt8Array, discard_buffer
from nerve_stream.sources.images import Picture

STDOUT = Path("-")


class JsonLines(Sink):
    """One JSON object a line and frame: times, sizes, and the area of every class seen; each line is flushed at once.

    Lines go to a hidden file beside `path`, `.NAME.*.tmp.jsonl`, which is renamed at the end. With `follow`
    they go to `path` itself, for `tail -f`, and what was written stays after an error. A named pipe is written
    through, and opening it waits for its reader.

    Args:
        path: the file; `-` is stdout, which is always followed.
        rle: add each class's run-length encoding, `{"size": [H, W], "counts": [...]}` in COCO's uncompressed form:
            pixels in column order (down the first column, then the next), counts alternating from "not this class".
        source: name of the source, for every line.
        follow: write to the final name from the start.
        force: replace an existing file.
        timings: say how long each stage of a frame took, which is different in every run.

    Raises:
        UsageError: the file exists and `force` is false.
        ResourceError: the folder cannot be written.
    """

    kind = "jsonl"

    def __init__(
        self,
        path: Path,
        *,
        rle: bool = False,
        source: str | None = None,
        follow: bool = False,
        force: bool = False,
        timings: bool = True,
    ) -> None:
        self.path = path
        self._rle = rle
        self._source = source
        self._timings = timings
        self._temporary: Path | None = None
        self._stream = sys.stdout
        self._takes_unicode = path != STDOUT or "utf" in (sys.stdout.encoding or "").lower()
        if path == STDOUT:
            return
        refuse_existing(path, force=force, pipes=True)
        with resource_errors(path):
            if follow:
                path.parent.mkdir(parents=True, exist_ok=True)
            elif not path.is_fifo():
                self._temporary = temporary_beside(path)
            self._stream = (self._temporary or path).open("w", encoding="utf-8", newline="\n")

    def write(self, rgb: UInt8Array, result: FrameResult, picture: Picture | None = None) -> None:
        """Write one line; the frame itself is not used."""
        file = None if picture is None else readable(picture.path.name)
        record = result_record(
            result,
            rle=self._rle,
            source=self._source,
            file=file,
            timings=self._timings,
            instances=result.instances,
        )
        line = json.dumps(record, allow_nan=False, ensure_ascii=not self._takes_unicode)
        try:
            with resource_errors(self.path):
                self._stream.write(f"{line}\n")
                self._stream.flush()
        except ResourceError as error:
            if not isinstance(error.__cause__, BrokenPipeError):
                raise
            discard_buffer(self._stream)
            raise ReaderGoneError(f"nobody reads {self.path} any more") from error

    def commit(self) -> None:
        """Close the file and, unless it was followed, rename it; stdout stays open."""
        with resource_errors(self.path):
            if self.path != STDOUT:
                self._stream.close()
        if self._temporary is not None:
            move_into_place(self._temporary, self.path)
            self._temporary = None

    def abort(self) -> None:
        """Delete the temporary file; lines that were followed stay."""
        if self.path == STDOUT:
            return
        # What cannot be flushed belongs to the file that is deleted here.
        with suppress(OSError):
            self._stream.close()
        if self._temporary is not None:
            self._temporary.unlink(missing_ok=True)
