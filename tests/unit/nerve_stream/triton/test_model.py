"""The model `nerve`: what a client does wrong is an error response, and what a sequence needs no more is given back."""

import gc
import json
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nerve_export.triton.settings import Settings
from nerve_runtime import BundleError, ResourceError, Segmenter, UsageError
from nerve_stream.triton import messages, model
from nerve_stream.triton.messages import Facts, Options
from tests.data.fake_bundle import make_fake_bundle
from tests.data.fake_triton import FakeRequest, FakeResponse, FakeServer, error_of

RGB = np.random.default_rng(0).integers(0, 256, (1, 20, 30, 3), dtype=np.uint8)
SEQUENCE = 7


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    running = FakeServer(make_fake_bundle(tmp_path / "bundle"), tmp_path, monkeypatch)
    yield running
    running.close()


def words(*names: str) -> np.ndarray[Any, Any]:
    return np.array([[name.encode() for name in names]], dtype=np.object_)


def started(server: FakeServer, sequence: int = SEQUENCE, **tensors: Any) -> FakeResponse:
    return server.infer({"classes": words("red", "grass"), **tensors}, sequence, start=True)


def test_a_request_may_bring_all_at_once_and_be_the_last(server: FakeServer) -> None:
    response = server.infer({"frame": RGB, "classes": words("red", "grass")}, SEQUENCE, start=True, end=True)
    assert response.error() is None
    arrays = {name: tensor.array for name, tensor in response.tensors.items()}
    assert arrays["labels"].shape == arrays["confidence"].shape == (1, 20, 30)
    assert arrays["class_names"].tolist() == [[b"red", b"grass"]]
    assert (arrays["keyframe"].tolist(), arrays["invalid"].tolist(), arrays["index"].tolist()) == (
        [[True]],
        [[False]],
        [[0]],
    )
    facts = json.loads(arrays["facts"][0, 0])
    assert facts["keyframe"]
    assert {"resize", "attention", "total"} <= set(facts["timings_ms"])
    assert server.model._sequences == {}


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ({"classes": words("red", "xylophone")}, "xylophone"),
        ({"classes": words("red", "red")}, "red"),
        ({"classes": np.array([[b"\xff", b"red"]], dtype=np.object_)}, "not UTF-8"),
        ({"options": words('{"alpha": 1}')}, "alpha: Extra inputs are not permitted"),
        ({"options": words("[")}, "Invalid JSON"),
        ({"options": words('{"temporal": {"between": "never"}}')}, "temporal"),
        ({"options": words('{"constants": {"alpha": 2}}')}, "alpha is 2"),
        ({"frame": np.zeros((2, 4, 4, 3), np.uint8)}, "a batch of 2 frames"),
        ({"frame": np.zeros((1, 0, 4, 3), np.uint8)}, "no pixels"),
        ({"frame": RGB, "index": np.array([[3]]), "time_s": np.array([[np.nan]])}, "time_s"),
    ],
)
def test_what_makes_no_sense_is_an_error_response(server: FakeServer, tensors: dict[str, Any], sentence: str) -> None:
    response = started(server, **tensors)
    error = error_of(response)
    assert isinstance(error, UsageError)
    assert sentence in str(error)
    assert response.error().code == "INVALID_ARGUMENT"  # type: ignore[union-attr]  # asserted above
    assert started(server, frame=RGB).error() is None, "the model has to go on"


def test_a_sequence_has_to_start_with_classes(server: FakeServer) -> None:
    assert "needs the input 'classes'" in str(error_of(server.infer({"frame": RGB}, SEQUENCE, start=True)))
    flags = {messages.START: np.array([[False]]), messages.END: np.array([[False]]), messages.READY: np.array([[True]])}
    request = FakeRequest({**flags, messages.SEQUENCE: np.array([[99]], dtype=np.uint64), "frame": RGB})
    assert messages.START_IS_MISSING in str(error_of(server.model.execute([request])[0]))


def test_options_come_with_the_first_request_only(server: FakeServer) -> None:
    started(server)
    error = error_of(server.infer({"options": words('{"readout": "bilinear"}')}, SEQUENCE))
    assert "first request" in str(error)
    later = {"classes": words("blue", "sky"), "options": words('{"background": "road"}')}
    assert server.infer(later, SEQUENCE).tensors["class_names"].array.tolist() == [[b"background", b"blue", b"sky"]]


def test_an_empty_place_of_a_batch_is_answered_and_not_computed(server: FakeServer) -> None:
    empty = FakeRequest({messages.READY: np.array([[False]])})
    full = FakeRequest(
        {
            messages.READY: np.array([[True]]), messages.START: np.array([[True]]), messages.END: np.array([[False]]),
            messages.SEQUENCE: np.array([[5]], dtype=np.uint64), "classes": words("red", "grass"), "frame": RGB,
        }
    )  # fmt: skip
    responses = server.model.execute([empty, full])
    assert responses[0].tensors == {}
    assert responses[1].tensors["labels"].array.shape == (1, 20, 30)


def test_two_sequences_of_a_batch_are_computed_side_by_side(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for sequence in (1, 2):
        started(server, sequence)
    both = threading.Barrier(2, timeout=30)
    compute = server.utilities.backend.compute

    def together(stage: Any, tensors: Any) -> Any:
        if stage == "attention":
            both.wait()
        return compute(stage, tensors)

    monkeypatch.setattr(server.utilities.backend, "compute", together)
    flags = {messages.READY: np.array([[True]]), messages.START: np.array([[False]]), messages.END: np.array([[False]])}
    requests = [
        FakeRequest({**flags, messages.SEQUENCE: np.array([[sequence]], dtype=np.uint64), "frame": RGB})
        for sequence in (1, 2)
    ]
    assert [response.error() for response in server.model.execute(requests)] == [None, None]


@pytest.mark.parametrize(
    ("message", "kind"), [("Exceeds maximum queue size", ResourceError), ("onnx runtime error 2", BundleError)]
)
def test_a_stage_that_fails_fails_the_frame_alone(server: FakeServer, message: str, kind: type[Exception]) -> None:
    started(server)
    server.utilities.failing["walk"] = message
    error = error_of(server.infer({"frame": RGB}, SEQUENCE))
    assert isinstance(error, kind)
    assert "'walk'" in str(error)
    server.utilities.failing.clear()
    response = server.infer({"frame": RGB}, SEQUENCE)
    assert response.error() is None
    assert response.tensors["keyframe"].array.all(), "a frame that was lost is followed by a keyframe"


def test_an_idle_sequence_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "IDLE_MARGIN_S", 0.0)
    bundle = make_fake_bundle(tmp_path / "bundle")
    server = FakeServer(bundle, tmp_path, monkeypatch, Settings(idle_s=1))
    closed = threading.Event()
    close = Segmenter.close

    def close_and_say_so(segmenter: Segmenter) -> None:
        close(segmenter)
        closed.set()

    monkeypatch.setattr(Segmenter, "close", close_and_say_so)
    started(server, frame=RGB)
    segmenter = weakref.ref(server.model._sequences[SEQUENCE].segmenter)
    assert closed.wait(30)
    server.close()
    gc.collect()
    assert segmenter() is None


def test_another_start_and_the_end_give_back_what_was_kept(server: FakeServer) -> None:
    started(server, frame=RGB)
    first = weakref.ref(server.model._sequences[SEQUENCE].segmenter)
    started(server, frame=RGB)
    gc.collect()
    assert first() is None
    server.infer({"options": words("{}")}, SEQUENCE, end=True)
    assert server.model._sequences == {}


def test_tensors_that_are_not_wanted_on_the_host_stay_on_the_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_fake_bundle(tmp_path / "bundle")
    local = FakeServer(bundle, tmp_path, monkeypatch)
    expected = started(local, frame=RGB).tensors["labels"].array
    there = FakeServer(bundle, tmp_path / "gpu", monkeypatch, Settings(kind="gpu"))
    np.testing.assert_array_equal(started(there, frame=RGB).tensors["labels"].array, expected)
    for server in (local, there):
        server.close()


def test_a_bundle_for_several_frames_in_a_run_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporal = words('{"temporal": {"keyframe_every": 3}}')
    labels = []
    for most in (1, 4):
        folder = tmp_path / str(most)
        server = FakeServer(make_fake_bundle(folder / "bundle", max_batch=most), folder, monkeypatch)
        frames = [started(server, frame=RGB, options=temporal)]
        frames += [server.infer({"frame": np.roll(RGB, number, axis=2)}, SEQUENCE) for number in (1, 2, 3)]
        assert [frame.error() for frame in frames] == [None] * 4
        labels.append([frame.tensors["labels"].array for frame in frames])
        server.close()
    np.testing.assert_array_equal(labels[0], labels[1])


def test_a_damaged_tokenizer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = FakeServer(make_fake_bundle(tmp_path / "bundle"), tmp_path, monkeypatch)
    tokenizer = tmp_path / "models" / "nerve" / "1" / "tokenizer.json"
    tokenizer.write_bytes(tokenizer.read_bytes().replace(b"zebra", b"zeera"))
    error = error_of(started(server))
    assert isinstance(error, BundleError)
    assert "sha256" in str(error)
    server.close()


def test_facts_and_options_survive_the_way() -> None:
    facts = Facts(3, keyframe=True, affinity_age=2, valid=False, timings_ms={"walk": 1.5})
    assert Facts.of_json(facts.to_json().encode()) == facts
    assert Options().to_json() == "{}"


def test_a_pixel_without_label_stays_one_in_16_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running = FakeServer(make_fake_bundle(tmp_path / "wide", max_classes=300), tmp_path, monkeypatch)
    wide = running.model._widened(np.array([[1, 255]], dtype=np.uint8))
    assert wide.dtype == np.uint16
    assert wide.tolist() == [[1, 65535]]
    running.close()
