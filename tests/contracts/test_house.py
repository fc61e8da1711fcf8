"""The house stays small and clean: short functions and files, little data, no trace of the machine that built it."""

import ast
import re
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from nerve_bench.world import CLASS_NAMES
from tests.contracts.checkout import LAUNCHERS, PACKAGES, ROOT, files_for_git, settings, sources

LONGEST_FUNCTION = 60
LONGEST_FILE = 400
DATA_LIMIT_BYTES = 10_000_000
"""Of everything but code and text."""
SOURCE_SUFFIXES = (".py", ".md", ".toml", ".sh", ".txt")
TINY_MODELS_LIMIT_BYTES = 6_000_000
HOME = re.compile(rb"/(?:root|home/[a-z][\w-]*|Users/\w+)/")

ALL_SOURCES = [*(path for package in PACKAGES for path in sources(package)), *LAUNCHERS.values()]


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _too_long(path: Path) -> list[str]:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, functions)]
    return [f"{_name(path)}:{node.lineno} {node.name}" for node in nodes if _lines(node) > LONGEST_FUNCTION]


def _lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def _pins(name: str) -> dict[str, str]:
    lines = [line for line in (ROOT / "requirements" / name).read_text().splitlines() if not line.startswith("#")]
    return dict(line.split("==") for line in lines)


def test_no_function_is_long() -> None:
    assert [function for path in ALL_SOURCES for function in _too_long(path)] == []


def test_a_long_function_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    path = tmp_path / "long.py"
    path.write_text("def lengthy():\n" + "    x = 1\n" * LONGEST_FUNCTION)
    assert _too_long(path) == ["long.py:1 lengthy"]


def test_no_file_is_long() -> None:
    lengths = {_name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in ALL_SOURCES}
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}


def test_every_package_says_that_it_is_typed() -> None:
    assert [name for name, folder in PACKAGES.items() if not (folder / "py.typed").is_file()] == []


def test_the_repository_stays_small() -> None:
    data = [path for path in files_for_git() if path.suffix not in SOURCE_SUFFIXES]
    assert sum(path.stat().st_size for path in data) < DATA_LIMIT_BYTES


def test_the_tiny_models_stay_tiny() -> None:
    tiny = (PACKAGES["nerve_ref"] / "models" / "tiny").rglob("*")
    assert sum(path.stat().st_size for path in tiny if path.is_file()) < TINY_MODELS_LIMIT_BYTES


def test_no_file_names_a_folder_of_the_building_machine() -> None:
    here = re.compile(re.escape(str(ROOT).encode()) + rb"/") if len(ROOT.parts) > 2 else HOME
    guilty = [_name(path) for path in files_for_git() if HOME.search(text := path.read_bytes()) or here.search(text)]
    assert guilty == []


@pytest.mark.parametrize("home", ["root", "home/somebody", "Users/Somebody"])
def test_a_folder_of_a_building_machine_is_found(home: str) -> None:
    assert HOME.search(f"open('/{home}/file')".encode())


@pytest.mark.parametrize("extra", ["export", "ort", "parity", "bench", "stream", "native"])
def test_the_pins_of_development_lie_in_the_declared_ranges(extra: str) -> None:
    project = settings()["project"]
    pins = _pins("dev.txt")
    texts = [*project["dependencies"], *project["optional-dependencies"][extra]]
    needs = [Requirement(text) for text in texts]
    needed = [need for need in needs if need.name != "nerve-deploy" and (need.marker is None or need.marker.evaluate())]
    assert [str(need) for need in needed if pins[canonicalize_name(need.name)] not in need.specifier] == []


def test_a_device_gets_the_same_versions_as_development() -> None:
    assert _pins("embed.txt").items() <= _pins("run.txt").items() <= _pins("dev.txt").items()


def test_who_embeds_the_thin_runtime_gets_nothing_of_the_application() -> None:
    assert _pins("embed.txt").keys() & {"av", "prometheus-client", "psutil", "rich", "typer"} == set()


def test_the_native_library_has_the_version_of_the_package() -> None:
    text = (ROOT / "runtime" / "native" / "CMakeLists.txt").read_text()
    assert re.findall(r"project\(nerve VERSION (\S+) ", text) == [settings()["project"]["version"]]


def test_a_device_gets_no_pytorch() -> None:
    assert _pins("run.txt").keys() & {"torch", "transformers", "diffusers", "onnx", "jaxtyping"} == set()


def test_the_demo_asks_for_every_class_of_the_world() -> None:
    listed = (ROOT / "runtime" / "nerve_stream" / "demo" / "classes.txt").read_text().splitlines()
    assert tuple(line for line in listed if not line.startswith("#")) == CLASS_NAMES


def test_the_rows_and_equations_that_code_points_to_are_documented() -> None:
    rows = set(re.findall(r"(?m)^\| (\d+) \|", (ROOT / "docs" / "faults.md").read_text()))
    method = (ROOT / "docs" / "method.md").read_text()
    equations = set(re.findall(r"(?m)^\| (E\d) \|", method))
    sections = set(re.findall(r"(?m)^## (\d+)\.", method))
    tests = "\n".join(path.read_text() for path in sorted((ROOT / "tests").rglob("*.py")))
    code = "\n".join(path.read_text() for path in ALL_SOURCES)
    assert set(re.findall(r"def test_rows?_(\d+)", tests)) - rows == set()
    assert set(re.findall(r"\bE\d\b", code)) - equations == set()
    assert set(re.findall(r"method, section (\d+)", code)) - sections == set()
