"""OpenVINO runs the same bundle to the same labels, or is refused by name."""

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nerve_bench.measure import latency
from nerve_bench.measure.latency import LatencyPlan, available_runners, header
from nerve_bench.measure.openvino import AGREEMENT_FLOOR_PERCENT, OpenVinoBackend, label_agreement
from nerve_bench.world import CLASS_NAMES, SEEDS, make_scene
from nerve_runtime import Segmenter
from nerve_runtime.backends import BackendOptions
from nerve_runtime.bundle.manifest import load_manifest
from nerve_runtime.errors import BundleError, CompatibilityError, UsageError

pytestmark = pytest.mark.onnx

TWO_THAT_GO = """
import gc, os, signal, sys
from pathlib import Path
from nerve_bench.measure.openvino import OpenVinoBackend
from nerve_runtime.bundle.manifest import load_manifest
signal.signal(signal.SIGTERM, lambda *_: print("handled"))
bundle = Path(sys.argv[1])
first = OpenVinoBackend(bundle, load_manifest(bundle))
second = OpenVinoBackend(bundle, load_manifest(bundle))
del first
gc.collect()
del second
gc.collect()
os.kill(os.getpid(), signal.SIGTERM)
"""


def unseen(items: Iterable[Any], _description: str, total: float | None = None) -> Iterable[Any]:
    return items


@pytest.fixture
def backend(bundle: Path) -> OpenVinoBackend:
    pytest.importorskip("openvino", reason="not installed: openvino")
    return OpenVinoBackend(bundle, load_manifest(bundle), BackendOptions(threads=1))


def test_labels_are_those_of_onnx_runtime(bundle: Path, backend: OpenVinoBackend) -> None:
    frames = [make_scene(seed, size_px=128).rgb for seed in SEEDS["test"][:3]]
    record = label_agreement(bundle, CLASS_NAMES, frames, unseen, threads=1)
    assert record["worst_frame_percent"] >= AGREEMENT_FLOOR_PERCENT
    assert [text.partition(":")[0] for text in record["backends"]] == ["ort", "openvino"]
    assert (record["frames"], record["opset"]) == (3, 23)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_signal_after_two_back_ends_went_is_a_signal(bundle: Path) -> None:
    """Cores of OpenVINO that are freed in the order they were made leave a freed stack to handle signals on."""
    pytest.importorskip("openvino", reason="not installed: openvino")
    ended = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", TWO_THAT_GO, str(bundle)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (0, "handled\n"), ended.stderr


def test_labels_that_differ_are_counted(
    bundle: Path, backend: OpenVinoBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With another back end's labels turned upside down."""
    honest = Segmenter.segment

    def upside_down(self: Segmenter, frame: Any) -> Any:
        labels = honest(self, frame).labels
        return SimpleNamespace(labels=labels[::-1] if self.backend.startswith("openvino") else labels)

    monkeypatch.setattr(Segmenter, "segment", upside_down)
    frames = [make_scene(SEEDS["test"][0], size_px=128).rgb]
    assert label_agreement(bundle, CLASS_NAMES, frames, unseen, threads=1)["percent"] < 90


def test_a_session_keeps_what_it_gave(backend: OpenVinoBackend) -> None:
    """The library writes the next result into the same memory."""
    session = backend.open_session("local")
    frames = [make_scene(seed, size_px=128).rgb[None] for seed in SEEDS["test"][:2]]
    first = session.run({"frame": frames[0]})["local_weights"]
    copy = first.copy()
    second = session.run({"frame": frames[1]})["local_weights"]
    np.testing.assert_array_equal(first, copy)
    assert not np.array_equal(first, second)


@pytest.mark.parametrize(("device", "precision"), [("GPU", "f32"), ("CPU", "bf16")])
def test_another_device_or_precision_is_refused(
    backend: OpenVinoBackend, monkeypatch: pytest.MonkeyPatch, device: str, precision: str
) -> None:
    facts = {
        "EXECUTION_DEVICES": [device],
        "INFERENCE_PRECISION_HINT": SimpleNamespace(get_type_name=lambda: precision),
    }
    monkeypatch.setattr(backend, "_compiled", lambda path: SimpleNamespace(get_property=facts.__getitem__))
    with pytest.raises(
        CompatibilityError, match=f"would run on {device} in {precision}, asked for CPU in f32: refusing"
    ):
        backend.open_session("local")


def test_what_it_cannot_open_is_said(backend: OpenVinoBackend, bundle: Path) -> None:
    with pytest.raises(CompatibilityError, match=r"cannot run none\.onnx \(opset 23\): .*; build the bundle with"):
        backend._compiled(bundle / "none.onnx")
    with pytest.raises(BundleError, match="the bundle has no stage 'flow'"):
        backend.open_session("flow")  # type: ignore[arg-type]  # the wrong name is the point
    backend.close()
    with pytest.raises(UsageError, match="this back end was closed"):
        backend.open_session("local")


def test_threads_below_zero_are_refused(bundle: Path) -> None:
    with pytest.raises(UsageError, match="threads is -1, expected 0"):
        label_agreement(bundle, CLASS_NAMES, [], list, threads=-1)


def test_without_the_library_the_install_command_is_named(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(
        CompatibilityError, match=r"openvino cannot be imported .*pip install 'nerve-deploy\[openvino\]'"
    ):
        OpenVinoBackend(bundle, load_manifest(bundle))


def test_a_runner_that_was_left_out_is_named_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "find_spec", lambda name: None)
    assert available_runners() == ("reference_eager", "reference_compile", "bundle_ort", "bundle_fake_cuda")
    said = header(LatencyPlan(8, 1, 2, 1, spinning=False, runners=("reference_eager", "bundle_ort")))["left_out"]
    assert said["reference_compile"] == "not asked for"
    assert "openvino is not installed" in said["bundle_openvino"]


def test_a_runner_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UsageError, match="--runners names bundle_tpu, expected of: reference_eager"):
        LatencyPlan(8, 1, 2, 1, spinning=False, runners=("bundle_tpu",))
