"""Tensors stay on the device: what crosses is counted, and mistakes of order or lifetime are noticed by the imitation.

`PLANTED` are mistakes in the device path; each must fail one of the two scenarios, which pass without any.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nerve_bench.doubles.cuda_runtime import FakeCudart
from nerve_bench.doubles.engines import RTX_VERSION
from nerve_bench.doubles.ordering import MisuseError
from nerve_bench.doubles.tensorrt import FakeTrt
from nerve_export.engines.compile import CLASS_SLOTS
from nerve_runtime import Segmenter, Temporal
from nerve_runtime.backends.base import DeviceTensor
from nerve_runtime.backends.fake import FakeBackend
from nerve_runtime.backends.tensorrt import device, memory, session
from nerve_runtime.backends.tensorrt.backend import TrtBackend
from nerve_runtime.bundle.ledger import Ledger
from nerve_runtime.bundle.spec import Array
from nerve_runtime.errors import BundleError, UsageError
from nerve_runtime.graphs import Graphs
from nerve_runtime.video import Video
from tests.data.fake_bundle import TEXT_WIDTH, make_fake_bundle
from tests.data.fake_engines import add_engines

SIZE_BYTES = 16  # size_hw, which the engine reads on the host


class Imitation:
    """The back end on the imitation, and the numpy stand-in that it must agree with."""

    def __init__(self, folder: Path) -> None:
        self.bundle = make_fake_bundle(folder / "bundle")
        ledger = Ledger(folder / "engines.json")
        self.manifest = add_engines(self.bundle, ledger)
        self.cudart = FakeCudart()
        trt = FakeTrt(self.manifest, self.cudart, version=RTX_VERSION)
        self.backend = TrtBackend(self.bundle, self.manifest, trt=trt, cudart=self.cudart, ledger=ledger)

    def segmenter(self, backend: Any, temporal: Temporal) -> Segmenter:
        return Segmenter.open(self.bundle, ["red", "grass", "sky"], backend=backend, temporal=temporal, cache_dir=None)

    def stand_in(self) -> FakeBackend:
        return FakeBackend(self.manifest, class_slots=CLASS_SLOTS)


@pytest.fixture
def imitation(tmp_path: Path) -> Imitation:
    return Imitation(tmp_path)


def drifting(count: int, size_hw: tuple[int, int] = (64, 96)) -> list[Array]:
    """Frames of a picture that moves to the right."""
    picture = np.random.default_rng(3).integers(0, 256, (8, 24, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    return [np.ascontiguousarray(picture[: size_hw[0], 2 * index : 2 * index + size_hw[1]]) for index in range(count)]


def pipelined(video: Video, frames: list[Array]) -> list[Array]:
    """Labels, each frame encoded before the one before it is decoded, as two threads do."""
    labels, waiting = [], video.encode(frames[0])
    for frame in frames[1:]:
        following = video.encode(frame)
        labels.append(video.decode(waiting).labels)
        waiting = following
    return [*labels, video.decode(waiting).labels]


def video_scenario(imitation: Imitation, temporal: Temporal | None = None) -> None:
    """Two videos in turns, classes that change, frames that change their size: labels equal, nothing leaks."""
    temporal = temporal or Temporal(3, change=0, cut=0)
    frames, small = drifting(7), drifting(4, (40, 56))
    with ExitStack() as stack:
        plain = stack.enter_context(imitation.segmenter(imitation.stand_in(), temporal))
        found = stack.enter_context(imitation.segmenter(imitation.backend, temporal))
        others = [plain.new_video(), found.new_video()]
        for rgb in frames:
            np.testing.assert_array_equal(found.segment(rgb).labels, plain.segment(rgb).labels)
            np.testing.assert_array_equal(
                others[1].segment(rgb[:, ::-1]).labels, others[0].segment(rgb[:, ::-1]).labels
            )
        for opened in (plain, found):
            opened.set_classes(["zebra", "road, ball"], background="sky")
        for rgb in (*frames[:2], *small, frames[0]):
            np.testing.assert_array_equal(found.segment(rgb).labels, plain.segment(rgb).labels)
        for expected, labels in zip(*(pipelined(each.new_video(), frames) for each in (plain, found)), strict=True):
            np.testing.assert_array_equal(labels, expected)
        before = imitation.cudart.allocations
        pipelined(found.new_video(), frames)
        assert imitation.cudart.allocations - before <= 4, "memory of a video before is used again"
    assert imitation.cudart.leaks() == []


def session_scenario(imitation: Imitation) -> None:
    """Chains of stages without a wait between them, so that streams alone keep the order of all that shares memory."""
    stand_in, rng = imitation.stand_in(), np.random.default_rng(0)
    words = {
        "text_embeddings": rng.random((CLASS_SLOTS, TEXT_WIDTH), dtype=np.float32),
        "class_rows": np.arange(CLASS_SLOTS)[:, None],
        "class_mask": np.ones(CLASS_SLOTS, dtype=np.bool_),
    }
    scalars = {name: np.array(value, np.float32) for name, value in (("tau", 20), ("alpha", 0.5), ("beta", 0.5))}
    temperature = np.array(1, np.float32)

    def chain(run: Callable[..., Any], frame: Any, *, wait: bool) -> Any:
        seeds = run("scores", frame=frame, **words, tau=scalars["tau"])["seed_scores"]
        attention = run("attention", frame=frame)
        tensors = {"seed_scores": seeds, "head_affinity": attention["head_affinity"], "head_temperature": temperature}
        walk = {"seed_scores": seeds, "affinity": run("mix", **tensors)["affinity"], "beta": scalars["beta"]}
        del tensors
        scores = run("walk", **walk, local_weights=attention["local_weights"], alpha=scalars["alpha"])
        read = {"size_hw": np.array([20, 30]), "threshold": np.array(0, np.float32)}
        return run("readout", host=None if wait else (), label_scores=scores["label_scores"], **read)

    frames = [rng.integers(0, 256, (1, 32, 48, 3), dtype=np.uint8) for _ in range(5)]
    with imitation.backend as backend:
        stages: Any = ("scores", "attention", "mix", "walk", "readout")
        sessions = {stage: backend.open_session(stage) for stage in stages}

        def run(stage: str, host: Any = (), **tensors: Any) -> Any:
            return sessions[stage].run(tensors, host)

        for index, frame in enumerate(frames):
            on_device = backend.upload(frame)
            found = chain(run, on_device, wait=index == len(frames) - 1)
        expected = chain(lambda stage, host=None, **tensors: stand_in.compute(stage, tensors), frames[-1], wait=True)
        np.testing.assert_array_equal(found["labels"], expected["labels"])
        assert found["finite"]


def test_labels_are_those_of_the_stand_in_and_nothing_leaks(imitation: Imitation) -> None:
    video_scenario(imitation)


@pytest.mark.parametrize("between", ["warm", "exact", "hold"])
def test_each_way_between_keyframes_gives_the_labels_of_the_stand_in(imitation: Imitation, between: Any) -> None:
    video_scenario(imitation, Temporal(3, between=between, change=0, cut=0))


def test_two_threads_of_two_videos_share_the_device(imitation: Imitation) -> None:
    """Encoding and decoding of each video in a thread of its own, as `nerve-segment` does."""
    frames, temporal = drifting(24), Temporal(4, change=0, cut=0)
    with imitation.segmenter(imitation.stand_in(), temporal) as plain:
        expected = pipelined(plain.new_video(), frames)

    def in_two_threads(video: Video) -> list[Array]:
        with ThreadPoolExecutor(1) as encoder:
            encoded = encoder.map(video.encode, frames)
            return [video.decode(frame).labels for frame in encoded]

    with imitation.segmenter(imitation.backend, temporal) as segmenter, ThreadPoolExecutor(2) as videos:
        for labels in videos.map(in_two_threads, [segmenter.new_video(), segmenter.new_video()]):
            np.testing.assert_array_equal(labels, expected)
    assert imitation.cudart.leaks() == []


def test_chains_without_a_wait_keep_their_order(imitation: Imitation) -> None:
    session_scenario(imitation)
    assert imitation.cudart.leaks() == []


def test_one_frame_goes_up_labels_come_down_and_the_host_waits_once(imitation: Imitation) -> None:
    geometry = imitation.manifest.geometry
    frame_bytes, tokens = int(np.prod(geometry.working_hw)) * 3, geometry.tokens
    motion_bytes = tokens * (8 + 4) + 4 * tokens * (8 + 4)
    frames = drifting(8)
    with imitation.segmenter(imitation.backend, Temporal(4, change=0, cut=0)) as segmenter:
        for index, rgb in enumerate(frames):
            before, counted = segmenter.transfers, imitation.cudart.counts.copy()
            segmenter.segment(rgb)
            after, counts = segmenter.transfers, imitation.cudart.counts
            up = {name: counts[name] - counted[name] for name in counts}
            assert up["waits"] == after.waits - before.waits == 1
            assert up["d2h_bytes"] == after.d2h_bytes - before.d2h_bytes == 2 * rgb.shape[0] * rgb.shape[1] + 1
            assert up["h2d_bytes"] == after.h2d_bytes - before.h2d_bytes - SIZE_BYTES
            if index > 1:  # the first frames bring constants
                assert up["h2d_bytes"] == frame_bytes + motion_bytes


def test_a_frame_of_the_numpy_stand_in_crosses_at_every_stage(imitation: Imitation) -> None:
    with imitation.segmenter(imitation.stand_in(), Temporal.plain(1)) as segmenter:
        before = segmenter.transfers
        segmenter.segment(drifting(1)[0])
        after = segmenter.transfers
    assert after.waits - before.waits == 5
    assert after.h2d_bytes > before.h2d_bytes


def test_tensors_of_a_closed_back_end_cannot_be_used(imitation: Imitation) -> None:
    with imitation.backend as backend:
        attention = backend.open_session("attention")
        frame = backend.upload(np.zeros((1, 32, 48, 3), np.uint8))
    with pytest.raises(UsageError, match="was closed; open it again"):
        attention.run({"frame": frame})
    with pytest.raises(UsageError, match="this back end was closed"):
        backend.upload(np.zeros(3, np.uint8))


# Mistakes, each of which somebody could make.

Patch = pytest.MonkeyPatch


def memory_given_back_too_early(patch: Patch) -> None:
    tensor_of = device.Device.tensor

    def tensor(self: Any, *arguments: Any) -> Any:
        made = tensor_of(self, *arguments)
        self._memory.give_back(made.block)
        return made

    patch.setattr(device.Device, "tensor", tensor)


def memory_freed_while_tensors_hold_it(patch: Patch) -> None:
    patch.setattr(device.Device, "free_spare", lambda self: (self._memory.close(), self._pinned.free_spare()))


def no_event_before_inputs_are_read(patch: Patch) -> None:
    def wait_for_tensors(stream: Any, tensors: Any) -> None:
        for tensor in tensors:
            tensor.block.users.add(stream)

    patch.setattr(session, "wait_for_tensors", wait_for_tensors)


def no_event_before_memory_is_used_again(patch: Patch) -> None:
    def wait_for_tensors(stream: Any, tensors: Any) -> None:
        for tensor in tensors:
            stream.wait_for(tensor.home)  # and its use is not noted

    patch.setattr(session, "wait_for_tensors", wait_for_tensors)


def events_are_never_recorded(patch: Patch) -> None:
    patch.setattr(memory.Stream, "record", lambda self: None)


def the_host_does_not_wait_for_labels(patch: Patch) -> None:
    patch.setattr(memory.Stream, "synchronize", lambda self: None)


def pinned_memory_is_written_before_its_copy_is_done(patch: Patch) -> None:
    patch.setattr(memory.MemoryPool, "copied", lambda self, block, stream: None)


def embeddings_stay_those_of_the_first_classes(patch: Patch) -> None:
    uploaded = Graphs._uploaded
    kept: dict[str, Any] = {}

    def stale(self: Graphs, arrays: Any) -> Any:
        tensors = uploaded(self, arrays)
        on_device = isinstance(next(iter(tensors.values())), DeviceTensor)
        return {name: kept.setdefault(name, tensor) for name, tensor in tensors.items()} if on_device else tensors

    patch.setattr(Graphs, "_uploaded", stale)


def tensors_name_another_stream_as_their_home(patch: Patch) -> None:
    tensor_of = device.Device.tensor

    def tensor(self: Any, *arguments: Any) -> Any:
        made = tensor_of(self, *arguments)
        made.home = self.stream("copy")
        return made

    patch.setattr(device.Device, "tensor", tensor)


def graphs_are_replayed_at_the_addresses_of_another_frame(patch: Patch) -> None:
    submit = session.TrtSession._submit
    patch.setattr(session.TrtSession, "_submit", lambda self, addresses: submit(self, ()))


def shapes_stay_when_the_frame_changes_its_size(patch: Patch) -> None:
    infer = session.TrtSession._infer_shapes

    def infer_once(self: Any, shapes: Any, size: Any) -> None:
        if not self._output_shapes:
            infer(self, shapes, size)

    patch.setattr(session.TrtSession, "_infer_shapes", infer_once)


def only_half_of_a_tensor_is_copied(patch: Patch) -> None:
    copy = device.Device._copy
    patch.setattr(
        device.Device,
        "_copy",
        lambda self, target, source, size, *rest: copy(self, target, source, size // 2 or 1, *rest),
    )


def memory_is_never_used_again(patch: Patch) -> None:
    patch.setattr(memory.MemoryPool, "give_back", lambda self, block: None)


PLANTED = (
    memory_given_back_too_early,
    memory_freed_while_tensors_hold_it,
    no_event_before_inputs_are_read,
    no_event_before_memory_is_used_again,
    events_are_never_recorded,
    the_host_does_not_wait_for_labels,
    pinned_memory_is_written_before_its_copy_is_done,
    embeddings_stay_those_of_the_first_classes,
    tensors_name_another_stream_as_their_home,
    graphs_are_replayed_at_the_addresses_of_another_frame,
    shapes_stay_when_the_frame_changes_its_size,
    only_half_of_a_tensor_is_copied,
    memory_is_never_used_again,
)


def both_scenarios(folder: Path) -> None:
    video_scenario(Imitation(folder / "video"))
    session_scenario(Imitation(folder / "sessions"))


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_planted_mistake_is_noticed(plant: Callable[[Patch], None], tmp_path: Path, monkeypatch: Patch) -> None:
    plant(monkeypatch)
    with pytest.raises((MisuseError, AssertionError, BundleError, LookupError, ValueError)):
        both_scenarios(tmp_path)


def test_the_stand_in_alone_tells_frames_apart(imitation: Imitation) -> None:
    with imitation.segmenter(imitation.stand_in(), Temporal.plain(1)) as segmenter:
        first, second = (segmenter.segment(rgb).labels for rgb in drifting(7)[::6])
    assert (first != second).any(), "or equal labels would prove nothing"
