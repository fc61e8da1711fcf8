"""One source of `nerve-segment` while it is read: its frames, its sinks, and what is noted of it."""

from collections.abc import Callable
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path

from nerve_runtime import Frame, FrameResult, UsageError
from nerve_stream.cli.options import SourceOptions
from nerve_stream.cli.outputs import Planned, opened_sinks
from nerve_stream.drawing.overlay import overlay
from nerve_stream.jobs import Job
from nerve_stream.sinks import Pace, ReaderGoneError, Sink, mask_name
from nerve_stream.sinks.window import Window
from nerve_stream.sources.images import IMAGE_SUFFIXES, files_ending_in
from nerve_stream.sources.opening import open_frames
from nerve_stream.sources.options import LiveOptions
from nerve_stream.sources.selected import SelectedFrames


class OpenSource:
    """Opens a source and its sinks; `end` puts the outputs in place, or leaves none behind.

    Args:
        plan: the source, its name and its outputs.
        read: which part of it.
        live: patience with cameras and addresses.
        job: of a run that may be resumed.
        window: shows its overlay.
        reader_gone: called when nobody reads an output any more; it ends the run.

    Raises:
        NerveError: the source or a sink cannot be opened; then nothing is open.

    Attributes:
        frames: what to read.
        title: the source in words, for tables; not always unique.
    """

    def __init__(
        self,
        plan: Planned,
        read: SourceOptions,
        live: LiveOptions,
        job: Job | None,
        window: Window | None,
        reader_gone: Callable[[], None],
    ) -> None:
        self.source, self.name, self.outputs = plan.source, plan.name, plan.outputs
        self._job, self._window, self._reader_gone = job, window, reader_gone
        self._pace = Pace()
        self._latest_s = Fraction(0)
        self._pictures = self._noted_pictures()
        finished = self._finished_pictures()
        with ExitStack() as stack:
            opened = open_frames(
                self.source,
                allow_partial=read.allow_partial,
                start_s=read.start,
                duration_s=read.duration,
                every=read.every,
                live=live,
            )
            self.title = opened.name
            self.frames = SelectedFrames(stack.enter_context(opened), limit=read.limit, without=finished)
            self._sinks = stack.enter_context(opened_sinks(self.outputs, self.frames, self.title, finished))
            self._stack = stack.pop_all()

    def _noted_pictures(self) -> list[Path]:
        """The pictures of a folder in the order of their frames, where each is noted by itself."""
        folder = Path(self.source)
        only_masks = self.outputs.masks is not None and self.outputs.overlay is None and self.outputs.jsonl is None
        if self._job is None or not only_masks or not folder.is_dir():
            return []
        return files_ending_in(IMAGE_SUFFIXES, folder)

    def _finished_pictures(self) -> frozenset[int]:
        if self._job is None or self.outputs.masks is None:
            return frozenset()
        return self._job.finished_pictures(self.source, self._pictures, self.outputs.masks)

    def write(self, frame: Frame, result: FrameResult) -> None:
        """Hand a result to every sink; called by the source's writer thread."""
        for sink in self._sinks:
            self._write_to(sink, frame, result)
        if self._window is not None:
            picture = overlay(frame.rgb, result, self.outputs.style, fps=self._pace.count())
            self._window.offer(self.name, picture)
        if self._job is not None and self._pictures and self.outputs.masks is not None:
            mask = self.outputs.masks / mask_name(frame.index)
            self._job.finish_picture(self.source, frame.index, self._pictures[frame.index], mask)
        self._latest_s = frame.time_s

    def _write_to(self, sink: Sink, frame: Frame, result: FrameResult) -> None:
        try:
            sink.write(frame.rgb, result)
        except ReaderGoneError:
            self._reader_gone()

    def move(self, by_s: Fraction) -> None:
        """Go on so many seconds later, or earlier; a source that cannot stays where it is."""
        try:
            self.frames.seek(max(Fraction(0), self._latest_s + by_s))
        except UsageError:
            return  # a camera cannot be sought in, and its user sees that nothing moves

    def end(self, error: BaseException | None) -> None:
        """Close everything. After an error a file's outputs are deleted, of a camera or stream they are kept."""
        stack, self._stack = self._stack, ExitStack()
        if error is None or self.frames.live:
            stack.close()
        else:
            stack.__exit__(type(error), error, error.__traceback__)

    def written(self) -> list[Sink]:
        """The sinks whose outputs are in place."""
        return [sink for sink in self._sinks if sink.path.exists()]
