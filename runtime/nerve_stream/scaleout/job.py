"""What a job is made of: its inputs, its chunks, what every worker gets to know, and what comes back for each input."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from nerve_stream.outputs.planning import Outputs
from nerve_stream.pipeline.worker import VideoSegmenter
from nerve_stream.redaction import redacted
from nerve_stream.sources.options import ReadOptions

Status = Literal["done", "skipped", "failed", "stopped"]
"""Written now; written by an earlier run with the same settings; not written; not written because the run was ended."""

PICTURES_A_CHUNK = 32
CHUNKS_A_WORKER = 4
"""At least so many chunks a worker while a chunk has more than one picture, so that all end at about the same time."""
STARTS_LIMIT = 2
OPEN_LIMIT_S = 60.0


@dataclass(frozen=True, slots=True)
class JobInput:
    """One file of a job.

    Attributes:
        source: absolute path, or URL that fsspec knows.
        name: path without suffix of its outputs below the folders of outputs; no two inputs of a job share it.
        picture: its suffix is that of an image; what it is, its content decides.
        size_bytes: of the file, 0 if unknown.
    """

    source: str
    name: str
    picture: bool
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Places:
    """The folders of outputs: absolute paths, or URLs that fsspec knows; None for an output that is not asked for."""

    masks: str | None = None
    overlay: str | None = None
    jsonl: str | None = None

    def named(self) -> dict[str, str]:
        """Those that are asked for, by the kind of output."""
        return {kind: place for kind in ("masks", "overlay", "jsonl") if (place := getattr(self, kind)) is not None}


@dataclass(frozen=True, slots=True)
class Job:
    """What every worker gets to know; can be pickled.

    Attributes:
        run: differs from run to run; records of an earlier run are told apart by it.
        key: SHA-256 of all settings that the outputs depend on, see JobKey.
        opener: opens the segmenter, in the worker.
        places: the folders of outputs.
        outputs: how outputs look; their paths are those of `places`.
        read: which part of each input is read.
        hang_timeout_s: a frame that is in the graphs for longer hangs; None waits.
        opencv_threads: of each worker, 0 for as many as OpenCV takes.
        starts_limit: an input that ended its worker so often is given up.
        open_limit_s: an input that takes longer to open hangs.
    """

    run: str
    key: str
    opener: Callable[[], VideoSegmenter]
    places: Places
    outputs: Outputs
    read: ReadOptions
    hang_timeout_s: float | None = None
    opencv_threads: int = 0
    starts_limit: int = STARTS_LIMIT
    open_limit_s: float = OPEN_LIMIT_S

    @property
    def scratch_prefix(self) -> str:
        """How the temporary folders of this run begin, by which those of workers that died are found."""
        return f"nerve-job-{self.run}-"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one input; can be written as JSON.

    Attributes:
        source: of the input.
        status: see Status.
        outputs: paths or URLs of what is in place.
        frames: results written.
        seconds: wall time of this input alone.
        error: why it failed, in one line without credentials.
        exit_code: of the error, 0 without one.
        fatal: no other input will do better; the job ends.
        killed: it failed because its worker died each time.
    """

    source: str
    status: Status
    outputs: tuple[str, ...] = ()
    frames: int = 0
    seconds: float = 0.0
    error: str | None = None
    exit_code: int = 0
    fatal: bool = False
    killed: bool = False

    def record(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "outputs": list(self.outputs)}

    def shown(self) -> dict[str, Any]:
        """As plain values for the user: without credentials, and without what only the job needs."""
        shown = {name: value for name, value in self.record().items() if name not in ("fatal", "killed")}
        return shown | {"source": redacted(self.source), "outputs": [redacted(place) for place in self.outputs]}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "Outcome":
        """The outcome from what `record` gave."""
        return cls(**{**record, "outputs": tuple(record["outputs"])})


def encode_chunk(chunk: Sequence[JobInput]) -> str:
    """A chunk as JSON."""
    return json.dumps([asdict(item) for item in chunk])


def decode_chunk(text: str) -> list[JobInput]:
    """A chunk from what `encode_chunk` gave."""
    return [JobInput(**fields) for fields in json.loads(text)]


def split_into_chunks(inputs: Sequence[JobInput], workers: int) -> list[list[JobInput]]:
    """Groups of whole inputs, the largest first: each video alone, pictures by up to 32.

    A video is never cut: its frames follow each other, and would be followed otherwise on both sides of a cut.

    Args:
        inputs: of the job.
        workers: that share them.
    """
    pictures = [item for item in inputs if item.picture]
    size = max(1, min(PICTURES_A_CHUNK, math.ceil(len(pictures) / (CHUNKS_A_WORKER * workers))))
    chunks = [[item] for item in inputs if not item.picture]
    chunks += [pictures[first : first + size] for first in range(0, len(pictures), size)]
    return sorted(chunks, key=lambda chunk: -sum(item.size_bytes for item in chunk))
