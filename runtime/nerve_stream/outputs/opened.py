"""One source of a run while it is open: its frames, its sinks and its record of finished work."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from nerve_runtime import Frame, FrameResult, InstanceTracker, UsageError
from nerve_runtime.drawing import overlay
from nerve_stream.jobs import Job
from nerve_stream.outputs.planning import PlannedSource, open_sinks
from nerve_stream.sinks import FpsMeter, ReaderGoneError, Sink, mask_name
from nerve_stream.sinks.window import Window
from nerve_stream.sources.base import FrameSource
from nerve_stream.sources.images import IMAGE_SUFFIXES, Picture, files_ending_in
from nerve_stream.sources.looped import LoopedFrames, WantsAgain
from nerve_stream.sources.opening import open_frames
from nerve_stream.sources.options import LiveOptions, ReadOptions
from nerve_stream.sources.selected import SelectedFrames


class OpenSource:
    """A source and its sinks, open; `close` puts the outputs in place, or after an error deletes them.

    Args:
        plan: the source, its name and its outputs.
        read: which part of it.
        live: timeouts of cameras and addresses.
        job: of a run that may be resumed.
        window: shows the overlay.
        shown: another sink that the caller has; it is not closed.
        wants_again: of a file that begins again when it has ended, None to end with it.
        on_closed_reader: called when nobody reads an output any more.

    Raises:
        NerveError: the source or a sink cannot be opened; then nothing is open.

    Attributes:
        frames: what to read.
        title: the source in words, for tables; not always unique.
    """

    def __init__(
        self,
        plan: PlannedSource,
        read: ReadOptions,
        live: LiveOptions,
        job: Job | None,
        window: Window | None,
        on_closed_reader: Callable[[], None],
        shown: Sequence[Sink] = (),
        wants_again: WantsAgain | None = None,
    ) -> None:
        self.source, self.name, self.outputs = plan.source, plan.name, plan.outputs
        self._job, self._window, self._on_closed_reader = job, window, on_closed_reader
        self._fps = FpsMeter()
        self._tracker = InstanceTracker() if plan.outputs.instances else None
        self._latest_s = Fraction(0)
        self._pictures = self._recorded_pictures()
        finished = self._finished_pictures()

        def opened() -> FrameSource:
            frames = open_frames(
                self.source,
                allow_partial=read.allow_partial,
                start_s=read.start_s,
                duration_s=read.duration_s,
                every=read.every,
                live=live,
            )
            return SelectedFrames(frames, limit=read.limit, without=finished)

        with ExitStack() as stack:
            self.frames = stack.enter_context(opened() if wants_again is None else LoopedFrames(opened, wants_again))
            self.title = self.frames.name
            self._sinks = [*stack.enter_context(open_sinks(self.outputs, self.frames, self.title)), *shown]
            self._stack = stack.pop_all()

    def _recorded_pictures(self) -> list[Path]:
        """The pictures of a folder in the order of their frames, if each is recorded when it is finished."""
        folder = Path(self.source)
        # Any other output holds all pictures, those of an earlier run too.
        only_masks = self.outputs.paths() == [self.outputs.masks] and self.outputs.jsonl is None
        if self._job is None or not only_masks or not folder.is_dir():
            return []
        return files_ending_in(IMAGE_SUFFIXES, folder)

    def _finished_pictures(self) -> frozenset[int]:
        if self._job is None or self.outputs.masks is None:
            return frozenset()
        return self._job.finished_pictures(self.source, self._pictures, self.outputs.masks)

    def write(self, frame: Frame, result: FrameResult) -> None:
        """Hand a result to every sink; called by the source's writer thread."""
        if self._tracker is not None:
            known = replace(result, rgb=frame.rgb)  # that of another process came without
            result = replace(known, instances=self._tracker.update(known))
        for sink in self._sinks:
            self._write_to(sink, frame, result)
        if self._window is not None:
            picture = overlay(frame.rgb, result, self.outputs.style, fps=self._fps.count_frame())
            self._window.update(self.name, picture)
        if self._job is not None and self._pictures and self.outputs.masks is not None and isinstance(frame, Picture):
            mask = self.outputs.masks / mask_name(frame.index, frame)
            self._job.finish_picture(self.source, frame.index, frame.path, mask)
        self._latest_s = frame.time_s

    def _write_to(self, sink: Sink, frame: Frame, result: FrameResult) -> None:
        try:
            sink.write(frame.rgb, result, frame if isinstance(frame, Picture) else None)
        except ReaderGoneError:
            self._on_closed_reader()

    def seek_by(self, by_s: Fraction) -> None:
        """Seek so many seconds forward or back; a source that cannot seek goes on."""
        try:
            self.frames.seek(max(Fraction(0), self._latest_s + by_s))
        except UsageError:
            return  # a camera; its user sees that nothing moves

    def close(self, error: BaseException | None) -> None:
        """Close everything. After an error the outputs of a file are deleted, those of a live source kept."""
        stack, self._stack = self._stack, ExitStack()
        if error is None or self.frames.live:
            stack.close()
        else:
            stack.__exit__(type(error), error, error.__traceback__)

    def written_sinks(self) -> list[Sink]:
        """The sinks whose outputs are in place."""
        return [sink for sink in self._sinks if sink.path.exists()]
