"""What became of every input of a job: nothing is lost, nothing is counted twice."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, get_args

from nerve_stream.scaleout.job import JobInput, Outcome, Status

LOST = "no worker reported on it; run the same command again, what is done is left out"
LOST_EXIT_CODE = 6
HOPELESS_INPUTS = 3


class JobReport:
    """Collects the outcomes of a job.

    Args:
        inputs: of the job.
    """

    def __init__(self, inputs: Sequence[JobInput]) -> None:
        self._inputs = list(inputs)
        self._outcomes: dict[str, Outcome] = {}
        self._times: Counter[str] = Counter()
        self._killed = 0

    def add(self, outcome: Outcome) -> bool:
        """Add an outcome; false for an input that has one already, whose chunk was done again."""
        if outcome.source in self._outcomes:
            return False
        self._outcomes[outcome.source] = outcome
        self._times[outcome.status] += 1
        self._killed += outcome.killed
        return True

    def finish(self, *, stopped: bool, recorded: Callable[[JobInput], Outcome | None] = lambda _: None) -> None:
        """Account for the inputs without an outcome: those of a job that was stopped wait, otherwise they were lost.

        Args:
            stopped: the job was ended early.
            recorded: gives the outcome that a worker has recorded in this run.
        """
        for item in self._inputs:
            if item.source not in self._outcomes:
                lost = Outcome(item.source, "failed", error=LOST, exit_code=LOST_EXIT_CODE)
                self.add(recorded(item) or (Outcome(item.source, "stopped") if stopped else lost))

    @property
    def outcomes(self) -> list[Outcome]:
        """Those known so far, in the order of the inputs."""
        return [self._outcomes[item.source] for item in self._inputs if item.source in self._outcomes]

    @property
    def failures(self) -> list[Outcome]:
        """Those that failed, in the order of the inputs."""
        return [outcome for outcome in self.outcomes if outcome.status == "failed"]

    @property
    def hopeless(self) -> bool:
        """Whether workers die whatever they are given: several inputs ended theirs, and none was done."""
        return self._killed >= HOPELESS_INPUTS and self._killed == self._times["failed"] and not self._times["done"]

    def counts(self) -> dict[str, int]:
        """How many inputs have each status; they add up to the inputs once the report is finished."""
        return {status: self._times[status] for status in get_args(Status)}

    def summary(self, seconds: float) -> dict[str, Any]:
        """The job in numbers; a skipped input adds no frames.

        Args:
            seconds: that the job took.
        """
        frames = sum(outcome.frames for outcome in self.outcomes if outcome.status == "done")
        counts = self.counts()
        worked = counts["done"] + counts["failed"]
        return {
            "inputs": len(self._inputs),
            **counts,
            "frames": frames,
            "seconds": round(seconds, 3),
            "inputs_per_s": round(worked / seconds, 3) if seconds else 0.0,
            "frames_per_s": round(frames / seconds, 3) if seconds else 0.0,
        }

    def record(self, seconds: float) -> dict[str, Any]:
        """The whole report, for JSON."""
        return {**self.summary(seconds), "results": [outcome.shown() for outcome in self.outcomes]}
