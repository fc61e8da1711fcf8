"""What does the inputs of a job, one after the other, in a process of its own: one segmenter, any number of inputs."""

import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from nerve_runtime import HungError, NerveError, NumericError
from nerve_runtime.opencv import cv2
from nerve_stream.jobs import sweep_temporaries
from nerve_stream.outputs.opened import OpenSource
from nerve_stream.outputs.planning import (
    Outputs,
    PlannedSource,
    SourceKind,
    refuse_conflicts,
    refuse_outputs,
    source_kind,
)
from nerve_stream.pipeline import LocalWorker, StreamJob, StreamOptions, StreamReport, run_streams
from nerve_stream.redaction import redacted
from nerve_stream.scaleout.job import Job, JobInput, Outcome
from nerve_stream.scaleout.records import InputRecord, Records
from nerve_stream.scaleout.storage import (
    LocalFolder,
    fetched,
    fetched_bytes,
    input_fingerprint,
    is_url,
    open_folder,
    silence,
)
from nerve_stream.sinks.masks import refuse_mask_classes
from nerve_stream.sources.opening import refuse_unreadable
from nerve_stream.sources.options import LiveOptions

KINDS: tuple[SourceKind, ...] = ("picture", "video")
TRANSPORT_FIRST = 2.5
"""A transport that has the limit itself reaches it first, HTTP twice, by HEAD and by GET; then no process has to end."""
LOOKS = 20
"""For a sign of life, within the limit."""

logger = logging.getLogger("nerve_runtime")


class StoppedError(NerveError):
    """The job was ended before this input was done; its outputs are not kept."""


class NotOpenedError(NerveError):
    """The segmenter cannot be opened, so no input can be done; the exit code is that of the cause."""

    def __init__(self, cause: NerveError) -> None:
        super().__init__(str(cause))
        self.exit_code = cause.exit_code


@dataclass(frozen=True, slots=True)
class _Written:
    report: StreamReport
    names: Mapping[str, str]
    """Outputs by kind, below the folder of that kind."""


class JobWorker:
    """Segments inputs and writes their outputs and records; the segmenter is opened for the first one that needs it.

    Args:
        job: what to do with each input.
        stop: set it to end the input under way, in another thread or a signal handler.
        die: ends this process at once; a hang in native code can be ended no other way.
    """

    def __init__(
        self, job: Job, stop: threading.Event | None = None, *, die: Callable[[int], object] = os._exit
    ) -> None:
        self._job, self._die = job, die
        self._stop = stop or threading.Event()
        self._records = Records(job.places)
        self._folders = {kind: open_folder(place) for kind, place in job.places.named().items()}
        self._worker: LocalWorker | None = None
        if job.opencv_threads:
            cv2.setNumThreads(job.opencv_threads)

    def run(self, item: JobInput) -> Outcome:
        """Do one input, or find that it is done; what goes wrong with it is in the outcome."""
        started_s = time.monotonic()
        begun: InputRecord | None = None
        names: Mapping[str, str] = {}
        try:
            record = self._records.read(item)
            first = self._first_record(item, record)
            known = self._known(item, record)
            if known is None:
                with self._heard(item, first):
                    first = replace(first, fingerprint=input_fingerprint(item.source, self._job.open_limit_s))
                known = self._done_before(item, record, first)
            if known is not None:
                if known.killed:
                    self._sweep(self._outputs(item, kind, self._local_places(), force=True) for kind in KINDS)
                return known
            # The record of another source, whose outputs are there, stays if this one is refused because of them.
            begun = first if record is None or record.source == first.source else None
            with tempfile.TemporaryDirectory(prefix=self._job.scratch_prefix) as scratch:
                plan, places = self._plan(item, Path(scratch), first)
                if first.own_folders:
                    self._sweep([plan.outputs])
                # From here on what lies at the places of these outputs is this job's, whatever ends this process.
                begun = replace(first, own_folders=sorted({*first.own_folders, *self._records.folders.values()}))
                self._records.begin(item, begun)
                written = self._segment(item, self._opened(), begun, plan, places)
            names = written.names
            outcome = self._judged(item, written)
        except StoppedError:
            return Outcome(item.source, "stopped")
        except NerveError as error:
            outcome = _failed(item, error)
        except Exception as error:  # a bug, or an error of a file system's own: the others go on
            logger.exception("source %s failed by a bug", redacted(item.source))
            outcome = Outcome(item.source, "failed", error=f"unexpected: {_one_line(error)}", exit_code=1)
        if self._worker is not None and self._worker.state == "failed":
            self.close()
        outcome = replace(outcome, seconds=round(time.monotonic() - started_s, 3))
        return self._recorded(item, begun, outcome, names)

    def _first_record(self, item: JobInput, record: InputRecord | None) -> InputRecord:
        """The record of an input that is begun; outputs are ours where an earlier record of this very source says so."""
        source, starts = redacted(item.source), self._starts(record) + 1
        own = record.own_folders if record is not None and record.source == source else ()
        return InputRecord(self._job.key, self._job.run, "begun", starts, {}, source=source, own_folders=own)

    def _known(self, item: JobInput, record: InputRecord | None) -> Outcome | None:
        """The outcome of an input that has one already in this run."""
        if record is None or record.key != self._job.key:
            return None
        if record.state == "begun" and self._starts(record) >= self._job.starts_limit:
            ended = f"{record.starts} times" if record.starts > 2 else "twice"
            reason = (
                f"source {redacted(item.source)} ended its worker process {ended}; it was killed or crashed each time"
            )
            return Outcome(item.source, "failed", error=reason, exit_code=HungError.exit_code, killed=True)
        # Of this run: the worker died later, and its chunk is done again.
        return record.outcome_of(item) if record.state == "ended" and record.run == self._job.run else None

    def _done_before(self, item: JobInput, record: InputRecord | None, first: InputRecord) -> Outcome | None:
        """The outcome of an input that an earlier run has done, and that is the same as then."""
        if record is None or record.key != self._job.key or record.state == "begun":
            return None
        outcome = record.outcome_of(item)
        same = outcome.status == "done" and record.fingerprint == first.fingerprint
        return replace(outcome, status="skipped") if same and self._records.outputs_are_in_place(record) else None

    def _starts(self, record: InputRecord | None) -> int:
        return record.starts if record is not None and record.run == self._job.run and record.state == "begun" else 0

    def _opened(self) -> LocalWorker:
        if self._worker is None:
            try:
                segmenter = self._job.opener()
                refuse_mask_classes(self._job.outputs.mask_format, len(segmenter.class_names))
            except NerveError as error:
                raise NotOpenedError(error) from error
            self._worker = LocalWorker(segmenter)
        return self._worker

    def _plan(self, item: JobInput, scratch: Path, first: InputRecord) -> tuple[PlannedSource, Mapping[str, Path]]:
        """The input as a local file with its outputs, and the local folder of each kind of output.

        Raises:
            NerveError: it cannot be read, or an output would replace it or a file that is not this job's.
        """
        with self._heard(item, first, lambda: fetched_bytes(scratch)):
            path = fetched(item.source, scratch, self._job.open_limit_s)
        refuse_unreadable(path)
        local = self._local_places()
        places = {kind: local.get(kind, scratch / "outputs" / kind) for kind in self._folders}
        kind = source_kind(str(path))
        own = self._outputs(item, kind, places, force=self._job.outputs.force or bool(first.own_folders))
        plan = PlannedSource(str(path), item.name, kind, own)
        refuse_conflicts([plan.source], [own])
        self._refuse_files_of_others(plan, places, first)
        return plan, places

    def _refuse_files_of_others(self, plan: PlannedSource, places: Mapping[str, Path], first: InputRecord) -> None:
        """Refuse outputs at whose places, paths or URLs, are files of which no record says that they are ours."""
        ours = [kind for kind, folder in self._records.folders.items() if folder in first.own_folders]
        others = replace(plan.outputs, force=self._job.outputs.force, **dict.fromkeys(ours))  # type: ignore[arg-type]  # paths
        for outputs in (plan.outputs, others):
            # `classes.json` is shared by all pictures of a folder.
            refuse_outputs(replace(plan, outputs=replace(outputs, shared_masks=False)))
        for kind, name in ({} if others.force else _names_below(places, others)).items():
            folder = self._folders[kind]
            if not isinstance(folder, LocalFolder):
                folder.refuse_existing(name, is_mask_folder=kind == "masks" and plan.kind == "video")

    def _segment(
        self, item: JobInput, worker: LocalWorker, begun: InputRecord, plan: PlannedSource, places: Mapping[str, Path]
    ) -> _Written:
        with self._in_time(item, begun, "to open"):
            opened = OpenSource(plan, self._job.read, LiveOptions(), None, None, self._stop.set)
        report = self._stream(item, worker, begun, opened)
        for kind, folder in self._folders.items():
            if not isinstance(folder, LocalFolder):
                folder.upload(places[kind])
        return _Written(report, _names_below(places, plan.outputs))

    def _outputs(self, item: JobInput, kind: SourceKind, places: Mapping[str, Path], *, force: bool) -> Outputs:
        paths = {output: places.get(output) for output in ("masks", "overlay", "jsonl")}
        outputs = replace(self._job.outputs, **paths, force=force, resume=False)  # type: ignore[arg-type]  # three paths
        return outputs.for_source(item.name, item.name, kind, of_several=True)

    def _local_places(self) -> dict[str, Path]:
        return {kind: folder.path for kind, folder in self._folders.items() if isinstance(folder, LocalFolder)}

    def _sweep(self, of_kinds: Iterable[Outputs]) -> None:
        """Delete what a worker that died has left; nobody else has this input."""
        for path in {path for outputs in of_kinds for path in outputs.paths()}:
            sweep_temporaries(path)

    def _stream(self, item: JobInput, worker: LocalWorker, begun: InputRecord, opened: OpenSource) -> StreamReport:
        job = StreamJob(item.name, opened.frames, opened.write)
        options = StreamOptions(hang_timeout_s=self._job.hang_timeout_s)
        try:
            (report,) = run_streams([job], worker, options, stop=self._stop)
        except HungError as hung:
            self._end_process(item, begun, hung)
            raise
        except BaseException as failure:
            opened.close(failure)
            raise
        error = self._error_of(item, report)
        if isinstance(error, HungError):
            self._end_process(item, begun, error)
        with self._in_time(item, begun, "to close"):
            opened.close(error)
        if error is not None:
            raise error
        return report

    def _error_of(self, item: JobInput, report: StreamReport) -> NerveError | None:
        if report.stopped or self._stop.is_set():
            return StoppedError("the job was ended")
        if isinstance(report.last_failure, HungError):
            return HungError(f"a frame of source {redacted(item.source)} hung in the graphs")
        return report.error or (report.last_failure if report.counts.failed else None)

    @contextmanager
    def _heard(self, item: JobInput, begun: InputRecord, sign: Callable[[], object] = lambda: None) -> Iterator[None]:
        """End this process when the server of a URL is silent for too long, where its transport has no limit for that."""
        if not is_url(item.source) or "::" in item.source:  # of a chain the first part may fetch all out of sight
            yield
            return
        with self._watched(item, begun, silence(item.source), TRANSPORT_FIRST * self._job.open_limit_s, sign):
            yield

    def _in_time(self, item: JobInput, begun: InputRecord, to_do: str) -> AbstractContextManager[None]:
        limit_s = self._job.open_limit_s
        reason = f"source {redacted(item.source)} took longer than {limit_s:g} s {to_do}; it or its disk hangs"
        return self._watched(item, begun, HungError(reason), limit_s)

    @contextmanager
    def _watched(
        self,
        item: JobInput,
        begun: InputRecord,
        error: HungError,
        limit_s: float,
        sign: Callable[[], object] = lambda: None,
    ) -> Iterator[None]:
        """End this process when the sign of life stays the same for too long; what hangs can be ended no other way."""
        done = threading.Event()

        def watch() -> None:
            seen, since_s = sign(), time.monotonic()
            while not done.wait(limit_s / LOOKS):
                now = sign()
                if now != seen:
                    seen, since_s = now, time.monotonic()
                elif time.monotonic() - since_s >= limit_s and not done.is_set():
                    self._end_process(item, begun, error)
                    return

        threading.Thread(target=watch, name="nerve-job-watch", daemon=True).start()
        try:
            yield
        finally:
            done.set()

    def _end_process(self, item: JobInput, begun: InputRecord, error: NerveError) -> None:
        """End this process, one of whose threads may never come back; another finds the input recorded as failed."""
        self._recorded(item, begun, _failed(item, error), {})
        self._die(error.exit_code)

    def _judged(self, item: JobInput, written: _Written) -> Outcome:
        report = written.report
        places = tuple(self._folders[kind].place(name) for kind, name in written.names.items())
        outcome = Outcome(item.source, "done", places, report.frames)
        if report.frames and report.invalid == report.frames:
            error = NumericError(f"every frame of {item.name} came out with scores that are not finite")
            return replace(outcome, status="failed", error=str(error), exit_code=error.exit_code)
        return outcome

    def _recorded(
        self, item: JobInput, begun: InputRecord | None, outcome: Outcome, names: Mapping[str, str]
    ) -> Outcome:
        if begun is None:
            return outcome
        try:
            self._records.end(item, begun, outcome, names)
        except NerveError as error:  # the next run does it again
            logger.warning("%s", error)
            return _failed(item, error) if outcome.status == "done" else outcome
        return outcome

    def close(self) -> None:
        """Close the segmenter."""
        if self._worker is not None:
            with suppress(HungError):
                self._worker.close()
            self._worker = None


def _failed(item: JobInput, error: NerveError) -> Outcome:
    return Outcome(
        item.source,
        "failed",
        error=_one_line(error),
        exit_code=error.exit_code,
        fatal=isinstance(error, NotOpenedError),
    )


def _one_line(error: BaseException) -> str:
    text = redacted(" ".join(str(error).split()))
    return text if isinstance(error, NerveError) else f"{type(error).__name__}: {text}"


def _names_below(places: Mapping[str, Path], outputs: Outputs) -> dict[str, str]:
    paths = {"masks": outputs.masks, "overlay": outputs.overlay, "jsonl": outputs.jsonl}
    return {kind: path.relative_to(places[kind]).as_posix() for kind, path in paths.items() if path is not None}
