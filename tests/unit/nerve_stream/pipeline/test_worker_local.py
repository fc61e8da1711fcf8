"""The worker in this process: two halves side by side, in order, and what a hang or a fault costs."""

import math
import re
import threading
import time
from typing import Any

import pytest

from nerve_runtime.errors import BundleError, HungError, NerveError, ResourceError, UsageError
from nerve_runtime.frames import Frame
from nerve_runtime.result import FrameResult
from nerve_stream.pipeline import FrameLostError, LocalWorker, Worker, local_worker
from nerve_stream.pipeline.hang_limit import HangLimit
from tests.data.stream_doubles import DoubleSegmenter, blank, labelled
from tests.data.waiting import wait_for

Outcome = FrameResult | BaseException


def submit(worker: Worker, index: int, outcomes: list[Outcome], video: str = "a") -> None:
    assert worker.wait_room(5)
    worker.submit(video, blank(index), outcomes.append)


class Stepwise(DoubleSegmenter):
    """Notes the beginning and end of each half; decoding waits until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[str] = []
        self.let_go = threading.Semaphore(0)

    def new_video(self) -> Any:
        return self

    def encode(self, frame: Frame) -> Frame:
        self.events.append(f"encode {frame.index}")
        self.events.append(f"encoded {frame.index}")
        return frame

    def decode(self, encoded: Frame) -> FrameResult:
        self.events.append(f"decode {encoded.index}")
        assert self.let_go.acquire(timeout=10)
        self.events.append(f"decoded {encoded.index}")
        return labelled(encoded)


def test_a_frame_is_encoded_while_the_one_before_is_decoded() -> None:
    segmenter, outcomes = Stepwise(), list[Outcome]()
    with LocalWorker(segmenter) as worker:
        submit(worker, 0, outcomes)
        submit(worker, 1, outcomes)
        assert wait_for(lambda: "encoded 1" in segmenter.events)
        assert "decoded 0" not in segmenter.events
        # One waits between the halves, so that a third would only grow old: there is no room.
        assert not worker.wait_room(0.05)
        segmenter.let_go.release(2)
        assert wait_for(lambda: len(outcomes) == 2)
    assert segmenter.events.index("encode 1") < segmenter.events.index("decoded 0")


def test_without_overlap_each_frame_is_finished_first() -> None:
    segmenter, outcomes = Stepwise(), list[Outcome]()
    with LocalWorker(segmenter, overlap=False) as worker:
        submit(worker, 0, outcomes)
        assert wait_for(lambda: "decode 0" in segmenter.events)
        assert not worker.wait_room(0.05)
        segmenter.let_go.release(2)
        submit(worker, 1, outcomes)
        assert wait_for(lambda: len(outcomes) == 2)
    assert segmenter.events.index("decoded 0") < segmenter.events.index("encode 1")


class Jealous(DoubleSegmenter):
    """Refuses two frames in one half at a time, and notes the order per video."""

    def __init__(self) -> None:
        super().__init__()
        self.order: list[tuple[str, int]] = []
        self.side_by_side = 0
        self._busy = {"encode": threading.Lock(), "decode": threading.Lock()}

    def new_video(self) -> Any:
        return self

    def encode(self, frame: Frame) -> Frame:
        self._alone("encode", frame)
        return frame

    def decode(self, encoded: Frame) -> FrameResult:
        self._alone("decode", encoded)
        return labelled(encoded)

    def _alone(self, half: str, frame: Frame) -> None:
        assert self._busy[half].acquire(blocking=False)
        self.side_by_side += all(lock.locked() for lock in self._busy.values())
        self.order.append((half, frame.index))
        time.sleep(0.001)
        self._busy[half].release()


def test_a_half_never_works_on_two_frames_and_keeps_their_order() -> None:
    segmenter, outcomes = Jealous(), list[Outcome]()
    with LocalWorker(segmenter) as worker:
        for index in range(60):
            submit(worker, index, outcomes, video="ab"[index % 2])
        assert wait_for(lambda: len(outcomes) == 60)
    assert all(isinstance(outcome, FrameResult) for outcome in outcomes)
    for half in ("encode", "decode"):
        assert [index for one, index in segmenter.order if one == half] == list(range(60))
    assert segmenter.side_by_side > 10


def test_each_video_has_a_state_of_its_own_until_it_is_forgotten() -> None:
    segmenter, outcomes = DoubleSegmenter(), list[Outcome]()
    with LocalWorker(segmenter) as worker:
        for index, video in enumerate(["a", "b", "a"]):
            submit(worker, index, outcomes, video)
        assert wait_for(lambda: len(outcomes) == 3)
        assert segmenter.videos == 2
        worker.forget("a")
        submit(worker, 3, outcomes, "a")
        assert wait_for(lambda: len(outcomes) == 4)
    assert [outcome.keyframe for outcome in outcomes if isinstance(outcome, FrameResult)] == [True, True, False, True]


def test_the_error_of_a_frame_is_told_and_the_next_frame_is_tried() -> None:
    outcomes: list[Outcome] = []
    with LocalWorker(DoubleSegmenter(fail_at=1, bug_at=2)) as worker:
        for index in range(4):
            submit(worker, index, outcomes)
        assert wait_for(lambda: len(outcomes) == 4)
        assert worker.ready
    kinds = {type(outcome) for outcome in outcomes}
    assert kinds == {FrameResult, ResourceError, ValueError}


def test_frames_without_finite_scores_make_the_worker_not_ready() -> None:
    outcomes: list[Outcome] = []
    with LocalWorker(DoubleSegmenter(not_ready_from=1)) as worker:
        submit(worker, 0, outcomes)
        assert wait_for(lambda: len(outcomes) == 1)
        assert worker.ready
        submit(worker, 1, outcomes)
        assert wait_for(lambda: len(outcomes) == 2)
        assert not worker.ready
        assert worker.state == "ready"
    assert worker.state == "closed"


def test_a_hung_frame_ends_the_worker_and_says_what_to_do() -> None:
    outcomes: list[Outcome] = []
    with LocalWorker(DoubleSegmenter(hang_at=0)) as worker:
        worker.hang_limit.fixed_s = 0.1
        submit(worker, 0, outcomes)
        assert wait_for(lambda: worker.state == "failed")
        assert isinstance(worker.error, HungError)
        assert not worker.ready
        assert not worker.wait_room(0)
        worker.submit("a", blank(1), outcomes.append)
    assert [type(outcome) for outcome in outcomes] == [HungError, HungError]
    assert re.search(r"frame 0 of a was not segmented within 0\.1 s; use --isolate", str(outcomes[0]))
    assert worker.restarts == 0


def test_the_limit_of_a_frame_follows_what_frames_take() -> None:
    outcomes: list[Outcome] = []
    with LocalWorker(DoubleSegmenter(encode_s=0.2)) as worker:
        assert worker.hang_limit.seconds == math.inf
        submit(worker, 0, outcomes)
        assert wait_for(lambda: len(outcomes) == 1)
        assert worker.hang_limit.seconds == 10.0
    limit = HangLimit()
    for seconds in (9.0, 12.0, 3.0):
        limit.add(seconds, keyframe=False)
    assert limit.seconds == 60.0
    for _ in range(32):
        limit.add(3.0, keyframe=False)
    assert limit.seconds == 15.0


def test_the_limit_allows_a_keyframe_after_many_frames_that_were_none() -> None:
    limit = HangLimit()
    limit.add(30.0, keyframe=True)
    for _ in range(100):
        limit.add(1.0, keyframe=False)
    assert limit.seconds == 150.0


def test_a_thread_that_does_not_come_back_ends_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_worker, "STOP_TIMEOUT_S", 0.1)
    monkeypatch.setattr(local_worker, "JOIN_TIMEOUT_S", 0.1)
    segmenter, outcomes = DoubleSegmenter(hang_at=0, deaf=True), list[Outcome]()
    worker = LocalWorker(segmenter)
    worker.hang_limit.fixed_s = 0.1
    submit(worker, 0, outcomes)
    assert wait_for(lambda: worker.state == "failed")
    assert "it did not end 0.1 s after it was told to stop" in str(worker.error)
    with pytest.raises(HungError, match=r"threads nerve-encoder did not end within 0\.1 s of closing"):
        worker.close()
    segmenter.stopped.set()
    worker.close()


def test_an_aborted_worker_ends_its_frames_and_takes_no_more() -> None:
    outcomes: list[Outcome] = []
    with LocalWorker(DoubleSegmenter(hang_at=0)) as worker:
        submit(worker, 0, outcomes)
        worker.abort()
        assert wait_for(lambda: len(outcomes) == 1)
        assert not worker.wait_room(0)
        worker.submit("a", blank(1), outcomes.append)
    assert [type(outcome) for outcome in outcomes] == [BundleError, UsageError]


def test_the_error_of_a_lost_frame_has_the_exit_code_of_its_cause() -> None:
    assert FrameLostError("lost").exit_code == NerveError.exit_code
    assert FrameLostError("lost", ResourceError("memory")).exit_code == 6


def test_words_change_between_frames_and_a_list_that_is_refused_changes_nothing() -> None:
    segmenter, outcomes = DoubleSegmenter(), list[Outcome]()
    with LocalWorker(segmenter) as worker:
        submit(worker, 0, outcomes)
        assert worker.set_classes("c; d") == ("c", "d") == worker.class_names
        with pytest.raises(UsageError, match="the word 'unknown' is unknown"):
            worker.set_classes("c; unknown")
        assert worker.class_names == ("c", "d")
        submit(worker, 1, outcomes)
        assert wait_for(lambda: len(outcomes) == 2)


def test_frames_go_on_while_words_are_embedded() -> None:
    class Thoughtful(DoubleSegmenter):
        def set_classes(self, classes: str | tuple[str, ...], background: tuple[str, ...] | str = ()) -> None:
            assert go_on.wait(10)

    go_on, outcomes = threading.Event(), list[Outcome]()
    with LocalWorker(Thoughtful()) as worker:
        naming = threading.Thread(target=worker.set_classes, args=("c; d",))
        naming.start()
        for index in range(5):
            submit(worker, index, outcomes)
        assert wait_for(lambda: len(outcomes) == 5)
        assert naming.is_alive()
        go_on.set()
        naming.join(5)
