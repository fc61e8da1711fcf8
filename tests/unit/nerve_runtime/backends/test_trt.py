"""Engines run as the numpy stand-in says, through memory, streams and graphs that a strict fake watches."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nerve_bench.doubles.cuda_runtime import CudaFaults, FakeCudart
from nerve_bench.doubles.engines import RTX_VERSION, TENSORRT_VERSION
from nerve_bench.doubles.tensorrt import FakeTrt, TrtFaults
from nerve_export.engines.compile import CLASS_SLOTS, PROFILE
from nerve_runtime.backends import BackendOptions
from nerve_runtime.backends.fake import FakeBackend
from nerve_runtime.backends.tensorrt.backend import TrtBackend
from nerve_runtime.bundle.ledger import Ledger
from nerve_runtime.bundle.manifest import Manifest
from nerve_runtime.bundle.spec import Array, StageName
from nerve_runtime.errors import BundleError, CompatibilityError, ResourceError, UsageError
from nerve_runtime.segmenter import Segmenter
from nerve_runtime.temporal import Temporal
from tests.data.fake_bundle import HEADS, POOLED_KEYS, TOKENS, WORDS, make_fake_bundle
from tests.data.fake_engines import add_engines

CLASSES = ("red", "grass", "sky")


@dataclass
class Bench:
    """A bundle with engines of the fake library and the fakes that watch; none may leak."""

    folder: Path
    manifest: Manifest
    ledger: Ledger
    rtx: bool = True
    cuda_faults: CudaFaults = field(default_factory=CudaFaults)
    faults: TrtFaults = field(default_factory=TrtFaults)

    def open(self, **options: Any) -> TrtBackend:
        self.cudart = FakeCudart(faults=self.cuda_faults)
        version = RTX_VERSION if self.rtx else TENSORRT_VERSION
        self.trt = FakeTrt(self.manifest, self.cudart, version=version, rtx=self.rtx, faults=self.faults)
        library: Any = "tensorrt_rtx" if self.rtx else "tensorrt"
        fakes = {"trt": self.trt, "cudart": self.cudart, "ledger": self.ledger}
        return TrtBackend(self.folder, self.manifest, **{"library": library, **fakes, **options})

    def leaks(self) -> list[str]:
        return self.cudart.leaks() + [f"{len(self.trt.contexts)} contexts"] * bool(self.trt.contexts)


@pytest.fixture(params=[True, False], ids=["rtx", "tensorrt"])
def bench(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Bench]:
    folder, ledger = make_fake_bundle(tmp_path / "bundle"), Ledger(tmp_path / "engines.json")
    watched = Bench(folder, add_engines(folder, ledger, rtx=request.param), ledger, request.param)
    yield watched
    assert watched.leaks() == []


def scalar(value: float) -> Array:
    return np.array(value, dtype=np.float32)


def mix_inputs(seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    rows = rng.random((HEADS, TOKENS, POOLED_KEYS), dtype=np.float32)
    seeds = rng.random((CLASS_SLOTS, TOKENS), dtype=np.float32)
    return {"head_affinity": rows, "seed_scores": seeds, "head_temperature": scalar(1)}


def token_ids(prompts: int) -> dict[str, Array]:
    return {"token_ids": np.arange(12 * prompts, dtype=np.int64).reshape(prompts, 12)}


def readout_inputs(height: int, width: int) -> dict[str, Array]:
    scores = np.random.default_rng(2).random((CLASS_SLOTS, TOKENS), dtype=np.float32)
    return {"label_scores": scores, "size_hw": np.array([height, width]), "threshold": scalar(0)}


def frames(count: int, size_hw: tuple[int, int] = (40, 56)) -> list[Array]:
    return list(np.random.default_rng(5).integers(0, 256, (count, *size_hw, 3), dtype=np.uint8))


@pytest.mark.parametrize("keyframe_every", [1, 3])
def test_engines_give_the_labels_that_the_stand_in_gives(bench: Bench, keyframe_every: int) -> None:
    options: dict[str, Any] = {"classes": CLASSES, "cache_dir": None, "temporal": Temporal.plain(keyframe_every)}
    plain = Segmenter.open(bench.folder, backend=FakeBackend(bench.manifest, class_slots=CLASS_SLOTS), **options)
    with plain, Segmenter.open(bench.folder, backend=bench.open(), **options) as segmenter:
        for rgb in frames(5) + frames(3, (31, 17)):
            expected, found = plain.segment(rgb), segmenter.segment(rgb)
            np.testing.assert_array_equal(found.labels, expected.labels)
            np.testing.assert_array_equal(found.confidence, expected.confidence)
        for opened in (plain, segmenter):
            opened.set_classes(["zebra", "road, ball"], background="sky")
        last = frames(1)[0]
        np.testing.assert_array_equal(segmenter.segment(last).labels, plain.segment(last).labels)
    assert len(np.unique(expected.labels)) > 1


def test_a_run_like_the_one_before_is_replayed_as_one_graph_with_its_own_numbers(bench: Bench) -> None:
    with bench.open() as backend:
        session = backend.open_session("mix")
        launches = []
        for seed in range(4):
            tensors = mix_inputs(seed)
            expected = FakeBackend(bench.manifest).compute("mix", tensors)
            for name, array in session.run(tensors).items():
                np.testing.assert_array_equal(array, expected[name])
            launches.append(bench.cudart.launches)
    assert launches == [0, 1, 2, 3]


def test_another_shape_ends_the_graph_and_a_second_run_of_it_makes_another(bench: Bench) -> None:
    with bench.open() as backend:
        session = backend.open_session("text")
        launches = []
        for prompts in (2, 2, 5, 5, 2, 2):
            assert session.run(token_ids(prompts))["text_embeddings"].shape[0] == prompts
            launches.append(bench.cudart.launches)
    assert launches == [0, 1, 1, 2, 2, 3]


def test_the_size_to_read_out_at_is_a_value_that_ends_the_graph_too(bench: Bench) -> None:
    with bench.open() as backend:
        session = backend.open_session("readout")
        for size_hw in ((20, 30), (20, 30), (30, 20), (30, 20), (1, 1), (1920, 16)):
            assert session.run(readout_inputs(*size_hw))["labels"].shape == size_hw
        assert bench.cudart.launches == 2


def test_outputs_are_the_callers_own(bench: Bench) -> None:
    with bench.open() as backend:
        session = backend.open_session("text")
        first = session.run(token_ids(2))["text_embeddings"]
        kept = first.copy()
        session.run({"token_ids": token_ids(2)["token_ids"] + 7})
        np.testing.assert_array_equal(first, kept)


def test_memory_is_kept_for_tensors_of_the_same_size_until_it_is_given_back(bench: Bench) -> None:
    with bench.open() as backend:
        session = backend.open_session("text")
        session.run(token_ids(3))
        before = bench.cudart.allocations
        for _ in range(3):
            session.run(token_ids(3))
        assert bench.cudart.allocations == before
        session.run(token_ids(4))
        assert bench.cudart.allocations == before + 4  # input and output, pinned and on the device
        backend.release_unused()
        assert not any("memory" in kept for kept in bench.leaks())


def test_what_the_words_need_and_what_the_picture_decides_have_streams_of_their_own(bench: Bench) -> None:
    with bench.open() as backend:
        stages: tuple[StageName, ...] = ("scores", "attention", "mix")
        for stage in stages:
            backend.open_session(stage)
        assert sum(kept.startswith("stream") for kept in bench.leaks()) == 3  # words, picture, and the walk


def test_a_stream_that_cannot_be_captured_is_worked_through_call_by_call_with_a_reason(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.cuda_faults = CudaFaults(capture_refused=True)
    with caplog.at_level(logging.WARNING), bench.open() as backend:
        session = backend.open_session("text")
        for _ in range(4):
            assert session.run(token_ids(2))["text_embeddings"].shape[0] == 2
    assert bench.cudart.launches == 0
    reasons = [record.message for record in caplog.records]
    assert len(reasons) == 1  # said once, tried once
    assert "stage 'text' runs without a CUDA graph" in reasons[0]
    assert "cudaStreamBeginCapture says cudaErrorStreamCaptureUnsupported" in reasons[0]


def test_a_run_that_fails_while_captured_leaves_nothing_behind_and_the_next_way_is_tried(bench: Bench) -> None:
    with bench.open() as backend:
        session = backend.open_session("text")
        session.run(token_ids(2))
        bench.faults.failing_runs = 1
        assert session.run(token_ids(2))["text_embeddings"].shape[0] == 2
        assert bench.cudart.launches == 0


def test_a_run_that_fails_says_what_the_library_said(bench: Bench) -> None:
    with bench.open() as backend:
        session = backend.open_session("text")
        bench.faults.failing_runs = 1
        with pytest.raises(BundleError, match="stage 'text' failed at its run: a kernel could not be launched; build"):
            session.run(token_ids(2))
        assert session.run(token_ids(2))["text_embeddings"].shape[0] == 2


def test_sizes_outside_the_engines_profile_are_refused_by_name(bench: Bench) -> None:
    most = PROFILE["n"][2]
    with bench.open() as backend:
        text, readout = backend.open_session("text"), backend.open_session("readout")
        with pytest.raises(UsageError, match=rf"'token_ids' has sizes \[{most + 1}, 12\], this engine takes \[1, 12\]"):
            text.run(token_ids(most + 1))
        with pytest.raises(UsageError, match=r"'size_hw' has sizes \[1921, 20\], this engine takes \[1, 1\] to \[1920"):
            readout.run(readout_inputs(1921, 20))


def test_frames_longer_than_the_engine_reads_out_are_read_out_coarser_and_enlarged(bench: Bench) -> None:
    with Segmenter.open(bench.folder, CLASSES, backend=bench.open(), cache_dir=None) as segmenter:
        result = segmenter.segment(frames(1, (20, 2500))[0])
    assert result.labels.shape == (20, 2500)
    np.testing.assert_array_equal(result.labels[:, 0::2], result.labels[:, 1::2])


def test_more_classes_than_the_engine_has_slots_are_refused(bench: Bench) -> None:
    names = [f"{first} {second}" for first in WORDS[:6] for second in WORDS[6:]][: CLASS_SLOTS + 1]
    with bench.open() as backend:
        assert backend.class_slots == CLASS_SLOTS
        assert backend.readout_limit_px == PROFILE["H"][2]
        with pytest.raises(UsageError, match=f"33 classes do not fit the {CLASS_SLOTS} slots"):
            Segmenter.open(bench.folder, names, backend=backend, cache_dir=None)


def test_a_stop_makes_later_runs_fail(bench: Bench) -> None:
    with bench.open() as backend:
        session = backend.open_session("text")
        backend.stop()
        with pytest.raises(BundleError, match="stage 'text' was told to stop"):
            session.run(token_ids(1))


def test_after_a_close_nothing_opens_and_nothing_runs(bench: Bench) -> None:
    backend = bench.open()
    session = backend.open_session("text")
    session.run(token_ids(1))
    backend.close()
    backend.close()
    assert bench.leaks() == []
    with pytest.raises(UsageError, match="was closed; open it again"):
        session.run(token_ids(1))
    with pytest.raises(UsageError, match="this back end was closed"):
        backend.open_session("text")


def test_the_back_end_describes_itself(bench: Bench) -> None:
    with bench.open(options=BackendOptions(trust_engines=True, allow_unchecked=True)) as backend:
        name = f"rtx: TensorRT-RTX {RTX_VERSION}" if bench.rtx else f"tensorrt: TensorRT {TENSORRT_VERSION}"
        assert backend.describe() == f"{name}, sm89, engines from elsewhere trusted, unchecked engines allowed"
        assert backend.name == name.partition(":")[0]


# Row 15: the device runs out of memory.


@pytest.mark.parametrize("allocation", range(4))
def test_row_15_memory_that_is_short_for_a_moment_at_a_run_costs_one_more_try(bench: Bench, allocation: int) -> None:
    with bench.open() as backend:
        other, session = backend.open_session("mix"), backend.open_session("text")
        other.run(mix_inputs())
        bench.cudart.faults = CudaFaults(failing_allocations=frozenset({bench.cudart.allocations + allocation}))
        expected = FakeBackend(bench.manifest).compute("text", token_ids(2))["text_embeddings"]
        np.testing.assert_array_equal(session.run(token_ids(2))["text_embeddings"], expected)
        assert other.run(mix_inputs())["affinity"].shape == (TOKENS, POOLED_KEYS)  # its memory had been given back


def test_row_15_memory_that_other_stages_keep_is_given_back_for_the_one_that_runs(bench: Bench) -> None:
    mixing = sum(array.nbytes for array in FakeBackend(bench.manifest).compute("mix", mix_inputs()).values())
    mixing += sum(array.nbytes for array in mix_inputs().values())
    bench.cuda_faults = CudaFaults(device_bytes=mixing)  # enough for the largest stage, not for two
    with bench.open() as backend:
        mix, text = backend.open_session("mix"), backend.open_session("text")
        for _ in range(3):
            assert mix.run(mix_inputs())["affinity"].shape == (TOKENS, POOLED_KEYS)
            assert text.run(token_ids(2))["text_embeddings"].shape[0] == 2


def test_row_15_memory_that_stays_short_at_a_run_is_an_error_with_what_to_do_and_the_next_run_can_be_tried(
    bench: Bench,
) -> None:
    with bench.open() as backend:
        session = backend.open_session("text")
        bench.cudart.faults = CudaFaults(failing_allocations=frozenset(range(100)))
        with pytest.raises(
            ResourceError, match=r"no room left: cudaMalloc.* says .*out of memory.*this was the second try"
        ):
            session.run(token_ids(2))
        bench.cudart.faults = CudaFaults()
        assert session.run(token_ids(2))["text_embeddings"].shape[0] == 2


@pytest.mark.parametrize(("shortages", "works"), [(1, True), (2, False)])
def test_row_15_the_librarys_own_allocations_get_a_second_try_too(bench: Bench, shortages: int, works: bool) -> None:
    bench.faults = TrtFaults(loads_without_room=shortages)
    with bench.open() as backend:
        if not works:
            with pytest.raises(ResourceError, match=r"cannot load engines/.*out of memory.*second try"):
                backend.open_session("text")
        session = backend.open_session("text")
        bench.faults.runs_without_room = shortages
        if not works:
            with pytest.raises(ResourceError, match=r"stage 'text': out of memory; this was the second try"):
                session.run(token_ids(2))
        assert session.run(token_ids(2))["text_embeddings"].shape[0] == 2


def test_no_driver_is_said_to_be_so(bench: Bench) -> None:
    bench.open().close()
    bench.cuda_faults = CudaFaults(no_driver=True)
    with pytest.raises(
        CompatibilityError,
        match=r"cannot use a GPU: cudaGetDevice says cudaErrorInsufficientDriver .*or use backend=\"ort\"",
    ):
        bench.open()


def test_an_engine_with_another_profile_than_its_record_is_refused(bench: Bench) -> None:
    bench.faults = TrtFaults(alien_profile=True)
    with bench.open() as backend, pytest.raises(BundleError, match=r"takes 'token_ids' in .*the manifest says"):
        backend.open_session("text")


def test_a_profile_of_an_input_without_free_axes_has_as_many_sizes_as_axes(bench: Bench) -> None:
    engines = [
        record.model_copy(update={"profile": {"frame": [[1], [1], [1]]}}) if record.stage == "attention" else record
        for record in bench.manifest.engines
    ]
    bench.manifest = bench.manifest.model_copy(update={"engines": tuple(engines)})
    expected = r"takes 'frame' as uint8 \(1, 32, 48, 3\), the manifest has the profile \[\[1\], \[1\], \[1\]\]"
    with bench.open() as backend, pytest.raises(BundleError, match=expected):
        backend.open_session("attention")


def test_an_engine_with_other_tensors_than_the_manifest_is_refused(bench: Bench) -> None:
    with bench.open() as backend:
        stages = dict(bench.manifest.stages)
        bench.trt.manifest = bench.manifest.model_copy(update={"stages": {**stages, "text": stages["mix"]}})
        with pytest.raises(BundleError, match=r"engine engines/.* has inputs \['head_affinity', .*build it again"):
            backend.open_session("text")
        spec = stages["text"].spec
        other = spec.inputs[0].model_copy(update={"axes": ("n", 13)})
        changed = stages["text"].model_copy(update={"spec": spec.model_copy(update={"inputs": (other,)})})
        bench.trt.manifest = bench.manifest.model_copy(update={"stages": {**stages, "text": changed}})
        with pytest.raises(BundleError, match=r"has 'token_ids' as INT64 \(-1, 13\), not int64 \(n, 12\)"):
            backend.open_session("text")
