"""Which engines are built, and what is said where none can be; compiling itself is tested on a bundle."""

import sys
from pathlib import Path

import pytest
import torch

from nerve_export import engine
from nerve_export.engine import CLASS_SLOTS, PROFILE, RTX_CAPABILITIES, WORKSPACE_BYTES, compile_engine, resolve_targets
from nerve_runtime.errors import CompatibilityError, UsageError
from nerve_runtime.spec import StageSpec

FLOAT_BYTES = 4
NOTHING = StageSpec(inputs=(), outputs=())


def pretend(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int] | None, *, library: bool) -> None:
    """A machine with a GPU of that compute capability, or none, and with TensorRT-RTX or without."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(engine, "find_spec", lambda name: object() if library else None)


def test_graphs_alone_are_built_when_asked_for() -> None:
    assert resolve_targets("ort") == ((), "graphs for ONNX Runtime only, as asked")


def test_named_capabilities_become_targets_in_their_order_and_once() -> None:
    targets, why = resolve_targets("rtx: sm89, sm86,sm89")
    assert targets == ("rtx-sm89", "rtx-sm86")
    assert why == "TensorRT-RTX engines for sm89, sm86, as asked"


@pytest.mark.parametrize("target", ["rtx", "rtx:", "rtx:sm86,sm42", "cuda", "trt:sm86", "", "RTX:sm86"])
def test_an_unknown_target_is_refused_with_those_that_exist(target: str) -> None:
    with pytest.raises(UsageError, match=r"--target is .*, expected auto, ort, or rtx:.*sm75, sm80, sm86, sm89, sm120"):
        resolve_targets(target)


def test_auto_without_a_gpu_builds_graphs_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, None, library=True)
    assert resolve_targets("auto") == ((), "graphs for ONNX Runtime only: no NVIDIA GPU was found here")


def test_auto_with_a_gpu_but_no_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, (8, 9), library=False)
    targets, why = resolve_targets("auto")
    assert targets == ()
    assert "a GPU (sm89) is here, but no TensorRT-RTX; pip install 'nerve-deploy[rtx]'" in why


def test_auto_with_a_gpu_that_the_library_has_no_target_for_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, (9, 0), library=True)
    assert resolve_targets("auto") == (
        (),
        "graphs for ONNX Runtime only: TensorRT-RTX has no target for this GPU (sm90)",
    )


def test_auto_with_a_gpu_and_the_library_builds_for_that_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, (12, 0), library=True)
    assert resolve_targets("auto") == (("rtx-sm120",), "TensorRT-RTX engines for the GPU found here (sm120)")


def test_every_capability_is_one_that_the_library_knows() -> None:
    library = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    assert set(RTX_CAPABILITIES.values()) <= set(library.ComputeCapability.__members__)


def test_a_missing_library_is_named_with_the_way_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(
        CompatibilityError, match=r"TensorRT-RTX cannot be imported .*pip install 'nerve-deploy\[rtx\]'"
    ):
        compile_engine(Path("any.onnx"), NOTHING, "rtx-sm89")


def test_the_profile_ranges_are_ordered_and_fix_the_classes() -> None:
    assert all(least <= usual <= most for least, usual, most in PROFILE.values())
    assert PROFILE["c"] == (CLASS_SLOTS,) * 3


def test_the_scores_of_the_largest_read_out_fit_the_workspace_twice() -> None:
    largest = CLASS_SLOTS * PROFILE["H"][2] * PROFILE["W"][2] * FLOAT_BYTES
    assert 2 * largest <= WORKSPACE_BYTES
