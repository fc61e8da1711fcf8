"""The worker in a process of its own: rows 30 and 32, and that nothing of it is left behind."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import psutil
import pytest

from nerve_runtime import errors
from nerve_runtime.errors import CompatibilityError, HungError, ResourceError
from nerve_runtime.result import FrameResult
from nerve_stream import child
from nerve_stream.backoff import Backoff, RestartBudget
from nerve_stream.pipeline import FrameLostError, ProcessWorker
from tests.data.processes import own_children, threads_and_files
from tests.data.stream_doubles import DoubleSegmenter, blank, open_double
from tests.data.waiting import wait_for

ROOT = Path(__file__).resolve().parents[4]
Outcome = FrameResult | BaseException
SOON = Backoff(first_s=0.01)


def opened(**faults: Any) -> ProcessWorker:
    return ProcessWorker(partial(open_double, **faults), backoff=Backoff(first_s=0.01))


def submit(worker: ProcessWorker, index: int, outcomes: list[Outcome]) -> None:
    assert worker.wait_room(10)
    expected = len(outcomes) + 1
    worker.submit("a", blank(index, (4, 6)), outcomes.append)
    assert wait_for(lambda: len(outcomes) == expected)


def result(outcome: Outcome) -> FrameResult:
    assert isinstance(outcome, FrameResult)
    return outcome


def test_results_of_another_process_are_those_of_the_segmenter() -> None:
    outcomes: list[Outcome] = []
    with opened() as worker:
        assert (worker.describe(), worker.class_names, worker.state, worker.ready) == (
            "a double", ("a", "b"), "ready", True,
        )  # fmt: skip
        for index in (0, 1, 200):
            submit(worker, index, outcomes)
        worker.forget("a")
        submit(worker, 5, outcomes)
    assert worker.state == "closed"
    for index, outcome in zip((0, 1, 200, 5), outcomes, strict=True):
        one = result(outcome)
        np.testing.assert_array_equal(one.labels, np.full((4, 6), index, dtype=np.uint8))
        np.testing.assert_array_equal(one.confidence, np.full((4, 6), 255 - index, dtype=np.uint8))
        assert (one.index, one.time_s) == (index, blank(index).time_s)
        assert (one.class_names, one.valid, one.timings_ms["total"]) == (("a", "b"), True, 2.0)
    assert [result(outcome).keyframe for outcome in outcomes] == [True, False, False, True]


def test_a_crash_costs_the_frame_and_the_next_one_is_a_keyframe() -> None:
    outcomes: list[Outcome] = []
    with opened(crash_at=1) as worker:
        submit(worker, 0, outcomes)
        submit(worker, 1, outcomes)
        assert not worker.ready
        submit(worker, 2, outcomes)
        assert (worker.restarts, worker.ready) == (1, True)
    lost = outcomes[1]
    assert isinstance(lost, FrameLostError)
    assert "the worker process crashed (SIGSEGV)" in str(lost)
    assert lost.exit_code == CompatibilityError.exit_code
    assert result(outcomes[2]).keyframe
    assert not own_children()


@pytest.mark.parametrize("deaf", [False, True])
def test_row_30_a_hung_frame_is_ended_with_its_process_and_the_next_one_is_done(
    deaf: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "TERMINATE_TIMEOUT_S", 0.5)
    outcomes: list[Outcome] = []
    with opened(hang_at=0, deaf=deaf) as worker:
        worker.hang_limit.fixed_s = 0.3
        before = worker.pid
        started_s = time.monotonic()
        submit(worker, 0, outcomes)
        worker.hang_limit.fixed_s = 30  # the next frame is none that hangs, on a busy machine neither
        # Asked to end, it has the grace; one that does not hear is killed.
        assert 0.3 + 0.5 * deaf < time.monotonic() - started_s < 0.3 + 0.5 + 2
        assert worker.restarts + (worker.state == "restarting") >= 1
        submit(worker, 1, outcomes)
        assert worker.pid != before
    assert isinstance(outcomes[0], HungError)
    assert result(outcomes[1]).keyframe
    assert not own_children()


def test_a_process_that_never_gives_the_interpreter_back_is_ended() -> None:
    with pytest.raises(HungError, match=r"did not open its segmenter within 0\.5 s"):
        ProcessWorker(partial(open_double, hold_the_interpreter=True), open_timeout_s=0.5)
    assert not own_children()


def open_half_a_message() -> DoubleSegmenter:
    """Stops in the middle of what it says, as a process that the system suspends may."""
    connection = int(sys.argv[2])
    os.write(connection, b"\1\0\0\0half")  # one part, of which the size never ends
    time.sleep(60)
    return DoubleSegmenter()


def test_a_process_that_stops_within_a_message_is_ended() -> None:
    with pytest.raises(HungError, match="did not open its segmenter within 3 s"):
        ProcessWorker(open_half_a_message, open_timeout_s=3)
    assert not own_children()


@pytest.mark.parametrize("kind", ["UsageError", "BundleError", "CompatibilityError", "ResourceError"])
def test_an_error_in_opening_keeps_its_type_and_exit_code(kind: str) -> None:
    with pytest.raises(getattr(errors, kind), match="this bundle is refused on purpose") as caught:
        opened(refuse=kind)
    assert type(caught.value) is getattr(errors, kind)
    assert not own_children()


def test_the_error_of_a_frame_keeps_its_type_and_the_process_goes_on() -> None:
    outcomes: list[Outcome] = []
    with opened(fail_at=0, failure="ResourceError") as worker:
        submit(worker, 0, outcomes)
        submit(worker, 1, outcomes)
        assert worker.restarts == 0
    assert type(outcomes[0]) is ResourceError
    assert isinstance(outcomes[1], FrameResult)


def test_a_bug_comes_with_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes: list[Outcome] = []
    with opened(bug_at=0) as worker:
        submit(worker, 0, outcomes)
    assert isinstance(outcomes[0], RuntimeError)
    assert "ValueError: a bug at frame 0" in str(outcomes[0])
    nowhere = ModuleType("nowhere")
    exec("def at_all(): pass", vars(nowhere))  # a module that the other process does not find
    monkeypatch.setitem(sys.modules, "nowhere", nowhere)
    with pytest.raises(RuntimeError, match="No module named 'nowhere'"):
        ProcessWorker(nowhere.at_all)


def test_row_32_a_process_that_always_dies_is_started_five_times_again_and_then_left_alone() -> None:
    before_s, delays = psutil.Process().cpu_times().user, list[str]()

    def without_jitter() -> float:
        delays.append("one")
        return 0.0

    with pytest.raises(CompatibilityError, match=r"exit code 3.*after 5 restarts within 60 s") as caught:
        ProcessWorker(partial(open_double, die=3), backoff=Backoff(first_s=0.02, source=without_jitter))
    assert caught.value.exit_code == 4
    assert len(delays) == 5  # it waits before each restart, ever longer, and does not spin meanwhile
    assert psutil.Process().cpu_times().user - before_s < 0.5
    assert not own_children()


def test_a_worker_whose_budget_is_spent_has_failed_and_says_why() -> None:
    outcomes: list[Outcome] = []
    opener = partial(open_double, crash_at=0)
    with ProcessWorker(opener, backoff=SOON, budget=RestartBudget(restarts=1)) as worker:
        submit(worker, 0, outcomes)
        submit(worker, 0, outcomes)
        assert wait_for(lambda: worker.state == "failed")
        assert isinstance(worker.error, CompatibilityError)
        assert "after 1 restarts within 60 s" in str(worker.error)
        worker.submit("a", blank(0), outcomes.append)
    assert (worker.state, worker.restarts) == ("failed", 1)
    assert [getattr(outcome, "exit_code", None) for outcome in outcomes] == [4, 4, 4]


def test_a_killed_process_is_taken_for_want_of_memory() -> None:
    outcomes: list[Outcome] = []
    with opened(decode_s=5) as worker:
        assert worker.wait_room(5)
        worker.submit("a", blank(0), outcomes.append)
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        assert wait_for(lambda: len(outcomes) == 1)
    assert isinstance(outcomes[0], FrameLostError)
    assert outcomes[0].exit_code == ResourceError.exit_code


def test_frames_without_finite_scores_make_the_worker_not_ready() -> None:
    outcomes: list[Outcome] = []
    with opened(not_ready_from=1) as worker:
        submit(worker, 0, outcomes)
        assert worker.ready
        submit(worker, 1, outcomes)
        assert (worker.ready, worker.state) == (False, "ready")


def test_the_process_leaves_ctrl_c_to_its_parent() -> None:
    outcomes: list[Outcome] = []
    with opened() as worker:
        assert worker.pid is not None
        assert os.getsid(worker.pid) != os.getsid(0)
        os.kill(worker.pid, signal.SIGINT)
        submit(worker, 0, outcomes)
        assert worker.restarts == 0
    assert isinstance(outcomes[0], FrameResult)


def test_closing_frees_every_file_thread_and_process() -> None:
    opened().close()
    before = threads_and_files()
    worker = opened(hang_at=0)
    worker.wait_room(5)
    outcomes: list[Outcome] = []
    worker.submit("a", blank(0), outcomes.append)
    worker.close()
    worker.close()
    worker.submit("a", blank(1), outcomes.append)
    assert [type(outcome) for outcome in outcomes] == [FrameLostError, FrameLostError]
    assert threads_and_files() <= before
    assert not own_children()


ORPHAN = """
import sys, time
from functools import partial
from nerve_stream.pipeline import ProcessWorker
from tests.data.stream_doubles import DoubleSegmenter, blank, open_double
worker = ProcessWorker(partial(open_double, **{faults}))
worker.wait_room(5)
worker.submit("a", blank(0), [].append)
print(worker.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("faults", [{}, {"hang_at": 0, "deaf": True}])
def test_the_process_ends_when_its_parent_is_killed(faults: dict[str, Any]) -> None:
    script = ORPHAN.format(faults=faults)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(next(line for line in parent.stdout if line.strip().isdigit())))
        parent.kill()
        parent.wait()
    assert wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, 3)


def test_an_error_of_a_users_own_type_arrives_as_the_nearest_of_ours() -> None:
    from nerve_stream.pipeline.messages import without_traceback

    class EngineMissingError(ResourceError):
        """One that the other process could not unpickle."""

    assert type(without_traceback(EngineMissingError("no engine"))) is ResourceError
    assert str(without_traceback(EngineMissingError("no engine"))) == "no engine"


def test_words_of_another_process_change_and_stay_when_it_is_started_again() -> None:
    outcomes: list[Outcome] = []
    with opened() as worker:
        submit(worker, 0, outcomes)
        assert worker.set_classes("c; d; e") == ("c", "d", "e") == worker.class_names
        with pytest.raises(errors.UsageError, match="the word 'unknown' is unknown"):
            worker.set_classes(("c", "unknown"))
        assert worker.class_names == ("c", "d", "e")
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        assert wait_for(lambda: worker.restarts == 1 and worker.state == "ready")
        assert worker.class_names == ("c", "d", "e")
        submit(worker, 1, outcomes)
        assert isinstance(outcomes[-1], FrameResult)


def test_a_process_that_ends_over_new_words_keeps_the_old_ones() -> None:
    with opened() as worker:
        with pytest.raises(FrameLostError, match="is being started again"):
            worker.set_classes("c; crash")
        assert wait_for(lambda: worker.restarts == 1 and worker.state == "ready")
        assert worker.class_names == ("a", "b")


def test_a_closed_worker_takes_no_words() -> None:
    with opened() as worker:
        pass
    with pytest.raises(FrameLostError, match="was closed"):
        worker.set_classes("c; d")
