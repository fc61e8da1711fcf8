"""The records of a job: one small file for each input, beside the outputs, written by whichever worker has the input."""

import hashlib
import json
import os
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from nerve_runtime import UsageError
from nerve_stream.jobs import JobKey, key_differences, locked_outputs
from nerve_stream.redaction import redacted
from nerve_stream.scaleout.inputs import tree_path
from nerve_stream.scaleout.job import JobInput, Outcome, Places
from nerve_stream.scaleout.storage import LocalFolder, is_url, open_folder, parsed

RECORDS = ".nerve-job"
HEADER = "job.json"
LOCK = "lock"


@dataclass(frozen=True, slots=True)
class InputRecord:
    """What is known of an input.

    Attributes:
        key: of the settings it was begun with.
        run: that begun it.
        state: "begun" while a worker has it, or when that worker died.
        starts: how often workers of that run have begun it.
        fingerprint: size and time of the input, see `input_fingerprint`.
        outcome: what became of it, none while it is begun.
        outputs: bytes of each output, by kind and name below the folder of that kind.
        source: the input, without credentials; a file of another folder may have the same name.
        own_folders: folders of outputs, relative to the one of the records, in which no file of others was at the places
            of its outputs, so what is there now may be replaced.
    """

    key: str
    run: str
    state: Literal["begun", "ended"]
    starts: int
    fingerprint: Mapping[str, Any]
    outcome: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, Mapping[str, int | None]] = field(default_factory=dict)
    source: str = ""
    own_folders: Sequence[str] = ()

    def outcome_of(self, item: JobInput) -> Outcome:
        """What became of the input, which the record names without credentials."""
        return replace(Outcome.from_record(dict(self.outcome)), source=item.source)


class Records:
    """The records in the first of the folders of outputs.

    Attributes:
        folders: the folders of outputs by kind, relative to the first: records stay true when all are moved together.
    """

    def __init__(self, places: Places) -> None:
        self._folder = open_folder(records_place(places))
        self._outputs = {kind: open_folder(place) for kind, place in places.named().items()}
        first, *_ = trees = {kind: tree_path(place) for kind, place in places.named().items()}
        self.folders = {kind: posixpath.relpath(tree, trees[first]) for kind, tree in trees.items()}

    def read(self, item: JobInput) -> InputRecord | None:
        """The record of an input; None where there is none or it is damaged."""
        content = parsed(self._folder.read(_file_name(item)))
        try:
            return InputRecord(**content)
        except TypeError:
            return None

    def begin(self, item: JobInput, begun: InputRecord) -> None:
        """Note that a worker begins an input."""
        self._write(item, begun)

    def end(self, item: JobInput, begun: InputRecord, outcome: Outcome, names: Mapping[str, str]) -> None:
        """Note what became of an input, once its outputs are in place.

        Args:
            item: the input.
            begun: its record so far.
            outcome: what became of it.
            names: its outputs by kind, below the folder of that kind.
        """
        sizes = {kind: {name: self._outputs[kind].stored_bytes(name)} for kind, name in names.items()}
        fields = asdict(begun) | {
            "state": "ended",
            "outcome": outcome.record() | {"source": begun.source},
            "outputs": sizes,
        }
        self._write(item, InputRecord(**fields))

    def outputs_are_in_place(self, record: InputRecord) -> bool:
        """Whether every output that is asked for is in the record and exists in its size."""
        return record.outputs.keys() >= self._outputs.keys() and all(
            self._outputs[kind].stored_bytes(name) == size
            for kind in self._outputs
            for name, size in record.outputs[kind].items()
        )

    def outcome_of_run(self, item: JobInput, run: str) -> Outcome | None:
        """The outcome that a worker of this run has recorded; the chunk it belongs to may never have come back."""
        record = self.read(item)
        if record is None or record.run != run or record.state != "ended":
            return None
        outcome = record.outcome_of(item)
        return None if outcome.fatal else outcome  # that one says nothing of this input

    @property
    def are_local(self) -> bool:
        """Whether reading thousands of records takes a moment, not an hour."""
        return isinstance(self._folder, LocalFolder)

    def _write(self, item: JobInput, record: InputRecord) -> None:
        self._folder.write(_file_name(item), json.dumps(asdict(record)).encode())


@contextmanager
def opened_records(places: Places, key: JobKey, *, force: bool) -> Iterator[None]:
    """Claim the outputs of a job for the block: keep others out, and compare its settings with those of the run before.

    Every local folder of outputs is locked; at URLs a second run is not noticed.

    Raises:
        UsageError: the settings differ and `force` is not given, or another run writes to one of the folders.
        ResourceError: the folder cannot be written.
    """
    folder = open_folder(records_place(places))
    with _locked_folders(places):
        before, now = parsed(folder.read(HEADER)), key.record()
        if before and before != now and not force:
            raise UsageError(
                f"{redacted(folder.place(HEADER))} is of a job with other settings ({key_differences(before, now)}); "
                "use the same settings, choose other folders, or add --force to start over"
            )
        if before != now:
            folder.write(HEADER, json.dumps(now).encode())
        yield


@contextmanager
def _locked_folders(places: Places) -> Iterator[None]:
    # Of two jobs that name the same folders in another order one gets all of them, as both ask in the order of paths.
    folders = {os.path.realpath(place): place for place in places.named().values() if not is_url(place)}
    with ExitStack() as stack:
        for path, place in sorted(folders.items()):
            stack.enter_context(locked_outputs(Path(path, RECORDS, LOCK), f"the outputs in {place}"))
        yield


def records_place(places: Places) -> str:
    """The folder of the records: in the first folder of outputs, hidden."""
    return f"{next(iter(places.named().values())).rstrip('/')}/{RECORDS}"


def _file_name(item: JobInput) -> str:
    # Names of inputs may be of any length and depth.
    return f"{hashlib.sha256(item.name.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}.json"
