"""Engines of a bundle: each in a process of its own, hits by key, and one sentence for every way that process can end.

The process imports a `tensorrt_rtx` that is the shipped fake, from a folder that the test puts first on the path.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from nerve_export.cli import engines as engines_cli
from nerve_export.cli.engines import engines
from nerve_export.engines import build as engine_build
from nerve_export.engines import compile as engine
from nerve_export.engines.build import build_engines, plan_engines, targets_for_classes
from nerve_export.engines.compile import resolve_targets
from nerve_runtime.backends.tensorrt.engine_records import Machine, fitting_engine, this_os_arch
from nerve_runtime.backends.tensorrt.library import import_library
from nerve_runtime.bundle.ledger import Ledger
from nerve_runtime.bundle.manifest import Manifest, load_manifest, manifest_bytes, verify_bundle
from nerve_runtime.errors import BundleError, CompatibilityError, NerveError, ResourceError, UsageError
from tests.data.fake_bundle import make_fake_bundle

FAKE_LIBRARY = """
import os, sys
from pathlib import Path
from nerve_bench.doubles import tensorrt_builder
from nerve_bench.doubles.tensorrt import FakeTrt, TrtFaults
from nerve_runtime.bundle.manifest import load_manifest
{extra}
sys.modules[__name__] = FakeTrt(load_manifest(Path({bundle!r})), faults=TrtFaults({faults}))
"""
# Only in the process that compiles: the tests' own process imports the library too, for its version.
IN_THE_CHILD = """
import multiprocessing
if multiprocessing.parent_process() is not None:
    tensorrt_builder.FakeOnnxParser.parse_from_file = {parse}
"""
DYING = IN_THE_CHILD.format(parse="lambda *_: os.kill(os.getpid(), {number})")
RAISING = IN_THE_CHILD.format(parse="lambda *_: 1 / 0")
Install = Callable[..., None]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_fake_bundle(tmp_path / "bundle")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "engines.json")


@pytest.fixture
def install(tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a fake `tensorrt_rtx` where this process and its children import it from; graphs are not looked into."""

    def write(*, extra: str = "", faults: str = "") -> None:
        (tmp_path / "library").mkdir(exist_ok=True)
        text = FAKE_LIBRARY.format(extra=extra, bundle=str(bundle), faults=faults)
        (tmp_path / "library" / "tensorrt_rtx.py").write_text(text)

    write()
    monkeypatch.syspath_prepend(str(tmp_path / "library"))
    monkeypatch.delitem(sys.modules, "tensorrt_rtx", raising=False)
    monkeypatch.setattr(engine_build, "check_graph", lambda *_, **__: None)  # the fake bundle's graphs are none
    return write


@pytest.fixture
def at_once(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile in this process, which is quicker; for tests that are not about the other one."""

    def compile_here(what: str, function: Callable[..., Any], *arguments: Any, progress: Any, **_: Any) -> Any:
        return function(*arguments, progress=progress)

    monkeypatch.setattr(engine_build, "run_isolated", compile_here)


def build(bundle: Path, ledger: Ledger, *stages: Any, **options: Any) -> tuple[Manifest, list[Any]]:
    """Compile, and list the engines in the manifest as the command does."""
    manifest = load_manifest(bundle)
    records, facts = build_engines(bundle, manifest, ["rtx-sm89"], stages or None, ledger=ledger, **options)
    engines_cli._install(bundle, manifest, records)
    return load_manifest(bundle), facts


def test_a_bundle_of_16_bit_labels_gets_no_engines(tmp_path: Path, ledger: Ledger) -> None:
    wide = make_fake_bundle(tmp_path / "wide", max_classes=255)
    for target in ("rtx-sm89", "tensorrt-sm87"):
        with pytest.raises(
            CompatibilityError, match="no engines can be compiled of a bundle for 255 classes: TensorRT"
        ):
            build_engines(wide, load_manifest(wide), [target], ledger=ledger)
    assert plan_engines(wide, load_manifest(wide), []) == []


def test_auto_compiles_nothing_for_16_bit_labels_and_a_target_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    why = "TensorRT has no 16-bit labels, and its engines take 32 classes at most"
    monkeypatch.setattr(engine, "gpu_capability", lambda: "sm89")
    assert targets_for_classes("auto", 255) == ((), f"graphs for ONNX Runtime only: {why}")
    assert targets_for_classes("ort", 255) == resolve_targets("ort")
    with pytest.raises(CompatibilityError, match=f"no engines .* of a bundle for 255 classes: {why}; use --target ort"):
        targets_for_classes("rtx:sm89", 255)
    assert targets_for_classes("rtx:sm89", 254) == resolve_targets("rtx:sm89")
    with pytest.raises(UsageError, match="--target is 'rtx'"):
        targets_for_classes("rtx", 255)


def test_engines_are_compiled_listed_noted_and_fit_the_machine_they_are_for(
    bundle: Path, ledger: Ledger, install: Install
) -> None:
    reports: list[tuple[str, float]] = []
    manifest, facts = build(bundle, ledger, "walk", "mix", progress=lambda what, share: reports.append((what, share)))
    assert [(fact.stage, fact.target, fact.hit) for fact in facts] == [
        ("walk", "rtx-sm89", False),
        ("mix", "rtx-sm89", False),
    ]
    verify_bundle(bundle, manifest)
    machine = Machine(import_library("tensorrt_rtx"), "sm89", this_os_arch())
    for fact in facts:
        record = fitting_engine(bundle, manifest, fact.stage, machine)
        assert record.path == fact.path == f"engines/rtx-sm89/{fact.stage}-{record.key[:16]}.engine"
        assert (bundle / fact.path).stat().st_size == fact.bytes
        assert ledger.knows(manifest.files[fact.path].sha256)
        assert record.parity == "not run"
        assert 10 < fact.peak_rss_mb < 1000
    shares = [share for _, share in reports]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert reports[0] == ("walk for rtx-sm89: Building engine", 0.0)


def test_an_engine_whose_key_is_there_is_a_hit_and_what_changes_it_is_a_miss(
    bundle: Path, ledger: Ledger, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(bundle, ledger, "walk")
    with monkeypatch.context() as patched:
        patched.setattr(engine_build, "run_isolated", lambda *_, **__: pytest.fail("compiled again"))
        manifest, facts = build(bundle, ledger, "walk")
    assert [fact.hit for fact in facts] == [True]
    assert build(bundle, ledger, "walk", force=True)[1][0].hit is False
    path = bundle / manifest.engines[0].path
    path.write_bytes(path.read_bytes() + b" ")  # damaged: no hit
    assert build(bundle, ledger, "walk")[1][0].hit is False
    precise = load_manifest(bundle).model_copy(update={"precision": "fp16"})
    assert [plan.is_there for plan in plan_engines(bundle, precise, ["rtx-sm89"], ["walk"])] == [False]
    assert [plan.is_there for plan in plan_engines(bundle, load_manifest(bundle), ["rtx-sm86"], ["walk"])] == [False]


def test_engines_of_an_earlier_bundle_are_copied_where_their_key_is_the_same(
    bundle: Path, ledger: Ledger, at_once: None, tmp_path: Path
) -> None:
    build(bundle, ledger, "walk")
    staged = make_fake_bundle(tmp_path / "staged")
    (staged / "mix.onnx").write_bytes(b"another graph")
    records, facts = build_engines(staged, load_manifest(staged), ["rtx-sm89"], ["walk"], earlier=bundle, ledger=ledger)
    assert facts[0].hit
    assert (staged / records[0].path).read_bytes() == (bundle / facts[0].path).read_bytes()


def test_a_graph_that_was_changed_is_refused_before_a_compiler_sees_it(
    bundle: Path, ledger: Ledger, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = load_manifest(bundle)
    (bundle / "walk.onnx").write_bytes(b"dummy bytes of walc")
    monkeypatch.setattr(engine_build, "run_isolated", lambda *_, **__: pytest.fail("compiled"))
    with pytest.raises(BundleError, match=r"walk\.onnx: sha256"):
        build_engines(bundle, manifest, ["rtx-sm89"], ["walk"], ledger=ledger)


def test_an_unknown_stage_is_refused(bundle: Path, install: Install) -> None:
    unknown: Any = ["wlak"]
    with pytest.raises(UsageError, match=r"stages \['wlak'\] are not in the bundle, only text, scores"):
        plan_engines(bundle, load_manifest(bundle), ["rtx-sm89"], unknown)


@pytest.mark.parametrize(
    ("signal_name", "number", "kind", "sentence"),
    [
        ("SIGKILL", 9, ResourceError, "was killed, probably out of memory; close other programs"),
        ("SIGSEGV", 11, CompatibilityError, r"crashed \(SIGSEGV\); copy the bundle again, or build it with --opset 20"),
        ("SIGTERM", 15, ResourceError, "was ended by SIGTERM"),
    ],
)
def test_row_7_a_compiler_that_dies_becomes_one_sentence(
    bundle: Path,
    ledger: Ledger,
    install: Install,
    monkeypatch: pytest.MonkeyPatch,
    signal_name: str,
    number: int,
    kind: type[NerveError],
    sentence: str,
) -> None:
    """The graph is damaged and the hash check is off, so the damage reaches the library, which dies of it."""
    install(extra=DYING.format(number=number))
    manifest = load_manifest(bundle)
    (bundle / "walk.onnx").write_bytes(b"damaged")
    monkeypatch.setattr(engine_build, "verify_file", lambda *_: None)
    with pytest.raises(kind, match=rf"the compiler of walk\.onnx for rtx-sm89 {sentence}") as ended:
        build_engines(bundle, manifest, ["rtx-sm89"], ["walk"], ledger=ledger)
    assert ended.value.exit_code == (6 if kind is ResourceError else 4)
    assert not (bundle / "engines").exists()


def test_an_error_of_the_compiler_comes_through_with_its_kind(bundle: Path, ledger: Ledger, install: Install) -> None:
    install(faults="build_error='no kernel for attention'")
    with pytest.raises(ResourceError, match=r"gave no engine for walk\.onnx .*: no kernel for attention"):
        build(bundle, ledger, "walk")
    install(faults="parse_errors=('node 7: unknown',)")
    with pytest.raises(CompatibilityError, match=r"cannot parse walk\.onnx: node 7: unknown"):
        build(bundle, ledger, "walk")


def test_a_bug_of_ours_in_the_compilers_process_keeps_its_traceback(
    bundle: Path, ledger: Ledger, install: Install
) -> None:
    install(extra=RAISING)
    with pytest.raises(ZeroDivisionError) as raised:
        build(bundle, ledger, "walk")
    assert "in compile_to_file" in str(raised.value.__cause__)


# The command.


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    app = typer.Typer()
    app.command()(engines)

    def run(*arguments: object) -> tuple[int, str, str]:
        ended = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if ended.exception is not None and not isinstance(ended.exception, SystemExit):
            raise ended.exception
        return ended.exit_code, ended.stdout, ended.stderr

    return run


def test_the_command_builds_what_is_missing_and_says_so(
    bundle: Path, at_once: None, command: Callable[..., tuple[int, str, str]]
) -> None:
    options = (bundle, "--target", "rtx:sm89", "--stage", "walk", "--stage", "mix")
    code, out, err = command(*options, "--dry-run", "--json")
    assert [json.loads(line)["is_there"] for line in out.splitlines()] == [False, False]
    assert not (bundle / "engines").exists()
    code, out, err = command(*options, "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [(line["stage"], line["hit"]) for line in lines] == [("walk", False), ("mix", False)]
    assert "2 engines to compile; the largest, " in err
    assert " takes about 0.6 GB of memory" in err
    stray = bundle / "engines" / "rtx-sm89" / ".walk.tmp.engine"
    stray.write_bytes(b"left behind")
    code, out, err = command(*options)
    assert out.count("up to date") == 2
    assert not stray.exists()
    assert {(engine.stage, engine.target) for engine in load_manifest(bundle).engines} == {
        ("walk", "rtx-sm89"),
        ("mix", "rtx-sm89"),
    }


def test_engines_of_another_target_stay_and_replaced_ones_go(
    bundle: Path, at_once: None, command: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    command(bundle, "--target", "rtx:sm89,sm120", "--stage", "walk")
    before = {engine.target: engine.path for engine in load_manifest(bundle).engines}
    manifest = load_manifest(bundle).model_copy(update={"precision": "fp16"})  # other keys for the same stage
    (bundle / "manifest.json").write_bytes(manifest_bytes(manifest))
    command(bundle, "--target", "rtx:sm120", "--stage", "walk")
    after = {engine.target: engine.path for engine in load_manifest(bundle).engines}
    assert after["rtx-sm89"] == before["rtx-sm89"]
    assert after["rtx-sm120"] != before["rtx-sm120"]
    assert not (bundle / before["rtx-sm120"]).exists()
    verify_bundle(bundle, load_manifest(bundle))


def test_too_little_memory_is_a_warning_before_it_starts(
    bundle: Path, at_once: None, command: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines_cli, "available_memory", lambda: 10**8)
    err = " ".join(command(bundle, "--target", "rtx:sm89", "--stage", "walk")[2].split())
    assert "0.1 GB are available" in err
    assert "warning: that is more than is available, and the system may kill the compiler" in err


def test_what_is_no_bundle_is_refused_and_nothing_is_made_beside_it(
    tmp_path: Path, install: Install, command: Callable[..., tuple[int, str, str]]
) -> None:
    with pytest.raises(BundleError, match="is not a bundle"):
        command(tmp_path / "nowhere" / "bundle", "--target", "rtx:sm89")
    assert not (tmp_path / "nowhere").exists()


def test_a_failed_build_changes_nothing(
    bundle: Path, install: Install, command: Callable[..., tuple[int, str, str]]
) -> None:
    before = (bundle / "manifest.json").read_bytes()
    install(extra=DYING.format(number=9))
    with pytest.raises(ResourceError, match="probably out of memory"):
        command(bundle, "--target", "rtx:sm89", "--stage", "walk")
    assert (bundle / "manifest.json").read_bytes() == before


COMMAND = """
import typer
from nerve_export.engines import build
from nerve_export.cli.engines import engines
build.check_graph = lambda *_, **__: None
typer.run(engines)
"""
MISSING = ("torch", "onnx", "onnxruntime", "transformers", "diffusers", "onnxscript", "jaxtyping")


def test_engines_are_built_without_torch_and_onnx(
    bundle: Path, install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by the command nor by its child: each finds modules of these names that cannot be imported."""
    for name in MISSING:
        (tmp_path / "library" / f"{name}.py").write_text(f"raise ModuleNotFoundError('no {name}', name='{name}')")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    monkeypatch.setenv("PYTHONPATH", ":".join(path for path in sys.path if path))
    command = [sys.executable, "-c", COMMAND, str(bundle), "--target", "rtx:sm89", "--stage", "walk", "--json"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["stage"] == "walk"
