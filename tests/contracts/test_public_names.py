"""The application uses public names of the thin runtime only, and no package imports in a circle.

Run as a script, `python -m tests.contracts.test_public_names`, it prints what it finds.
"""

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path

import pytest
import tomllib

import nerve_runtime
from tests.contracts.checkout import PACKAGES, ROOT, sources

MODULES_AT_ONE_LEVEL = 14
PUBLIC_MODULES = {
    "nerve_runtime",
    "nerve_runtime.atomic",
    "nerve_runtime.backends",
    "nerve_runtime.bundle",
    "nerve_runtime.drawing",
    "nerve_runtime.images",
    "nerve_runtime.opencv",
    "nerve_runtime.result",
    "nerve_runtime.vocabulary",
}


def _module_name(package: str, path: Path) -> str:
    parts = (package, *path.relative_to(PACKAGES[package]).with_suffix("").parts)
    return ".".join(part for part in parts if part != "__init__")


def private_uses(text: str) -> list[str]:
    """The names that a source text takes from `nerve_runtime` and that are in no `__all__`, as `module:name`."""
    return [
        f"{module}:{name}" for module, name in _taken(text) if name not in getattr(import_module(module), "__all__", ())
    ]


def _taken(text: str) -> Iterator[tuple[str, str]]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "nerve_runtime":
            yield from ((str(node.module), alias.name) for alias in node.names)
        if isinstance(node, ast.Import):
            yield from ((alias.name, "*") for alias in node.names if alias.name.startswith("nerve_runtime."))


def imported_among(path: Path, names: Iterable[str]) -> set[str]:
    """The modules out of `names` that a file imports anywhere, inside functions too."""
    known, found = set(names), set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {full if (full := f"{node.module}.{alias.name}") in known else node.module for alias in node.names}
    return found & known


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Every set of modules that import each other in a circle, each sorted."""
    reach = {name: _reached(graph, name) for name in graph}
    together = {frozenset(other for other in reach[name] if name in reach[other]) for name in graph}
    return sorted(sorted(group) for group in together if group)


def _reached(graph: Mapping[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        new = graph.get(waiting.pop(), set()) - seen
        seen |= new
        waiting += new
    return seen


def import_graph() -> dict[str, set[str]]:
    """Which of our modules imports which, by name; a package that re-exports its own modules is a module too."""
    paths = {_module_name(package, path): path for package in PACKAGES for path in sources(package)}
    return {name: imported_among(path, paths) - {name} for name, path in paths.items()}


def test_the_application_uses_public_names_only() -> None:
    used = {path.name: private_uses(path.read_text(encoding="utf-8")) for path in sources("nerve_stream")}
    assert {name: private for name, private in used.items() if private} == {}


@pytest.mark.parametrize(
    "line",
    ["from nerve_runtime.graphs import Graphs", "from nerve_runtime import _MODULES", "import nerve_runtime.video"],
)
def test_a_private_name_is_found(line: str) -> None:
    assert private_uses(line)


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles(import_graph()) == []


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


def test_no_package_has_more_modules_than_one_can_see() -> None:
    counts = {
        str(folder): len([path for path in folder.glob("*.py") if path.name != "__init__.py"])
        for package in PACKAGES.values()
        for folder in (package, *package.rglob("*/"))
    }
    assert {folder: count for folder, count in counts.items() if count > MODULES_AT_ONE_LEVEL} == {}


def test_every_module_of_the_thin_runtime_is_public_or_forbidden_to_the_application() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = {contract["id"]: contract for contract in settings["tool"]["importlinter"]["contracts"]}
    forbidden = contracts["public-names"]["forbidden_modules"]
    inner = {_module_name("nerve_runtime", path) for path in sources("nerve_runtime")} - PUBLIC_MODULES
    assert {name for name in inner if not any(f"{name}.".startswith(f"{listed}.") for listed in forbidden)} == set()


def test_completion_shows_the_public_names_and_nothing_else() -> None:
    import_module("nerve_runtime.segmenter")
    assert dir(nerve_runtime) == sorted(nerve_runtime.__all__)
    assert all(hasattr(nerve_runtime, name) for name in nerve_runtime.__all__)


if __name__ == "__main__":
    problems = [use for path in sources("nerve_stream") for use in private_uses(path.read_text(encoding="utf-8"))]
    sys.stdout.writelines(f"private name: {use}\n" for use in problems)
    sys.stdout.writelines(f"circle: {' '.join(circle)}\n" for circle in circles(import_graph()))
