import inspect
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nerve_runtime import backends
from nerve_runtime.backends import BackendOptions, Session, base, open_backend, register_backend
from nerve_runtime.backends.fake import FakeBackend, Faults
from nerve_runtime.bundle.manifest import Manifest
from nerve_runtime.bundle.spec import Array
from nerve_runtime.errors import BundleError, CompatibilityError, UsageError
from nerve_runtime.segmenter import Segmenter
from tests.data.fake_bundle import HEADS, POOLED_KEYS, TEXT_WIDTH, TOKENS, WORKING_HW
from tests.data.hand_made_graphs import scalar


def run(manifest: Manifest, stage: Any, **tensors: Array) -> dict[str, Array]:
    with FakeBackend(manifest) as backend:
        return backend.open_session(stage).run(tensors)


def words(classes: int) -> dict[str, Array]:
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((classes, TEXT_WIDTH)).astype(np.float32)
    return {
        "text_embeddings": rows / np.linalg.norm(rows, axis=1, keepdims=True),
        "class_rows": np.arange(classes)[:, None],
        "class_mask": np.ones(classes, dtype=np.bool_),
    }


@pytest.fixture
def frame() -> Array:
    return np.random.default_rng(4).integers(0, 256, (1, *WORKING_HW, 3), dtype=np.uint8)


def test_the_fakes_numbers_obey_the_laws(manifest: Manifest, frame: Array) -> None:
    seeds = run(manifest, "scores", frame=frame, tau=scalar(20), **words(4))["seed_scores"]
    np.testing.assert_allclose(seeds.sum(axis=0), 1, rtol=1e-5)
    looked = run(manifest, "attention", frame=frame)
    np.testing.assert_allclose(looked["head_affinity"].sum(axis=2), 1, rtol=1e-5)
    np.testing.assert_allclose(looked["local_weights"].sum(axis=0), 1, rtol=1e-5)
    mixed = run(manifest, "mix", head_affinity=looked["head_affinity"], seed_scores=seeds, head_temperature=scalar(1))
    np.testing.assert_allclose(mixed["affinity"].sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(mixed["head_weights"].sum(), 1, rtol=1e-5)
    assert ((mixed["head_entropies"] >= 0) & (mixed["head_entropies"] <= 1)).all()
    common = {"affinity": mixed["affinity"], "local_weights": looked["local_weights"], "beta": scalar(0.5)}
    walked = run(manifest, "walk", seed_scores=seeds, alpha=scalar(0.8), **common)["label_scores"]
    np.testing.assert_allclose(walked.sum(axis=0), 1, rtol=1e-4)
    still = run(manifest, "walk", seed_scores=seeds, alpha=scalar(0), **common)["label_scores"]
    np.testing.assert_allclose(still, seeds)
    constant = np.full_like(seeds, 0.25)
    same = run(manifest, "walk", seed_scores=constant, alpha=scalar(0.8), **common)["label_scores"]
    np.testing.assert_allclose(same, 0.25, rtol=1e-4)


def test_a_masked_class_gets_exactly_nothing(manifest: Manifest, frame: Array) -> None:
    masked = words(4) | {"class_mask": np.array([True, False, True, True])}
    seeds = run(manifest, "scores", frame=frame, tau=scalar(20), **masked)["seed_scores"]
    assert (seeds[1] == 0).all()
    np.testing.assert_allclose(seeds.sum(axis=0), 1, rtol=1e-5)


def test_the_single_graph_of_the_fake_is_its_stages_in_a_row(manifest: Manifest, frame: Array) -> None:
    scalars = {name: scalar(0.5) for name in ("tau", "alpha", "beta", "head_temperature")}
    outputs = run(manifest, "frame", frame=frame, **words(3), **scalars, threshold=scalar(0))
    assert outputs["labels"].shape == WORKING_HW
    assert set(np.unique(outputs["labels"])) <= {0, 1, 2}


def test_a_wrong_tensor_is_named_with_what_was_expected(manifest: Manifest, frame: Array) -> None:
    with pytest.raises(
        UsageError, match=r"stage 'attention' input 'frame' is float32 .*, expected uint8 \(1, 32, 48, 3\)"
    ):
        run(manifest, "attention", frame=frame.astype(np.float32))
    with pytest.raises(UsageError, match=r"got tensors \['picture'\], expected \['frame'\]"):
        run(manifest, "attention", picture=frame)


def test_a_letter_may_not_take_two_sizes(manifest: Manifest, frame: Array) -> None:
    short = words(4) | {"class_mask": np.ones(3, dtype=np.bool_)}
    with pytest.raises(UsageError, match=r"'class_mask' is bool \(3,\), expected bool \(c\), axis c being 4"):
        run(manifest, "scores", frame=frame, tau=scalar(20), **short)


class OddSession(Session):
    def compute(self, tensors: Any, sizes: Any, host: Any) -> dict[str, Array]:
        return {"head_affinity": np.zeros((HEADS, TOKENS, POOLED_KEYS), dtype=np.float32)}


def test_an_output_that_breaks_the_manifest_is_the_bundles_fault(manifest: Manifest, frame: Array) -> None:
    with pytest.raises(BundleError, match=r"the graph is not what its manifest says, rebuild the bundle"):
        OddSession("attention", manifest.stages["attention"].spec).run({"frame": frame})


def test_a_fake_that_is_told_to_stop_ends_the_run_in_flight(manifest: Manifest, frame: Array) -> None:
    backend = FakeBackend(manifest, Faults(seconds_per_run=30))
    session = backend.open_session("attention")
    threading.Timer(0.05, backend.stop).start()
    started = time.monotonic()
    with pytest.raises(BundleError, match="was told to stop"):
        session.run({"frame": frame})
    assert time.monotonic() - started < 5


def test_a_back_end_is_opened_by_name_or_refused(bundle: Path, manifest: Manifest) -> None:
    assert open_backend("fake", bundle, manifest).describe().startswith("fake: ")
    with pytest.raises(UsageError, match="backend is 'onnx', expected one of auto, ort, tensorrt, rtx, fake"):
        open_backend("onnx", bundle, manifest)
    with pytest.raises(UsageError, match="providers is 'gpu', expected cpu or cuda"):
        BackendOptions(providers="gpu")  # type: ignore[arg-type]  # as a user would
    with pytest.raises(UsageError, match="threads is -1, expected 0"):
        BackendOptions(threads=-1)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(backends, "_FACTORIES", dict(backends._FACTORIES))


@pytest.mark.usefixtures("registry")
def test_the_example_of_a_back_end_runs_as_it_stands(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = inspect.cleandoc(base.__doc__ or "").partition("ONNX Runtime:\n\n")[2].partition("\n\n`Segmenter")[0]
    exec(textwrap.dedent(example.replace('open_backend("ort"', 'open_backend("fake"')), {})
    with Segmenter.open(bundle, ["red", "sky"], backend="printing", cache_dir=None) as segmenter:
        segmenter.segment(np.zeros((20, 30, 3), dtype=np.uint8))
        assert segmenter.backend == "printing: fake: numpy stand-in for tests, its labels mean nothing"
    shown = capsys.readouterr().out
    assert f"scores {{'frame': (1, {WORKING_HW[0]}, {WORKING_HW[1]}, 3)" in shown
    assert [line.partition(" ")[0] for line in shown.splitlines()] == [
        "text",
        "attention",
        "scores",
        "mix",
        "walk",
        "readout",
    ]


@pytest.mark.usefixtures("registry")
def test_a_back_end_of_your_own_gets_the_options_and_is_named_in_messages(bundle: Path, manifest: Manifest) -> None:
    opened = []

    def mine(folder: Path, manifest: Manifest, options: BackendOptions) -> FakeBackend:
        opened.append((folder, options.threads))
        return FakeBackend(manifest)

    register_backend("mine", mine)
    open_backend("mine", bundle, manifest, BackendOptions(threads=3))
    assert opened == [(bundle, 3)]
    with pytest.raises(UsageError, match=r"backend is 'yours', expected one of auto, ort, .*mine"):
        open_backend("yours", bundle, manifest)


@pytest.mark.parametrize("taken", ["ort", "auto", "fake"])
def test_a_name_that_is_taken_is_not_registered_again(taken: str) -> None:
    with pytest.raises(UsageError, match=f"a back end '{taken}' is registered already; choose another name"):
        register_backend(taken, lambda bundle, manifest, options: FakeBackend(manifest))


def test_options_beside_an_opened_back_end_are_refused(bundle: Path, manifest: Manifest) -> None:
    with pytest.raises(UsageError, match="backend_options are for a back end opened by name"):
        Segmenter.open(bundle, ["a", "b"], backend=FakeBackend(manifest), backend_options=BackendOptions(threads=2))


def test_a_missing_library_is_named_with_how_to_install_it(
    bundle: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(CompatibilityError, match=r'onnxruntime cannot be imported .*pip install "nerve-deploy\[ort\]"'):
        open_backend("ort", bundle, manifest)
