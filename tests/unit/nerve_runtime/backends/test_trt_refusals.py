"""Which engines are never given to the library: rows 7 to 11 of the list of faults. Nothing is loaded before a refusal."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from nerve_bench.doubles.cuda_runtime import FakeCudart
from nerve_bench.doubles.engines import RTX_VERSION, TENSORRT_VERSION
from nerve_bench.doubles.tensorrt import FakeRuntime, FakeTrt, TrtFaults
from nerve_runtime.backends import BackendOptions, open_backend
from nerve_runtime.backends.tensorrt import backend as trt
from nerve_runtime.backends.tensorrt.backend import TrtBackend
from nerve_runtime.bundle.ledger import Ledger
from nerve_runtime.bundle.manifest import Manifest, load_manifest, manifest_bytes
from nerve_runtime.errors import BundleError, CompatibilityError, NerveError, ResourceError
from tests.data.fake_bundle import make_fake_bundle
from tests.data.fake_engines import add_engines


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_fake_bundle(tmp_path / "bundle")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "engines.json")


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Every byte string that the library was asked to load."""
    seen: list[bytes] = []
    real = FakeRuntime.deserialize_cuda_engine

    def watched(runtime: FakeRuntime, serialized_engine: bytes) -> Any:
        seen.append(serialized_engine)
        return real(runtime, serialized_engine)

    monkeypatch.setattr(FakeRuntime, "deserialize_cuda_engine", watched)
    return seen


def opened(bundle: Path, ledger: Ledger, *, gpu: tuple[int, int] = (8, 9), **options: Any) -> TrtBackend:
    manifest = load_manifest(bundle)
    cudart = FakeCudart(gpu)
    fake = options.pop("trt", None) or FakeTrt(manifest, cudart)
    return TrtBackend(bundle, manifest, trt=fake, cudart=cudart, ledger=ledger, **options)


def refusal(bundle: Path, ledger: Ledger, kind: type[NerveError] = CompatibilityError, **options: Any) -> str:
    with opened(bundle, ledger, **options) as backend, pytest.raises(kind) as refused:
        backend.open_session("walk")
    assert refused.value.exit_code == kind.exit_code
    return str(refused.value)


def rebuild(bundle: Path, target: str = "rtx:sm89") -> str:
    return f"nerve-build engines {bundle} --target {target}"


def test_a_fitting_engine_is_loaded(bundle: Path, ledger: Ledger, loads: list[bytes]) -> None:
    add_engines(bundle, ledger)
    with opened(bundle, ledger) as backend:
        backend.open_session("walk")
    assert len(loads) == 1


@pytest.mark.parametrize("damage", [b"", b"rubbish", b"x"])
def test_row_7_a_damaged_engine_is_stopped_by_its_hash(
    bundle: Path, ledger: Ledger, loads: list[bytes], damage: bytes
) -> None:
    path = next(engine.path for engine in add_engines(bundle, ledger).engines if engine.stage == "walk")
    whole = (bundle / path).read_bytes()
    (bundle / path).write_bytes(damage + whole[len(damage) :] if damage else whole[:-1])
    message = refusal(bundle, ledger, BundleError)
    assert "sha256" in message or "size" in message
    assert loads == []


def test_row_7_an_engine_that_the_library_does_not_load_is_named_with_its_words(bundle: Path, ledger: Ledger) -> None:
    manifest = add_engines(bundle, ledger)
    fake = FakeTrt(manifest, FakeCudart(), faults=TrtFaults(unloadable=frozenset({"walk"})))
    message = refusal(bundle, ledger, trt=fake)
    assert message.startswith(f"TensorRT-RTX {RTX_VERSION} cannot load engines/rtx-sm89/walk-")
    assert message.endswith(f"the plan is damaged; build it again with: {rebuild(bundle)} --force")


def test_row_8_an_engine_of_another_version_is_refused_with_both(
    bundle: Path, ledger: Ledger, loads: list[bytes]
) -> None:
    manifest = add_engines(bundle, ledger, rtx=False, backend_version="tensorrt 11.4.0.2")
    fake = FakeTrt(manifest, FakeCudart(), version=TENSORRT_VERSION, rtx=False)
    message = refusal(bundle, ledger, trt=fake, library="tensorrt")
    expected = f"for version tensorrt 11.4.0.2, this machine has tensorrt {TENSORRT_VERSION}; "
    assert expected in message
    assert message.endswith(rebuild(bundle, "tensorrt"))
    assert loads == []


def test_row_9_an_engine_for_another_gpu_is_refused_with_both(bundle: Path, ledger: Ledger, loads: list[bytes]) -> None:
    add_engines(bundle, ledger, gpu="sm86")
    add_engines(bundle, ledger, gpu="sm120")
    message = refusal(bundle, ledger)
    assert "are for compute capability sm120, sm86, this machine has sm89" in message
    assert message.endswith(rebuild(bundle))
    assert loads == []


def test_row_9_an_engine_from_another_system_is_refused_with_both(
    bundle: Path, ledger: Ledger, loads: list[bytes]
) -> None:
    add_engines(bundle, ledger, os_arch="windows-amd64")
    assert "are for system windows-amd64, this machine has " in refusal(bundle, ledger)
    assert loads == []


def test_row_9_a_bundle_without_engines_says_how_to_make_them(bundle: Path, ledger: Ledger) -> None:
    assert refusal(bundle, ledger) == (
        f"the bundle has no TensorRT-RTX engine of stage 'walk'; build it with: {rebuild(bundle)}"
    )


def test_row_9_a_gpu_that_tensorrt_rtx_does_not_know_is_sent_to_tensorrt(bundle: Path, ledger: Ledger) -> None:
    add_engines(bundle, ledger)
    message = refusal(bundle, ledger, gpu=(9, 0))
    assert message.startswith("TensorRT-RTX has no target for this GPU (sm90), only sm75")
    assert message.endswith(f'{rebuild(bundle, "tensorrt")}, then backend="tensorrt"')


def test_an_engine_of_a_graph_that_was_replaced_is_refused(bundle: Path, ledger: Ledger, loads: list[bytes]) -> None:
    add_engines(bundle, ledger, onnx_sha256="1" * 64)
    assert "was made from another graph than the bundle holds" in refusal(bundle, ledger)
    assert loads == []


def test_row_10_an_engine_from_elsewhere_is_refused_unless_trusted(
    bundle: Path, ledger: Ledger, loads: list[bytes]
) -> None:
    add_engines(bundle, ledger=None)
    message = refusal(bundle, ledger)
    assert "was not built here by this user, and an engine is executable code" in message
    assert message.endswith(f"{rebuild(bundle)} --force, or trust whoever built it with trust_engines=True")
    assert loads == []
    with opened(bundle, ledger, options=BackendOptions(trust_engines=True)) as backend:
        backend.open_session("walk")
    assert len(loads) == 1


def test_row_10_a_damaged_list_of_engines_built_here_stops_everything(bundle: Path, ledger: Ledger) -> None:
    add_engines(bundle, ledger)
    ledger.path.write_text("{")
    assert "is damaged" in refusal(bundle, ledger, ResourceError)


@pytest.mark.parametrize("allowed", [False, True])
def test_an_engine_that_failed_its_comparison_is_always_refused(bundle: Path, ledger: Ledger, allowed: bool) -> None:
    add_engines(bundle, ledger, parity="failed")
    assert "did not agree with the reference" in refusal(
        bundle, ledger, options=BackendOptions(allow_unchecked=allowed)
    )


def test_an_engine_that_was_never_compared_is_refused_unless_allowed(bundle: Path, ledger: Ledger) -> None:
    add_engines(bundle, ledger, parity="not run")
    message = refusal(bundle, ledger)
    assert f"nerve-build parity {bundle} --backend rtx, or run it as it is with allow_unchecked=True" in message
    with opened(bundle, ledger, options=BackendOptions(allow_unchecked=True)) as backend:
        assert backend.open_session("walk").stage == "walk"


@pytest.mark.parametrize(("name", "module", "extra"), [("rtx", "tensorrt_rtx", "rtx"), ("tensorrt", "tensorrt", "trt")])
def test_row_11_a_missing_library_is_named_and_nothing_else_is_taken_instead(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, name: str, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(CompatibilityError, match=rf"cannot be imported .*pip install 'nerve-deploy\[{extra}\]'"):
        open_backend(name, bundle, load_manifest(bundle))


def test_row_11_a_shared_library_of_another_major_version_is_named(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(name: str) -> None:
        raise OSError("libnvinfer.so.11: cannot open shared object file: No such file or directory")

    monkeypatch.setattr("importlib.import_module", load)
    with pytest.raises(CompatibilityError, match=r"TensorRT cannot be imported \(libnvinfer\.so\.11: cannot open"):
        open_backend("tensorrt", bundle, load_manifest(bundle))


def test_row_11_a_major_version_that_nobody_tried_is_refused(bundle: Path, ledger: Ledger) -> None:
    old = FakeTrt(load_manifest(bundle), version="8.6.1", rtx=False)
    with pytest.raises(CompatibilityError, match=r"TensorRT 8\.6\.1 is installed, expected version 10 or 11"):
        opened(bundle, ledger, trt=old, library="tensorrt")


def test_row_11_missing_cuda_python_is_named(bundle: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cuda", "cuda.bindings", "cuda.bindings.runtime"):
        monkeypatch.setitem(sys.modules, name, None)
    manifest = load_manifest(bundle)
    with pytest.raises(CompatibilityError, match=r"cuda-python cannot be imported .*which engines need"):
        TrtBackend(bundle, manifest, trt=FakeTrt(manifest), ledger=ledger)


@pytest.fixture
def machine(bundle: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> FakeCudart:
    """A machine with TensorRT-RTX and a GPU, as far as `open_backend` can see."""
    cudart = FakeCudart()
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", FakeTrt(load_manifest(bundle), cudart))
    monkeypatch.setattr(trt, "import_cudart", lambda: cudart)
    monkeypatch.setattr(trt, "Ledger", lambda: ledger)
    return cudart


def automatic(bundle: Path, manifest: Manifest) -> str:
    with open_backend("auto", bundle, manifest) as backend:
        return backend.describe()


def test_auto_prefers_engines_that_fit_were_built_here_and_passed(
    bundle: Path, ledger: Ledger, machine: FakeCudart
) -> None:
    assert automatic(bundle, add_engines(bundle, ledger)) == f"auto chose rtx: TensorRT-RTX {RTX_VERSION}, sm89"


@pytest.mark.onnx
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"gpu": "sm86"}, "not rtx: the engines of stage 'attention' are for compute capability sm86"),
        ({"parity": "not run"}, "not rtx: engine engines/.* was never compared"),
        ({"parity": "failed"}, "not rtx: engine engines/.* did not agree"),
    ],
)
def test_auto_takes_onnx_runtime_elsewhere_and_says_why(
    bundle: Path, ledger: Ledger, machine: FakeCudart, changes: dict[str, Any], reason: str
) -> None:
    described = automatic(bundle, add_engines(bundle, ledger, **changes))
    assert described.startswith("auto chose ort (not rtx: ")
    assert re.search(reason, described)


@pytest.mark.onnx
def test_auto_never_takes_engines_from_elsewhere(bundle: Path, machine: FakeCudart) -> None:
    assert "was not built here" in automatic(bundle, add_engines(bundle))


@pytest.mark.onnx
def test_auto_wants_engines_of_all_stages_that_a_segmenter_needs(
    bundle: Path, ledger: Ledger, machine: FakeCudart
) -> None:
    manifest = add_engines(bundle, ledger)
    without = tuple(engine for engine in manifest.engines if engine.stage != "mix")
    described = automatic(bundle, manifest.model_copy(update={"engines": without}))
    assert "the bundle has no TensorRT-RTX engine of stage 'mix'" in described


def test_a_profile_that_is_no_range_is_no_manifest(bundle: Path, ledger: Ledger) -> None:
    manifest = add_engines(bundle, ledger)
    broken = manifest.engines[0].model_copy(update={"profile": {"token_ids": [[1, 12], [2]]}})
    content = manifest_bytes(manifest.model_copy(update={"engines": (broken, *manifest.engines[1:])}))
    (bundle / "manifest.json").write_bytes(content)
    with pytest.raises(BundleError, match="profile of 'token_ids' must be three lists of one length"):
        load_manifest(bundle)
