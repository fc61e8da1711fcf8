"""A real Triton server gives the labels and confidence that the local runtime gives, by gRPC and HTTP."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nerve_export.triton.repository import write_repository
from nerve_export.triton.settings import Settings
from nerve_runtime import Constants, Frame, FrameResult, ResourceError, Segmenter, Temporal, UsageError
from nerve_runtime.backends import BackendOptions, open_backend
from nerve_runtime.bundle import load_manifest
from nerve_runtime.frames import UInt8Array, resize_frame
from nerve_stream import TritonSegmenter
from nerve_stream.triton.client import TritonVideo
from nerve_stream.triton.transport import input_tensors
from tests.native.parity_set import BACKGROUND, CHANGE_AT, CLASSES, FRAME_S, WAYS
from tests.triton.conftest import MakeRepository
from tests.triton.server import Server, running_server

pytestmark = pytest.mark.slow
SEQUENCES = 3


@pytest.fixture(scope="module")
def server(
    tiny_bundle: Path, make_repository: MakeRepository, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    # One process, so that sequences meet in one batch; as many as it takes are exactly three.
    repository = make_repository(tiny_bundle, Settings(sequences=SEQUENCES, processes=1))
    models = [config.parent.name for config in repository.glob("*/config.pbtxt")]
    with running_server(repository, models, tmp_path_factory.mktemp("server")) as running:
        yield running


def local(bundle: Path, name: str, **options: Any) -> Segmenter:
    return Segmenter.open(
        bundle, CLASSES[name], background=BACKGROUND[name] or (), backend="ort", cache_dir=None,
        backend_options=BackendOptions(threads=1), **options,
    )  # fmt: skip


def remote(address: str, name: str, **options: Any) -> TritonSegmenter:
    return TritonSegmenter.open(address, CLASSES[name], background=BACKGROUND[name] or (), **options)


def assert_same(result: FrameResult, expected: FrameResult) -> None:
    np.testing.assert_array_equal(result.labels, expected.labels)
    np.testing.assert_array_equal(result.confidence, expected.confidence)
    facts = ("class_names", "index", "time_s", "keyframe", "affinity_age", "valid")
    assert [getattr(result, name) for name in facts] == [getattr(expected, name) for name in facts]


def frame_of(rgb: UInt8Array, number: int) -> Frame:
    return Frame(rgb, number, number * FRAME_S)


@pytest.mark.parametrize(
    ("way", "protocol"), [*((way, "grpc") for way in WAYS), ("cold", "http"), ("follow", "http"), ("exact", "http")]
)
def test_labels_and_confidence_equal_the_local_runtimes(
    way: str, protocol: str, server: Server, tiny_bundle: Path, frames: list[UInt8Array]
) -> None:
    with (
        local(tiny_bundle, "few", temporal=WAYS[way]) as expected,
        remote(server.addresses[protocol], "few", temporal=WAYS[way]) as there,
    ):
        keyframes = []
        for number, rgb in enumerate(frames):
            if number == CHANGE_AT:
                for segmenter in (expected, there):
                    segmenter.set_classes(CLASSES["many"], BACKGROUND["many"] or ())
            result = there.segment(frame_of(rgb, number))
            assert_same(result, expected.segment(frame_of(rgb, number)))
            keyframes.append(result.keyframe)
    assert all(keyframes) == (way == "cold")


@pytest.mark.parametrize(
    "options",
    [
        {"readout": "bilinear", "constants": Constants(alpha=0.9, threshold=0.3)},
        {"readout": "guided", "templates": ["a photo of a {}.", "{}"], "temporal": Temporal.plain(2)},
    ],
)
def test_options_are_those_of_the_local_runtime(
    options: dict[str, Any], server: Server, tiny_bundle: Path, frames: list[UInt8Array]
) -> None:
    with local(tiny_bundle, "few", **options) as expected, remote(server.addresses["grpc"], "few", **options) as there:
        for rgb in frames[-3:-1]:
            assert_same(there.segment(rgb[..., ::-1], bgr=True), expected.segment(rgb[..., ::-1], bgr=True))


def test_sequences_that_take_turns_know_their_own_frames_only(
    server: Server, tiny_bundle: Path, frames: list[UInt8Array]
) -> None:
    names, ways = ("few", "many", "few"), ("follow", "warm", "exact")
    pairs: list[tuple[Segmenter, TritonSegmenter]] = [
        (local(tiny_bundle, name, temporal=WAYS[way]), remote(server.addresses["grpc"], name, temporal=WAYS[way]))
        for name, way in zip(names, ways, strict=True)
    ]
    for number in range(len(frames)):
        for shift, (expected, there) in enumerate(pairs):
            frame = frame_of(frames[(number + 3 * shift) % len(frames)], number)
            assert_same(there.segment(frame), expected.segment(frame))
    for here, away in pairs:
        here.close()
        away.close()


def test_cameras_of_several_threads_get_what_each_would_get_alone(
    server: Server, tiny_bundle: Path, frames: list[UInt8Array]
) -> None:
    """By HTTP from threads that did not open the connection; the requests meet in batches of the model."""
    temporal = WAYS["follow"]
    orders = [frames, frames[::-1], frames[3:] + frames[:3]]
    wrong: list[int] = []

    def watch(video: TritonVideo | TritonSegmenter, order: list[UInt8Array], expected: list[FrameResult]) -> None:
        for number, rgb in enumerate(order):
            result = video.segment(frame_of(rgb, number))
            if not np.array_equal(result.labels, expected[number].labels):
                wrong.append(number)

    with (
        local(tiny_bundle, "few", temporal=temporal) as alone,
        remote(server.addresses["http"], "few", temporal=temporal) as there,
    ):
        results = []
        for order in orders:
            by_itself = alone.new_video()
            results.append([by_itself.segment(frame_of(rgb, number)) for number, rgb in enumerate(order)])
        more = [there.new_video(), there.new_video()]
        videos = [there, *more]
        threads = [
            threading.Thread(target=watch, args=arguments) for arguments in zip(videos, orders, results, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        for video in more:
            video.close()
    assert wrong == []


def test_the_model_frame_gives_what_its_graph_gives(
    server: Server, tiny_bundle: Path, frames: list[UInt8Array]
) -> None:
    import tritonclient.grpc as library

    manifest = load_manifest(tiny_bundle)
    with local(tiny_bundle, "few") as segmenter:
        vocabulary = segmenter._vocabulary
        bank = vocabulary.bank
        scalars = {name: np.asarray(value.host_view) for name, value in vocabulary.scalars.items()}  # type: ignore[union-attr]  # on the processor
    tensors: dict[str, Any] = {
        "frame": resize_frame(frames[0], manifest.geometry.working_hw)[None], "text_embeddings": bank.text_embeddings,
        "class_rows": bank.class_rows, "class_mask": bank.class_mask, "tau": vocabulary.tau, **scalars,
    }  # fmt: skip
    with open_backend("ort", tiny_bundle, manifest) as backend:
        expected = backend.open_session("frame").run(tensors)
    on_the_wire = {name: np.atleast_1d(array) for name, array in tensors.items()}
    for protocol in (library, pytest.importorskip("tritonclient.http")):
        port = server.grpc_port if protocol is library else server.http_port
        result = protocol.InferenceServerClient(f"127.0.0.1:{port}").infer(
            "frame", input_tensors(protocol, on_the_wire)
        )
        for name, array in expected.items():
            np.testing.assert_array_equal(result.as_numpy(name), array)


def test_what_a_client_without_json_needs_is_in_tensors(server: Server, frames: list[UInt8Array]) -> None:
    import tritonclient.grpc as library

    client = library.InferenceServerClient(f"127.0.0.1:{server.grpc_port}")
    tensors = {"frame": frames[0][None], "classes": np.array([[b"grass", b"road"]], dtype=np.object_)}
    result = client.infer(
        "nerve", input_tensors(library, tensors), sequence_id=5, sequence_start=True, sequence_end=True
    )
    assert result.as_numpy("labels").shape == result.as_numpy("confidence").shape == (1, *frames[0].shape[:2])
    assert result.as_numpy("class_names").tolist() == [[b"grass", b"road"]]
    values = [result.as_numpy(name).tolist() for name in ("keyframe", "invalid", "index")]
    assert values == [[[True]], [[False]], [[0]]]


def test_the_request_of_the_readme_is_answered(server: Server, tiny_bundle: Path, tmp_path: Path) -> None:
    readme = (write_repository(tiny_bundle, tmp_path / "models", Settings()).path / "README.md").read_text()
    request = readme.partition("/v2/models/nerve/infer -d '")[2].partition("'\n```")[0]
    code, answer = server.status("/v2/models/nerve/infer", "POST", request.encode())
    assert code == 200, answer
    outputs = {output["name"]: output for output in json.loads(answer)["outputs"]}
    assert outputs["labels"]["shape"] == [1, 2, 2]
    assert outputs["class_names"]["data"] == ["background", "grass", "road"]


def test_words_that_the_tokenizer_does_not_know_are_refused_with_the_local_sentence(
    server: Server, tiny_bundle: Path, frames: list[UInt8Array]
) -> None:
    with pytest.raises(UsageError) as here:
        Segmenter.open(tiny_bundle, ["grass", "xylophone"], backend="ort", cache_dir=None)
    for address in server.addresses.values():
        with pytest.raises(UsageError) as there:
            TritonSegmenter.open(address, ["grass", "xylophone"])
        assert str(there.value) == str(here.value)
    with remote(server.addresses["grpc"], "few") as segmenter:
        assert segmenter.segment(frames[0]).valid


def test_a_camera_too_many_is_told_so_and_an_ended_one_makes_room(server: Server, frames: list[UInt8Array]) -> None:
    address = server.addresses["grpc"]
    cameras = [remote(address, "few") for _ in range(SEQUENCES)]
    with pytest.raises(ResourceError, match=f"{SEQUENCES} sequences are open"):
        remote(address, "few")
    cameras[0].close()
    with remote(address, "few") as another:
        assert another.segment(frames[0]).valid
    for camera in cameras:
        camera.close()
