"""Which engines are built, how the libraries differ, and the messages where no engine comes out. Real compiling is tested
on a bundle."""

import sys
from pathlib import Path
from typing import Any

import pytest

from nerve_bench.doubles.tensorrt import FakeTrt, TrtFaults
from nerve_bench.doubles.tensorrt_builder import FakeBuilder, FakeBuilderConfig
from nerve_export.engines import compile as engine
from nerve_export.engines.compile import (
    CLASS_SLOTS,
    PROFILE,
    WORKSPACE_BYTES,
    available_memory,
    compile_engine,
    engine_key,
    memory_estimate,
    profile_of,
    resolve_targets,
    workspace_bytes,
)
from nerve_export.engines.timing_cache import read_timings, timing_cache_path, write_timings
from nerve_runtime.backends.tensorrt.library import RTX_CAPABILITIES
from nerve_runtime.bundle.manifest import Manifest, load_manifest
from nerve_runtime.bundle.spec import StageSpec, TensorSpec
from nerve_runtime.errors import CompatibilityError, ResourceError, UsageError
from tests.data.fake_bundle import make_fake_bundle

FLOAT_BYTES = 4
NOTHING = StageSpec(inputs=(), outputs=())


def pretend(monkeypatch: pytest.MonkeyPatch, gpu: str | None, *installed: str) -> None:
    """A machine with that GPU, or none, and with those libraries."""
    monkeypatch.setattr(engine, "gpu_capability", lambda: gpu)
    monkeypatch.setattr(engine, "find_spec", lambda name: object() if name in installed else None)


def test_graphs_alone_are_built_when_asked_for() -> None:
    assert resolve_targets("ort") == ((), "graphs for ONNX Runtime only, as asked")


def test_named_capabilities_become_targets_in_their_order_and_once() -> None:
    targets, why = resolve_targets("rtx: sm89, sm86,sm89")
    assert targets == ("rtx-sm89", "rtx-sm86")
    assert why == "TensorRT-RTX engines for sm89, sm86, as asked"


@pytest.mark.parametrize(
    "target", ["rtx", "rtx:", "rtx:sm86,sm42", "cuda", "trt:sm86", "", "RTX:sm86", "tensorrt:sm86"]
)
def test_an_unknown_target_is_refused_with_those_that_exist(target: str) -> None:
    with pytest.raises(UsageError, match=r"--target is .*, expected auto, ort, tensorrt, or rtx:.*sm75, .*sm120"):
        resolve_targets(target)


@pytest.mark.parametrize("gpu", ["sm87", "sm90", "sm110"])
def test_a_gpu_that_tensorrt_rtx_does_not_know_is_sent_to_tensorrt(gpu: str) -> None:
    with pytest.raises(
        CompatibilityError, match=rf"has no target for {gpu}, only sm75.*use TensorRT: .*--target tensorrt"
    ):
        resolve_targets(f"rtx:sm89,{gpu}")


AUTOMATIC: list[tuple[str | None, tuple[str, ...], tuple[str, ...], str]] = [
    (None, ("tensorrt_rtx", "tensorrt"), (), "graphs for ONNX Runtime only: no NVIDIA GPU was found here"),
    ("sm120", ("tensorrt_rtx", "tensorrt"), ("rtx-sm120",), "TensorRT-RTX engines for the GPU found here (sm120)"),
    ("sm89", ("tensorrt",), ("tensorrt-sm89",), "TensorRT engines for the GPU found here (sm89)"),
    ("sm87", ("tensorrt_rtx", "tensorrt"), ("tensorrt-sm87",), "TensorRT engines for the GPU found here (sm87)"),
    ("sm89", (), (), "a GPU (sm89) is here, but no TensorRT-RTX; pip install 'nerve-deploy[rtx]'"),
    (
        "sm90",
        ("tensorrt_rtx",),
        (),
        "no target for this GPU (sm90), and TensorRT is not installed; pip install 'nerve-",
    ),
]


@pytest.mark.parametrize(("gpu", "installed", "expected", "reason"), AUTOMATIC)
def test_auto_looks_at_the_machine_and_says_what_it_saw(
    monkeypatch: pytest.MonkeyPatch, gpu: str | None, installed: tuple[str, ...], expected: tuple[str, ...], reason: str
) -> None:
    pretend(monkeypatch, gpu, *installed)
    targets, why = resolve_targets("auto")
    assert targets == expected
    assert reason in why


def test_tensorrt_compiles_for_the_gpu_that_is_here_or_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "sm87", "tensorrt")
    assert resolve_targets("tensorrt")[0] == ("tensorrt-sm87",)
    pretend(monkeypatch, None, "tensorrt")
    with pytest.raises(CompatibilityError, match=r"no NVIDIA GPU was found here; run nerve-build engines BUNDLE"):
        resolve_targets("tensorrt")
    pretend(monkeypatch, "sm87")
    with pytest.raises(CompatibilityError, match=r"not installed; pip install 'nerve-deploy\[trt\]', or compile for a"):
        resolve_targets("tensorrt")


def test_every_capability_is_one_that_the_library_knows() -> None:
    library = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    known = set(library.ComputeCapability.__members__) - {"NONE", "CURRENT"}
    assert set(RTX_CAPABILITIES.values()) == known


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


@pytest.mark.parametrize(
    ("size_hw", "expected"), [((128, 128), WORKSPACE_BYTES), ((512, 512), 4 << 30), ((384, 640), 15 << 28)]
)
def test_the_workspace_grows_with_the_frame_that_a_stage_looks_at(size_hw: tuple[int, int], expected: int) -> None:
    frame = TensorSpec(name="frame", dtype="uint8", axes=(1, *size_hw, 3))
    assert workspace_bytes(StageSpec(inputs=(frame,), outputs=())) == expected
    assert workspace_bytes(NOTHING) == WORKSPACE_BYTES


def test_engines_for_several_frames_take_one_to_the_most_and_plan_for_all_of_them() -> None:
    frame = TensorSpec(name="frame", dtype="uint8", axes=("b", 512, 512, 3))
    tau = TensorSpec(name="tau", dtype="float32", axes=("b",))
    several = StageSpec(inputs=(frame, tau), outputs=())
    assert profile_of(several, 8) == {
        "frame": [[1, 512, 512, 3], [8, 512, 512, 3], [8, 512, 512, 3]],
        "tau": [[1], [8], [8]],
    }
    assert workspace_bytes(several, 8) == 8 * (4 << 30)
    assert workspace_bytes(several, 1) == 4 << 30


@pytest.mark.parametrize(("weights", "measured"), [(1.7e9, 5.7e9), (3.4e9, 10.8e9)])
def test_the_memory_estimate_is_what_was_measured_on_the_unet(weights: float, measured: float) -> None:
    assert memory_estimate(int(weights)) == pytest.approx(measured, rel=0.02)


def test_available_memory_is_some_gigabytes_on_linux() -> None:
    found = available_memory()
    assert found is None or 2**26 < found < 2**50


def key(**changes: Any) -> str:
    facts: dict[str, Any] = {
        "precision": "fp16",
        "profile": {"x": [[1], [2], [3]]},
        "options": {"workspace_bytes": 1},
        "backend_version": "tensorrt 10.16.1.11",
        "target": "tensorrt-sm89",
    }
    return engine_key(changes.pop("onnx_sha256", "0" * 64), **{**facts, **changes})


def test_the_key_tells_all_that_decides_an_engines_bytes_and_nothing_else() -> None:
    changes: list[dict[str, Any]] = [
        {"onnx_sha256": "1" * 64},
        {"precision": "fp32"},
        {"profile": {"x": [[1], [2], [4]]}},
        {"options": {"workspace_bytes": 2}},
        {"backend_version": "tensorrt 10.16.1.12"},
        {"target": "tensorrt-sm86"},
    ]
    assert len({key(), *(key(**change) for change in changes)}) == 1 + len(changes)
    assert key() == key()
    assert len(key()) == 64


# The adapter, with the shipped fake in place of each library.


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_fake_bundle(tmp_path_factory.mktemp("fake"))


@pytest.fixture(scope="module")
def manifest(folder: Path) -> Manifest:
    return load_manifest(folder)


def install(monkeypatch: pytest.MonkeyPatch, trt: FakeTrt) -> FakeTrt:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx" if trt.rtx else "tensorrt", trt)
    return trt


def compiled(manifest: Manifest, target: str, **options: Any) -> engine.Engine:
    return compile_engine(Path("walk.onnx"), manifest.stages["walk"].spec, target, **options)


@pytest.mark.parametrize(("has_flag", "flags"), [(True, 1 << 1), (False, 0)])
def test_networks_are_strongly_typed_by_the_flag_where_it_exists(
    monkeypatch: pytest.MonkeyPatch, manifest: Manifest, has_flag: bool, flags: int
) -> None:
    trt = install(monkeypatch, FakeTrt(manifest, version="11.4.0", rtx=False, has_typing_flag=has_flag))
    made = compiled(manifest, "tensorrt-sm87")
    assert trt.networks == [flags]
    assert (made.backend_version, made.target) == ("tensorrt 11.4.0", "tensorrt-sm87")
    assert made.profile == profile_of(manifest.stages["walk"].spec)


def test_only_tensorrt_rtx_is_told_the_gpu(monkeypatch: pytest.MonkeyPatch, manifest: Manifest) -> None:
    named: list[object] = []
    real = FakeBuilderConfig.set_compute_capability

    def watched(config: FakeBuilderConfig, compute_capability: Any, index: int) -> bool:
        named.append(compute_capability)
        return real(config, compute_capability, index)

    monkeypatch.setattr(FakeBuilderConfig, "set_compute_capability", watched)
    trt = install(monkeypatch, FakeTrt(manifest))
    compiled(manifest, "rtx-sm120")
    assert named == [trt.ComputeCapability["SM120"]]
    install(monkeypatch, FakeTrt(manifest, version="10.3.0", rtx=False))
    compiled(manifest, "tensorrt-sm120")
    assert len(named) == 1


def test_timings_go_from_build_to_build_with_tensorrt(monkeypatch: pytest.MonkeyPatch, manifest: Manifest) -> None:
    install(monkeypatch, FakeTrt(manifest, version="10.3.0", rtx=False))
    first = compiled(manifest, "tensorrt-sm87").timing_cache
    assert first == b"fake timings walk"
    assert compiled(manifest, "tensorrt-sm87", timing_cache=first).timing_cache == first + b"walk"
    assert compiled(manifest, "tensorrt-sm87", timing_cache=b"of another version").timing_cache == first


def test_tensorrt_rtx_has_no_timings(monkeypatch: pytest.MonkeyPatch, manifest: Manifest) -> None:
    install(monkeypatch, FakeTrt(manifest))
    assert compiled(manifest, "rtx-sm89", timing_cache=b"of no use").timing_cache is None


def test_timings_are_kept_whole_or_measured_anew(tmp_path: Path) -> None:
    path = timing_cache_path("tensorrt 10.3.0", "tensorrt-sm87", tmp_path / "deep")
    assert path.name == "tensorrt-10.3.0-tensorrt-sm87.timings"
    assert read_timings(path) == (None, "")
    assert write_timings(path, b"timings") == ""
    assert read_timings(path) == (b"timings", "")
    for damage in (b"", path.read_bytes()[:-1], b"x" + path.read_bytes()):
        path.write_bytes(damage)
        kept, note = read_timings(path)
        assert kept is None
        assert "are damaged; this build measures anew" in note
    (tmp_path / "file").touch()
    assert "are not kept: cannot write" in write_timings(tmp_path / "file" / "timings", b"timings")


def test_progress_grows_from_nothing_to_all(monkeypatch: pytest.MonkeyPatch, manifest: Manifest) -> None:
    install(monkeypatch, FakeTrt(manifest))
    reports: list[tuple[str, float]] = []
    compiled(manifest, "rtx-sm89", progress=lambda what, share: reports.append((what, share)))
    assert reports == [(FakeBuilder.PHASE, share) for share in (0.0, 0.25, 0.5, 0.75, 1.0, 1.0)]


def test_phases_within_phases_count_for_their_part(manifest: Manifest) -> None:
    reports: list[float] = []
    monitor = engine._monitor(FakeTrt(manifest), lambda what, share: reports.append(share))
    monitor.phase_start("all", None, 2)
    monitor.phase_start("part", "all", 2)
    assert monitor.step_complete("part", 0)
    monitor.phase_start("part of part", "part", 4)
    monitor.step_complete("part of part", 1)
    monitor.phase_finish("part of part")
    monitor.step_complete("part", 1)
    monitor.phase_finish("part")
    monitor.step_complete("all", 0)
    monitor.phase_finish("all")  # a step early, as TensorRT-RTX does
    assert reports == [0, 0, 0.25, 0.25, 0.375, 0.5, 0.5, 0.5, 0.5, 1.0]


def test_a_listener_that_is_gone_ends_the_build(monkeypatch: pytest.MonkeyPatch, manifest: Manifest) -> None:
    def gone(what: str, share: float) -> None:
        raise BrokenPipeError

    install(monkeypatch, FakeTrt(manifest))
    with pytest.raises(ResourceError, match=r"gave no engine for walk\.onnx"):
        compiled(manifest, "rtx-sm89", progress=gone)


def test_no_engine_is_explained_by_what_the_builder_said_last(
    monkeypatch: pytest.MonkeyPatch, manifest: Manifest
) -> None:
    install(monkeypatch, FakeTrt(manifest, faults=TrtFaults(build_error="no kernel\n for attention")))
    with pytest.raises(
        ResourceError,
        match=r"TensorRT-RTX 1\S+ gave no engine for walk\.onnx with a workspace of 1\.0 GiB: no kernel for",
    ):
        compiled(manifest, "rtx-sm89")


def test_a_graph_that_is_not_understood_is_explained_by_the_parser(
    monkeypatch: pytest.MonkeyPatch, manifest: Manifest
) -> None:
    install(monkeypatch, FakeTrt(manifest, version="10.3.0", rtx=False, faults=TrtFaults(parse_errors=("node 7: no",))))
    with pytest.raises(
        CompatibilityError, match=r"TensorRT 10\.3\.0 cannot parse walk\.onnx: node 7: no; .*--opset 20"
    ):
        compiled(manifest, "tensorrt-sm87")
