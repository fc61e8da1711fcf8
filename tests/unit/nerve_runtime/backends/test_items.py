"""One item of a tensor of several: a view of the same memory, with ONNX Runtime and on the imitation of CUDA."""

import gc
from pathlib import Path

import numpy as np
import pytest

from nerve_bench.doubles.cuda_runtime import FakeCudart
from nerve_bench.doubles.engines import RTX_VERSION
from nerve_bench.doubles.tensorrt import FakeTrt
from nerve_export.engines.compile import CLASS_SLOTS
from nerve_runtime import Segmenter
from nerve_runtime.backends.base import item_of
from nerve_runtime.backends.fake import FakeBackend
from nerve_runtime.backends.ort import OrtBackend, OrtTensor
from nerve_runtime.backends.tensorrt.backend import TrtBackend
from nerve_runtime.backends.tensorrt.device import TrtTensor
from nerve_runtime.bundle.ledger import Ledger
from nerve_runtime.bundle.manifest import load_manifest
from tests.data.fake_bundle import make_fake_bundle
from tests.data.fake_engines import add_engines
from tests.native.small_bundle import make_small_bundle

MAX_BATCH = 4


def test_an_item_of_an_array_is_a_view() -> None:
    array = np.arange(24).reshape(4, 3, 2)
    for index in range(4):
        item, kept = item_of(array, index), item_of(array, index, keep_axis=True)
        assert isinstance(item, np.ndarray)
        assert isinstance(kept, np.ndarray)
        np.testing.assert_array_equal(item, array[index])
        np.testing.assert_array_equal(kept, array[index : index + 1])
        assert np.shares_memory(item, array)
        assert np.shares_memory(kept, array)
    scalar = item_of(np.arange(3, dtype=np.float32), 1)
    assert isinstance(scalar, np.ndarray)
    assert scalar.shape == ()


@pytest.mark.onnx
@pytest.mark.parametrize("in_host_memory", [True, False], ids=["of an array", "of ONNX Runtime's own memory"])
def test_a_graph_reads_an_item_where_it_lies(in_host_memory: bool, tmp_path: Path) -> None:
    bundle = make_small_bundle(tmp_path / "bundle")
    seeds = np.random.default_rng(1).random((3, 5, 24), dtype=np.float32)
    with OrtBackend(bundle, load_manifest(bundle)) as backend:
        whole = backend.upload(seeds)
        assert isinstance(whole, OrtTensor)
        if not in_host_memory:  # as outputs on a GPU are: known by its address alone
            whole = OrtTensor(whole.value, whole.dtype, whole.shape, None)
        session = backend.open_session("carry")
        places = {"previous_tokens": np.zeros((4, 24), np.int64), "previous_weights": np.zeros((4, 24), np.float32)}
        for index in range(3):
            item = whole.item(index)
            assert item.shape == (5, 24)
            assert (item.host_view is not None) == in_host_memory
            given = {"seed_scores": seeds[0], "previous_scores": item, "keep": np.array(2, np.float32), **places}
            np.testing.assert_array_equal(session.run(given)["carried_scores"], 2 * seeds[index])
        assert whole.item(1, keep_axis=True).item(0).shape == (5, 24)
        nested = whole.item(1, keep_axis=True).item(0)
        given = {"seed_scores": seeds[0], "previous_scores": nested, "keep": np.array(1, np.float32), **places}
        np.testing.assert_array_equal(session.run(given)["carried_scores"], seeds[1])


class Imitation:
    """The back end for engines on the imitation of CUDA, with a bundle for several frames in a run."""

    def __init__(self, folder: Path) -> None:
        self.bundle = make_fake_bundle(folder / "bundle", max_batch=MAX_BATCH)
        ledger = Ledger(folder / "engines.json")
        self.manifest = add_engines(self.bundle, ledger)
        self.cudart = FakeCudart()
        trt = FakeTrt(self.manifest, self.cudart, version=RTX_VERSION)
        self.backend = TrtBackend(self.bundle, self.manifest, trt=trt, cudart=self.cudart, ledger=ledger)


@pytest.fixture
def imitation(tmp_path: Path) -> Imitation:
    return Imitation(tmp_path)


def test_engines_segment_several_frames_as_the_stand_in_does(imitation: Imitation) -> None:
    pictures = [np.random.default_rng(seed).integers(0, 256, (20 + seed, 30, 3), dtype=np.uint8) for seed in range(7)]
    results = []
    for backend in (imitation.backend, FakeBackend(imitation.manifest, class_slots=CLASS_SLOTS)):
        with Segmenter.open(imitation.bundle, "red; grass; sky", backend=backend, cache_dir=None) as segmenter:
            results.append([*segmenter.segment_batch(pictures), *segmenter.segment_batch(pictures[::-1])])
    for found, expected in zip(*results, strict=True):
        np.testing.assert_array_equal(found.labels, expected.labels)
        assert found.valid
    assert imitation.backend.class_slots == CLASS_SLOTS, "of the classes, not of the frames"
    assert imitation.cudart.leaks() == []


def test_an_item_on_the_device_keeps_the_memory_of_the_whole(imitation: Imitation) -> None:
    with imitation.backend as backend:
        whole = backend.upload(np.zeros((4, 8, 32), np.float32))
        assert isinstance(whole, TrtTensor)
        block = whole.block
        item = whole.item(2)
        assert (item.address, item.shape) == (block.address + 2 * 8 * 32 * 4, (8, 32))
        assert whole.item(3, keep_axis=True).shape == (1, 8, 32)
        assert item.block is block
        del whole
        gc.collect()
        other = backend.upload(np.zeros((4, 8, 32), np.float32))
        assert isinstance(other, TrtTensor)
        assert other.block is not block, "the memory was taken again while an item of it was alive"
        del item
        gc.collect()
        third = backend.upload(np.zeros((4, 8, 32), np.float32))
        assert isinstance(third, TrtTensor)
        assert third.block is block


def test_an_item_that_lies_between_the_bounds_of_an_engine_is_copied_on_the_device(imitation: Imitation) -> None:
    """Engines read addresses that are multiples of 256."""
    seeds = np.random.default_rng(1).random((3, CLASS_SLOTS, 24), dtype=np.float32)
    odd = np.concatenate([np.zeros(8, np.float32), seeds.ravel()])  # the items begin 32 bytes later
    with imitation.backend as backend:
        uploaded = backend.upload(odd)
        assert isinstance(uploaded, TrtTensor)
        whole = TrtTensor(uploaded.dtype, seeds.shape, uploaded.block, uploaded.home, uploaded.address + 32, uploaded)
        session = backend.open_session("carry")
        given = {
            "seed_scores": seeds[0],
            "previous_tokens": np.tile(np.arange(24), (4, 1)),
            "previous_weights": np.full((4, 24), 0.25, np.float32),
            "keep": np.array(1, np.float32),
        }
        for index in range(3):
            outputs = session.run({**given, "previous_scores": whole.item(index)})
            np.testing.assert_allclose(outputs["carried_scores"], seeds[index], rtol=1e-5)
    assert imitation.cudart.counts["d2d_bytes"] == 3 * seeds[0].nbytes
