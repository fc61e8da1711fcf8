"""The client of a Triton server is a segmenter: same results, same errors, one sequence for each video."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from nerve_export.triton.settings import Settings
from nerve_runtime import (
    Constants,
    Frame,
    FrameResult,
    HungError,
    NerveError,
    ResourceError,
    Segmenter,
    SourceError,
    Temporal,
    UsageError,
)
from nerve_runtime.images import Picture
from nerve_stream import TritonSegmenter
from nerve_stream.triton import client, messages
from nerve_stream.triton.transport import ForgottenError, connect
from tests.data.fake_bundle import make_fake_bundle
from tests.data.fake_triton import FakeConnection, FakeServer

TEMPORAL = Temporal(keyframe_every=4)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_fake_bundle(tmp_path / "bundle")


@pytest.fixture
def server(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    running = FakeServer(bundle, tmp_path, monkeypatch, Settings(sequences=2, processes=1))
    monkeypatch.setattr(client, "connect", lambda *_: FakeConnection(running))
    yield running
    running.close()


def opened(classes: Any = ("red", "grass"), **options: Any) -> TritonSegmenter:
    return TritonSegmenter.open("fake://server", classes, temporal=TEMPORAL, **options)


def frames(count: int = 6, seed: int = 0) -> list[Frame]:
    rng = np.random.default_rng(seed)
    still = rng.integers(0, 256, (40, 52, 3), dtype=np.uint8)
    return [Frame(np.roll(still, number, axis=1), number, Fraction(number, 25)) for number in range(count)]


def assert_same(result: FrameResult, expected: FrameResult) -> None:
    np.testing.assert_array_equal(result.labels, expected.labels)
    np.testing.assert_array_equal(result.confidence, expected.confidence)
    assert result.labels.dtype == expected.labels.dtype
    names = ("class_names", "index", "time_s", "keyframe", "affinity_age", "valid")
    assert [getattr(result, name) for name in names] == [getattr(expected, name) for name in names]
    assert set(result.timings_ms) == set(expected.timings_ms)
    np.testing.assert_array_equal(result.rgb, expected.rgb)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"background": "sky, road"},
        {"constants": Constants(alpha=0.9, threshold=0.4), "background": ["sky"]},
        {"readout": "bilinear", "templates": ["a photo of {}", "a {}"]},
    ],
)
def test_an_application_changes_one_line(server: FakeServer, bundle: Path, options: dict[str, Any]) -> None:
    with (
        opened(**options) as remote,
        Segmenter.open(bundle, ["red", "grass"], backend="fake", temporal=TEMPORAL, **options) as local,
    ):
        assert remote.class_names == local.class_names
        for result, expected in zip(remote.stream(frames()), local.stream(frames()), strict=True):
            assert_same(result, expected)
        for segmenter in (remote, local):
            segmenter.set_classes("blue; green, ball", "road")
        assert remote.class_names == local.class_names
        bgr = frames()[0].rgb[..., ::-1]
        assert_same(remote.segment(bgr, bgr=True), local.segment(bgr, bgr=True))
        for segmenter in (remote, local):
            segmenter.reset()
        assert_same(remote.segment(bgr), local.segment(bgr))


def test_16_bit_labels_become_those_of_the_vocabulary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = make_fake_bundle(tmp_path / "wide", max_classes=300)
    running = FakeServer(bundle, tmp_path, monkeypatch)
    monkeypatch.setattr(client, "connect", lambda *_: FakeConnection(running))
    with opened() as remote, Segmenter.open(bundle, ["red", "grass"], backend="fake", temporal=TEMPORAL) as local:
        assert_same(remote.segment(frames()[0]), local.segment(frames()[0]))
    running.close()


def test_videos_share_the_class_list_and_nothing_else(server: FakeServer, bundle: Path) -> None:
    with (
        opened() as remote,
        remote.new_video() as video,
        Segmenter.open(bundle, ["red", "grass"], backend="fake", temporal=TEMPORAL) as local,
    ):
        other = local.new_video()
        for number, (one, two) in enumerate(zip(frames(seed=1), frames(seed=2), strict=True)):
            if number == 3:
                for segmenter in (remote, local):
                    segmenter.set_classes(["zebra", "sky", "road"])
            assert_same(remote.segment(one), local.segment(one))
            assert_same(video.segment(two), other.segment(two))


def test_words_that_cannot_be_used_are_refused_where_they_are_given(server: FakeServer) -> None:
    with pytest.raises(UsageError, match=r"xylophone.*not known"):
        opened(["red", "xylophone"])
    with opened() as remote:
        with pytest.raises(UsageError):
            remote.set_classes(["red", "xylophone"])
        assert remote.class_names == ("red", "grass")
        assert remote.segment(frames()[0]).class_names == ("red", "grass")
        with pytest.raises(UsageError, match="empty"):
            remote.set_classes([])


def test_a_sequence_that_the_server_forgot_starts_again_with_a_keyframe(server: FakeServer) -> None:
    with opened() as remote:
        results = [remote.segment(frame) for frame in frames(2)]
        server.forget()
        results.append(remote.segment(frames(3)[2]))
        assert [result.keyframe for result in results] == [True, False, True]
        assert results[2].index == 2


def test_a_server_that_forgets_at_once_is_asked_twice_only(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened() as remote:
        connection: Any = remote._video._connection
        connection.sent.clear()
        monkeypatch.setattr(server, "infer", lambda *_, **__: (_ for _ in ()).throw(ForgottenError("forgotten")))
        with pytest.raises(UsageError, match="forgotten"):
            remote.segment(frames()[0])
        assert [start for _, start, _ in connection.sent] == [False, True]


def test_a_frame_that_was_lost_does_not_lose_the_next_one(server: FakeServer) -> None:
    with opened() as remote:
        connection: Any = remote._video._connection
        connection.failures.append(HungError("late"))
        with pytest.raises(HungError, match="late"):
            remote.segment(frames()[0])
        assert remote.segment(frames()[1]).index == 1


def test_a_class_list_whose_answer_was_lost_is_not_in_use(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened() as remote:
        remote.segment(frames()[0])
        connection: Any = remote._video._connection
        infer = connection._infer

        def lost(*given: Any, **flags: Any) -> None:
            infer(*given, **flags)
            raise HungError("late")

        with monkeypatch.context() as patch:
            patch.setattr(connection, "_infer", lost)
            with pytest.raises(HungError, match="late"):
                remote.set_classes("blue; ball; sky")
        assert remote.segment(frames()[1]).class_names == remote.class_names == ("red", "grass")


def test_a_class_list_that_is_refused_costs_no_keyframe(server: FakeServer) -> None:
    with opened() as remote:
        remote.segment(frames()[0])
        with pytest.raises(UsageError):
            remote.set_classes(["red", "xylophone"])
        assert not remote.segment(frames()[1]).keyframe


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "street.png"
    cv2.imwrite(str(path), frames()[3].rgb[..., ::-1])
    return path


def test_pictures_are_segmented_each_by_itself_as_the_local_segmenter_does(
    server: FakeServer, bundle: Path, picture: Path
) -> None:
    pixels = frames()[0].rgb
    with opened() as remote, Segmenter.open(bundle, ["red", "grass"], backend="fake", temporal=TEMPORAL) as local:
        remote.segment(pixels)
        several: list[Picture] = [pixels, picture, pixels[:20], frames()[5]]
        cases: list[Picture | list[Picture]] = [picture, str(picture), pixels, frames()[2], several, []]
        for pictures in cases:
            found, expected = remote(pictures), local(pictures)
            assert [result.keyframe for result in found] == [True] * len(expected)
            assert [result.index for result in found] == [result.index for result in expected]
            for result, other in zip(found, expected, strict=True):
                np.testing.assert_array_equal(result.labels, other.labels)
                np.testing.assert_array_equal(result.rgb, other.rgb)
        assert remote.segment(pixels).keyframe


def test_a_picture_that_fails_leaves_no_state(server: FakeServer, tmp_path: Path) -> None:
    pixels = frames()[0].rgb
    with opened() as remote:
        with pytest.raises(SourceError, match="cannot be read: No such file"):
            remote([pixels, tmp_path / "missing.jpg"])
        assert remote.segment(pixels).keyframe
    with pytest.raises(UsageError, match="was closed"):
        remote(pixels)


def test_a_closed_segmenter_leaves_no_sequence_though_it_was_reset(server: FakeServer) -> None:
    for _ in range(4):  # the server has room for 2
        with opened() as remote:
            remote(frames()[0].rgb)
        assert not server.model._sequences


def test_ready_is_what_the_server_says_until_it_is_closed(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = FakeConnection(server)
    monkeypatch.setattr(client, "connect", lambda *_: connection)
    with opened() as remote:
        assert remote.ready
        connection._ready = False
        assert not remote.ready
        connection._ready = True
        assert remote.ready
    assert not remote.ready


def test_one_sequence_too_many_is_refused_and_an_ended_one_makes_room(server: FakeServer) -> None:
    with opened() as first, opened():
        with pytest.raises(ResourceError, match="2 sequences are open"):
            opened()
        first.close()
        first.close()
        with opened() as third:
            third.segment(frames()[0])
        with pytest.raises(UsageError, match="was closed"):
            first.segment(frames()[0])


@pytest.mark.parametrize(
    "pixels", ["picture", np.zeros((4, 4)), np.zeros((4, 4, 3), np.float32), np.zeros((1, 4, 4, 3), np.uint8)]
)
def test_what_is_no_frame_is_not_sent(server: FakeServer, pixels: Any) -> None:
    with opened() as remote:
        connection: Any = remote._video._connection
        connection.sent.clear()
        with pytest.raises(UsageError, match=r"frame 0 is .*, expected uint8 \(H, W, 3\)"):
            remote.segment(pixels)
        assert connection.sent == []


@pytest.mark.parametrize(
    ("ready", "known", "error", "sentence"),
    [(False, True, ResourceError, "is not ready"), (False, False, UsageError, "has no model 'nerve'")],
)
def test_a_model_that_is_not_there_is_said_when_opening(
    server: FakeServer,
    monkeypatch: pytest.MonkeyPatch,
    ready: bool,
    known: bool,
    error: type[NerveError],
    sentence: str,
) -> None:
    monkeypatch.setattr(client, "connect", lambda *_: FakeConnection(server, ready=ready, known=known))
    with pytest.raises(error, match=sentence):
        opened()


@pytest.mark.parametrize(
    ("message", "status", "error", "sentence"),
    [
        ("UsageError: frame 3 has no pixels", "400", UsageError, "frame 3 has no pixels"),
        ("in x, ResourceError: 8 sequences are open", "503", ResourceError, "8 sequences are open"),
        ("Exceeds maximum queue size", "StatusCode.UNAVAILABLE", ResourceError, "too much to do"),
        ("Request timeout expired", "503", ResourceError, "too much to do"),
        ("Deadline Exceeded", "StatusCode.DEADLINE_EXCEEDED", HungError, "within 1 s"),
        ("failed to connect", "StatusCode.UNAVAILABLE", ResourceError, "cannot be reached"),
        ("Request for unknown model: 'x' is not found", "StatusCode.UNAVAILABLE", UsageError, "unknown model"),
        ("unexpected shape for input 'frame'", "400", UsageError, "unexpected shape"),
        ("sequence 7 must specify the START flag", "400", UsageError, "START"),
        ("", "500", NerveError, "failed: 500"),
    ],
)
def test_every_failure_is_an_error_of_ours(
    server: FakeServer, message: str, status: str, error: type[NerveError], sentence: str
) -> None:
    translated = FakeConnection(server)._translated(message, status)
    assert isinstance(translated, error)
    assert sentence in str(translated)


@pytest.mark.parametrize("address", ["server:8001", "ftp://server", "grpc://", "http://server/v2", "grpc://server:x"])
def test_an_address_says_the_protocol(address: str) -> None:
    with pytest.raises(UsageError, match="expected grpc://HOST:8001 or http://HOST:8000"):
        connect(address, messages.MODEL, 1.0)


def test_a_timeout_is_a_positive_number_of_seconds() -> None:
    with pytest.raises(UsageError, match="timeout_s is 0"):
        TritonSegmenter.open("grpc://server", ["red", "grass"], timeout_s=0)


def test_an_error_keeps_its_kind_though_its_sentence_names_another() -> None:
    sentence = "word 'BundleError: a' is not known"
    error = messages.error_of(f"model 'nerve', message: UsageError: {sentence}")
    assert (type(error), str(error)) == (UsageError, sentence)
    assert messages.error_of("MyUsageError: a") is None
