"""One list of faults for both languages: the same code, and the same sentence, from Python and from C."""

import ctypes
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nerve_runtime import Constants, NerveError, Segmenter, Temporal
from nerve_runtime.backends import BackendOptions
from nerve_runtime.bundle.manifest import file_sha256
from tests.native.binding import NativeSegmenter, open_library, params_for

pytestmark = pytest.mark.native
CLASSES = "ladybug; grass"
Lines = dict[str, Any]
DELETED = object()


@pytest.fixture(scope="module")
def library(native_library: Path) -> ctypes.CDLL:
    """The C library, opened."""
    return open_library(native_library)


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the tiny bundle that may be harmed."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def outcome(call: Callable[[], object]) -> tuple[int, str]:
    """Code and message of what a call raises; 0 where it succeeds."""
    try:
        call()
    except NerveError as error:
        return error.exit_code, str(error)
    return 0, ""


def of_python(bundle: Path, classes: str = CLASSES, background: str = "", **options: Any) -> tuple[int, str]:
    """What opening gives in Python."""

    def call() -> None:
        with Segmenter.open(
            bundle, classes, background=background or (), backend="ort", cache_dir=None, **options
        ) as segmenter:
            segmenter.segment(np.zeros((20, 30, 3), dtype=np.uint8))

    return outcome(call)


def of_c(
    library: ctypes.CDLL, onnxruntime: Path, bundle: Path, classes: str = CLASSES, background: str = "", **options: Any
) -> tuple[int, str]:
    """What opening gives in C."""

    def call() -> None:
        params = params_for(library, onnxruntime, **options)
        with NativeSegmenter.open(library, bundle, params) as native:
            native.set_classes(classes, background or None)
            native.segment(np.zeros((20, 30, 3), dtype=np.uint8))

    return outcome(call)


def write_lines(bundle: Path, change: Callable[[Lines], None]) -> None:
    """Change the manifest in place, without a hash of its own."""
    path = bundle / "manifest.json"
    lines = json.loads(path.read_text(encoding="utf-8"))
    del lines["manifest_sha256"]
    change(lines)
    path.write_text(json.dumps(lines), encoding="utf-8")


def set_line(place: tuple[Any, ...], value: object) -> Callable[[Lines], None]:
    """A change of one value of the manifest."""

    def change(lines: Lines) -> None:
        inner: Any = lines
        for key in place[:-1]:
            inner = inner[key]
        if value is DELETED:
            del inner[place[-1]]
        else:
            inner[place[-1]] = value

    return change


AXES = ("stages", "walk", "spec", "inputs", 0, "axes")
SOME_FILE = {"bytes": 1, "sha256": "0" * 64}
ENGINE = {
    "stage": "walk", "target": "rtx:sm89", "path": "walk.onnx", "key": "0" * 64, "onnx_sha256": "0" * 64,
    "backend_version": "1", "gpu": "sm89", "os_arch": "linux-x86_64", "precision": "fp32",
    "profile": {"seed_scores": [[1], [2], [3]]}, "builder_options": {"a": 1}, "parity": "not run",
}  # fmt: skip
BAD_LINES: list[tuple[tuple[Any, ...], object]] = [
    (("format_version",), 2), (("format_version",), "1"), (("preset",), 5), (("random_seed",), "x"),
    (("random_seed",), 1.5), (("opset",), 21), (("precision",), "fp8"), (("plan_key",), "zz"), (("geometry",), []),
    (("geometry",), DELETED), (("geometry", "working_hw"), [1]), (("geometry", "working_hw"), [1, 2, 3]),
    (("geometry", "working_hw"), {}), (("geometry", "working_hw"), [0, 3]), (("geometry", "working_hw"), [9000, 3]),
    (("geometry", "heads"), 2**24), (("geometry", "heads"), 1.0), (("geometry", "heads"), None),
    (("geometry", "heads"), True), (("geometry", "max_classes"), 1), (("geometry", "max_classes"), 70000),
    (("geometry", "max_batch"), 0), (("geometry", "max_batch"), 33), (("geometry", "max_batch"), "2"),
    (("geometry", "max_batch"), None), (("geometry", "max_batch"), 2), (("stages", "walk", "spec", "inputs", 3, "axes"), ["b"]),
    (("geometry", "foo"), 1), (("geometry", "heads"), 13), (("method", "tau"), 0), (("method", "tau"), "0"),
    (("method", "alpha"), 1), (("method", "alpha"), -1), (("method", "readout"), "nearest"), (("method", "beta"), 2),
    (("method", "baked", "steps"), 0), (("method", "baked", "steps"), 1001), (("method", "baked", "warm_steps"), DELETED),
    (("method", "baked", "x"), {}), (("method", "baked", "x"), [1, "a"]), (("method", "baked", "x"), [1.5]),
    (("vocabulary", "template_sets"), {}), (("vocabulary", "template_sets"), []),
    (("vocabulary", "template_sets"), {"single": ["no place", "a {}", "{} {}", "b"]}),
    (("vocabulary", "template_sets"), {"single": ["a {}", "{}" + "\u00e9" * 999]}),
    (("vocabulary", "template_sets"), {"single": [3]}), (("vocabulary", "template_sets"), {"single": 5}),
    (("vocabulary", "tokenizer"), "../tokenizer.json"), (("vocabulary", "tokenizer"), "it's"),
    (("vocabulary", "tokenizer"), "a//b"), (("vocabulary", "tokenizer"), "a/./b"), (("vocabulary", "tokenizer"), ""),
    (("vocabulary", "tokenizer"), "a\nb"), (("vocabulary", "tokenizer"), "C:b"), (("vocabulary", "tokenizer"), "/b"),
    (("vocabulary", "synthetic"), 1), (("vocabulary", "unknown_token"), 1), (("vocabulary", "end_token"), "<no such>"),
    (("vocabulary", "unknown_token"), "<no such>"), (("vocabulary", "context_length"), 0), (("stages", "foo"), {}),
    (("stages", "walk"), {}), (("stages", "walk"), 3), (("stages", "walk"), DELETED), (("stages", "walk", "gmac"), -1),
    (("stages", "walk", "external_data"), [1]), (("stages", "walk", "external_data"), {}),
    (("stages", "walk", "external_data"), ["a/../b"]), (("stages", "walk", "external_data"), ["zoë.bin", "a.bin"]),
    (AXES, [1.5]), (AXES, [True]), (AXES, ["q", 0]), (AXES, ["c", 7]), (AXES, [2**31 + 1]), (AXES, [2**62, 2**62]),
    (("stages", "walk", "spec", "inputs", 0, "dtype"), "float16"), (("stages", "walk", "spec", "inputs", 0, "name"), ""),
    (("stages", "walk", "spec", "inputs", 0), 3), (("stages", "walk", "spec", "inputs"), 3),
    (("stages", "walk", "spec", "more"), 3), (("stages", "readout", "spec", "outputs", 0, "dtype"), "uint16"),
    (("stages", "walk", "spec", "inputs", 3, "name"), "alfa"), (("stages", "walk", "spec", "inputs", 3, "dtype"), "int64"),
    (("weights",), {}), (("weights", 0, "sha256"), 3), (("weights", 0, "licence"), DELETED), (("engines",), [{}]),
    (("engines",), [{**ENGINE, "stage": "walks"}]), (("engines",), [{**ENGINE, "gpu": "sm9"}]), (("engines",), [{**ENGINE, "profile": {"x": [[1], [2]]}}]),
    (("engines",), [{**ENGINE, "profile": {"x": [[1], [2], [3, 4]]}}]), (("engines",), [{**ENGINE, "parity": "fine"}]),
    (("engines",), [{**ENGINE, "os_arch": ""}]), (("engines",), [{**ENGINE, "builder_options": {"a": None}}]),
    (("engines",), [{**ENGINE, "path": "no such.engine"}]), (("tool_versions",), {"a": 1}), (("files",), {}),
    (("files",), []), (("files", "../x"), SOME_FILE), (("files", "x"), {"bytes": -1, "sha256": "0" * 64}),
    (("files", "x"), {"bytes": 1, "sha256": "0" * 63}), (("files", "x"), SOME_FILE), (("manifest_sha256",), 3),
    (("zzz",), 3),
]  # fmt: skip


@pytest.mark.parametrize(("place", "value"), BAD_LINES, ids=lambda part: str(part)[:60])
def test_a_bad_line_of_the_manifest_is_named_in_the_same_words(
    place: tuple[Any, ...], value: object, bundle: Path, library: ctypes.CDLL, onnxruntime_library: Path
) -> None:
    write_lines(bundle, set_line(place, value))
    expected = of_python(bundle)
    assert expected[0] in (2, 3)  # 2: the graph's inputs are not those that the walk has
    assert of_c(library, onnxruntime_library, bundle) == expected


@pytest.mark.parametrize(
    "text", ["", "[]", "nul", '{"format_version": 1', '{"a": 1e999}', "\ufeff{}", '{"\x00": 1}', "[" * 9999]
)
def test_what_is_no_json_has_the_same_code(
    text: str, bundle: Path, library: ctypes.CDLL, onnxruntime_library: Path
) -> None:
    (bundle / "manifest.json").write_text(text, encoding="utf-8")
    code, message = of_c(library, onnxruntime_library, bundle)
    assert code == of_python(bundle)[0] == 3
    assert message.startswith(f"{bundle}/manifest.json is not a valid manifest: ")
    assert message.endswith("; rebuild the bundle")


def _twice(bundle: Path) -> None:
    text = (bundle / "manifest.json").read_text()
    (bundle / "manifest.json").write_text(text.replace("{", '{"manifest_sha256": "' + "0" * 64 + '",', 1))


def _link(path: Path, *, hard: bool) -> None:
    kept = path.with_name(f"{path.name}.kept")
    path.rename(kept)
    make = path.hardlink_to if hard else path.symlink_to
    make(kept)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("")


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


HARMS: dict[str, Callable[[Path], object]] = {
    "no manifest": lambda bundle: (bundle / "manifest.json").unlink(),
    "no folder": shutil.rmtree,
    "a file for a folder": lambda bundle: _file(bundle),
    "a long manifest": lambda bundle: (bundle / "manifest.json").write_bytes(b" " * 4_000_001),
    "a linked manifest": lambda bundle: _link(bundle / "manifest.json", hard=False),
    "a folder for the manifest": lambda bundle: _folder(bundle / "manifest.json"),
    "a changed manifest": lambda bundle: _flip(bundle / "manifest.json"),
    "two hashes": _twice,
    "no graph": lambda bundle: (bundle / "mix.onnx").unlink(),
    "a folder for a graph": lambda bundle: _folder(bundle / "mix.onnx"),
    "a linked graph": lambda bundle: _link(bundle / "mix.onnx", hard=False),
    "a hard link": lambda bundle: _link(bundle / "tokenizer.json", hard=True),
    "a short graph": lambda bundle: (bundle / "solve.onnx").write_bytes(b"abc"),
    "a changed graph": lambda bundle: _flip(bundle / "carry.onnx"),
    "a changed tokenizer": lambda bundle: _flip(bundle / "tokenizer.json"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_harmed_bundle_is_refused_in_the_same_words(
    harm: str, bundle: Path, library: ctypes.CDLL, onnxruntime_library: Path
) -> None:
    HARMS[harm](bundle)
    expected = of_python(bundle)
    assert expected[0] == 3
    assert of_c(library, onnxruntime_library, bundle) == expected


@pytest.mark.parametrize(
    "content", [b"", b"\x00" * 50, b"not a graph at all", "half"], ids=["empty", "zeros", "text", "half"]
)
def test_a_graph_that_is_none_has_the_same_code(
    content: bytes | str, bundle: Path, library: ctypes.CDLL, onnxruntime_library: Path
) -> None:
    graph = bundle / "mix.onnx"
    whole = graph.read_bytes()
    graph.write_bytes(content if isinstance(content, bytes) else whole[: len(whole) // 2])
    record = {"bytes": graph.stat().st_size, "sha256": file_sha256(graph)}
    write_lines(bundle, set_line(("files", "mix.onnx"), record))
    code, message = of_c(library, onnxruntime_library, bundle)
    assert code == of_python(bundle)[0] == 3
    assert "mix.onnx is not a graph that onnxruntime can open: [ONNXRuntimeError] : " in message


OPTIONS: dict[str, dict[str, Any]] = {
    "longest": {"longest_s": 0.0}, "smoothing": {"smoothing": 1.0}, "change": {"change": -0.25}, "cut": {"cut": 1.5},
    "keyframes": {"keyframe_every": 0}, "scores": {"scores_every": -3}, "not a number": {"smoothing": float("nan")},
    "small": {"cut": -1e-5}, "great": {"cut": 1e16},
}  # fmt: skip


@pytest.mark.parametrize("option", OPTIONS)
def test_a_temporal_option_out_of_range_is_refused_in_the_same_words(
    option: str, tiny_bundle: Path, library: ctypes.CDLL, onnxruntime_library: Path
) -> None:
    expected = outcome(lambda: Temporal(**OPTIONS[option]))
    assert expected[0] == 2
    params = params_for(library, onnxruntime_library, Temporal(), **OPTIONS[option])
    assert outcome(lambda: NativeSegmenter.open(library, tiny_bundle, params)) == expected


CONSTANTS = [
    Constants(tau=0.0), Constants(alpha=1.0), Constants(beta=1.5), Constants(head_temperature=float("inf")),
    Constants(threshold=-0.5), Constants(threshold=0.5),
]  # fmt: skip


@pytest.mark.parametrize("constants", CONSTANTS, ids=str)
def test_a_constant_out_of_range_is_refused_in_the_same_words(
    constants: Constants, tiny_bundle: Path, library: ctypes.CDLL, onnxruntime_library: Path
) -> None:
    expected = of_python(tiny_bundle, constants=constants)
    assert expected[0] == 2
    assert of_c(library, onnxruntime_library, tiny_bundle, constants=constants) == expected


LISTS = [
    ("", ""), (" ", ""), ("dog", ""), ("dog, cow", ""), ("dog;;cow", ""), ("dog; cow, dog", ""), ("dog; cow", "dog"),
    ("dog; cow", " ; "), ("dog; cow;", ""), ("dog; unicorn", ""), ("dog; zebras", ""), ("dog; <end>", ""),
    ("do\x07g; cow", ""), ("; ".join(f"a{number}" for number in range(300)), ""),
    ("; ".join(f"a{number}" for number in range(70000)), ""), ("dog; " + "tree " * 60, ""), ("dog; \N{GREEK SMALL LETTER OMICRON}x", ""),
    ("dog; background", "cow"), ("d\u00f6g; cow", ""), ("dog\u00a0; \u3000cow", ""),
]  # fmt: skip


@pytest.mark.parametrize(("classes", "background"), LISTS, ids=lambda text: repr(text)[:40])
def test_a_class_list_ends_the_same_way(
    classes: str, background: str, tiny_bundle: Path, library: ctypes.CDLL, onnxruntime_library: Path
) -> None:
    expected = of_python(tiny_bundle, classes, background)
    assert of_c(library, onnxruntime_library, tiny_bundle, classes, background) == expected


def test_a_missing_stage_is_named_with_the_option_that_needs_it(
    bundle: Path, library: ctypes.CDLL, onnxruntime_library: Path
) -> None:
    for stage in ("carry", "walk_carried"):
        write_lines(bundle, set_line(("stages", stage), DELETED)) if stage == "carry" else None
    expected = of_python(bundle, temporal=Temporal())
    assert expected[0] == 3
    assert of_c(library, onnxruntime_library, bundle, temporal=Temporal()) == expected


def test_a_gpu_that_onnxruntime_was_not_built_for_is_refused_in_the_same_words(
    tiny_bundle: Path, library: ctypes.CDLL, onnxruntime_library: Path
) -> None:
    expected = of_python(tiny_bundle, backend_options=BackendOptions(providers="cuda"))
    assert expected[0] == 4
    code, message = of_c(library, onnxruntime_library, tiny_bundle, provider=1)
    assert code == 4
    assert message.partition(";")[0] == expected[1].partition(";")[0]
