"""The imitation of CUDA refuses work that shares memory with other work which nothing orders, and counts what crosses."""

import pytest

from nerve_bench.doubles.cuda_runtime import FakeCudart
from nerve_bench.doubles.ordering import MisuseError
from nerve_bench.doubles.streams import FakeEvent, FakeStream

UP, DOWN = FakeCudart.cudaMemcpyKind.cudaMemcpyHostToDevice, FakeCudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
BYTES = 8


class Two:
    """Two streams, an event, and memory on both sides."""

    def __init__(self) -> None:
        self.cuda = FakeCudart()
        self.first, self.second = self.stream(), self.stream()
        self.event: FakeEvent = self.cuda.cudaEventCreateWithFlags(2)[1]
        self.device = self.cuda.cudaMalloc(BYTES)[1] or 0
        self.host, self.other_host = (self.cuda.cudaMallocHost(BYTES)[1] or 0 for _ in range(2))

    def stream(self) -> FakeStream:
        return self.cuda.cudaStreamCreateWithFlags(1)[1]

    def up(self, stream: FakeStream) -> None:
        self.cuda.cudaMemcpyAsync(self.device, self.host, BYTES, UP, stream)

    def down(self, stream: FakeStream) -> None:
        self.cuda.cudaMemcpyAsync(self.other_host, self.device, BYTES, DOWN, stream)


@pytest.fixture
def two() -> Two:
    return Two()


def test_reading_on_another_stream_needs_an_event(two: Two) -> None:
    two.up(two.first)
    with pytest.raises(MisuseError, match=r"is read by stream .* may still be using it: an event is missing"):
        two.down(two.second)


def test_an_event_that_was_recorded_too_early_orders_nothing(two: Two) -> None:
    two.cuda.cudaEventRecord(two.event, two.first)
    two.up(two.first)
    two.cuda.cudaStreamWaitEvent(two.second, two.event, 0)
    with pytest.raises(MisuseError, match="an event is missing"):
        two.down(two.second)


def test_an_event_between_them_is_enough_and_brings_the_values(two: Two) -> None:
    two.cuda.view("pinned", two.host, BYTES)[:] = 7
    two.up(two.first)
    two.cuda.cudaEventRecord(two.event, two.first)
    two.cuda.cudaStreamWaitEvent(two.second, two.event, 0)
    two.down(two.second)
    two.cuda.cudaEventRecord(two.event, two.second)
    two.cuda.cudaEventSynchronize(two.event)
    assert two.cuda.view("pinned", two.other_host, BYTES).tolist() == [7] * BYTES
    assert dict(two.cuda.counts) == {"h2d_bytes": BYTES, "d2h_bytes": BYTES, "waits": 1}


def test_writing_what_another_stream_still_reads_needs_an_event_too(two: Two) -> None:
    two.down(two.first)
    with pytest.raises(MisuseError, match=r"is written by stream .* an event is missing"):
        two.up(two.second)


def test_what_the_host_waited_for_needs_no_event(two: Two) -> None:
    two.up(two.first)
    two.cuda.cudaEventRecord(two.event, two.first)
    assert two.cuda.cudaEventQuery(two.event) == (FakeCudart.cudaError_t.cudaErrorNotReady,)
    two.cuda.cudaEventSynchronize(two.event)
    assert two.cuda.cudaEventQuery(two.event) == (FakeCudart.cudaError_t.cudaSuccess,)
    two.down(two.second)


def test_pinned_memory_may_not_change_before_its_copy_is_done(two: Two) -> None:
    two.up(two.first)
    two.cuda.view("pinned", two.host, BYTES)[:] = 1
    two.cuda.cudaEventRecord(two.event, two.first)
    with pytest.raises(MisuseError, match="was written before its copy to the device was done"):
        two.cuda.cudaEventSynchronize(two.event)


def test_memory_that_was_freed_is_not_used_by_work_that_was_put_before(two: Two) -> None:
    two.cuda.cudaFree(two.device)
    with pytest.raises(MisuseError, match="not within device memory that is held"):
        two.up(two.first)


def test_events_are_held_or_refused(two: Two) -> None:
    with pytest.raises(MisuseError, match="would take the time"):
        two.cuda.cudaEventCreateWithFlags(0)
    two.cuda.cudaEventDestroy(two.event)
    with pytest.raises(MisuseError, match=r"event .* is not held"):
        two.cuda.cudaEventRecord(two.event, two.first)
