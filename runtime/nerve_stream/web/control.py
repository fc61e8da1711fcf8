"""What a viewer may do to the run: other words, pause, one frame, go on."""

import threading
from typing import Literal

from nerve_runtime import BACKGROUND_NAME, CompatibilityError, UsageError
from nerve_stream.pipeline import Classes, StreamControl, Worker

Action = Literal["pause", "resume", "step"]


class RunControl:
    """The words and the pace of a run; safe from any thread.

    State: the worker once it is open, the words in use, and how often they changed.

    Args:
        control: pauses the run.

    Attributes:
        fixed: why the words cannot be changed, or None.
        words: the class list as somebody typed it.
        revision: counts changes of the words.
    """

    def __init__(self, control: StreamControl) -> None:
        self._control = control
        self._changed = threading.Condition()
        self._worker: Worker | None = None
        self._background: tuple[str, ...] | str = ()
        self.fixed: str | None = None
        self.words = ""
        self.revision = 0

    def begin(self, worker: Worker, classes: Classes, background: tuple[str, ...] | str, fixed: str | None) -> None:
        """Take the worker, once it is open.

        Args:
            worker: of the run.
            classes: in use.
            background: words for everything else; they stay.
            fixed: why the words cannot be changed, or None.
        """
        # The background of a vocabulary file is no word that could be given back.
        names = classes if isinstance(classes, str) else [name for name in classes if name != BACKGROUND_NAME]
        self.words = names if isinstance(names, str) else "; ".join(names)
        self._worker, self._background, self.fixed = worker, background, fixed

    @property
    def paused(self) -> bool:
        """Whether frames stand still."""
        return self._control.paused

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each label; none before the worker is open."""
        return () if self._worker is None else self._worker.class_names

    def set_words(self, text: str) -> tuple[str, ...]:
        """Use another class list from the next frame on.

        Args:
            text: ';' between classes, ',' between synonyms.

        Returns:
            the name of each label.

        Raises:
            UsageError: a word is refused, or the words of this run are fixed.
            CompatibilityError: the graphs are not open yet.
        """
        if self.fixed is not None:
            raise UsageError(self.fixed)
        if self._worker is None:
            raise CompatibilityError("the graphs are being opened; try again in a moment")
        # One line, so that a pasted list of lines is a list of classes.
        classes = "; ".join(line.strip().strip(";") for line in text.splitlines() if line.strip())
        names = self._worker.set_classes(classes, self._background)
        with self._changed:
            self.words, self.revision = classes, self.revision + 1
            self._changed.notify_all()
        self._control.step()  # a run that stands still shows them too
        return names

    def wait_other_words(self, revision: int, timeout_s: float) -> bool:
        """Wait until the words are others than at `revision`; false when the time is over first."""
        with self._changed:
            return self._changed.wait_for(lambda: self.revision != revision, timeout_s)

    def act(self, action: str) -> None:
        """Pause the run, let it go on, or let one frame through.

        Raises:
            UsageError: the action is unknown.
        """
        actions = {"pause": self._control.pause, "resume": self._control.resume, "step": self._step}
        if action not in actions:
            raise UsageError(f"the action is {action!r:.50}, expected {', '.join(actions)}")
        actions[action]()

    def _step(self) -> None:
        self._control.pause()
        self._control.step()
