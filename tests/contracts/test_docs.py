"""The documents hold together: links lead somewhere, every page is reached, the site can be made, all names are there."""

import importlib
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from tests.contracts.checkout import ROOT
from tests.contracts.documents import DOCUMENTS, PAGES, all_texts, anchors, links, name_of
from tests.contracts.programs import CLI_MODULES, UNIVERSAL, all_parameters
from tests.contracts.test_public_names import PUBLIC_MODULES

README_LINES = 150
CONFIG = ROOT / "mkdocs.yml"
INNER_MODULES = {"nerve_runtime.atomic", "nerve_runtime.opencv"}
"""Public to our application, but nothing that a user asks for."""
OF_OTHER_PROGRAMS = {
    "--build-arg", "--exit-timeout-secs", "--gpus", "--profile",
}  # fmt: skip


def _hooks() -> ModuleType:
    return _tool("hooks")


def _tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"nerve_docs_{name}", ROOT / "docs" / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _config() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    return config


def _pages_of(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    for entry in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from _pages_of(entry)


def broken_links(path: Path) -> list[str]:
    """The links of a document that lead to no file, or to no heading of a file."""
    return [target for target in links(path.read_text(encoding="utf-8")) if _is_broken(path, target)]


def _is_broken(path: Path, target: str) -> bool:
    file, _, anchor = target.partition("#")
    if re.match(r"[a-z]+:", file):  # external, not fetched
        return False
    place = (path.parent / file).resolve() if file else path
    if not place.exists():
        return True
    return bool(anchor) and anchor not in anchors(place.read_text(encoding="utf-8"))


def test_the_readme_is_a_screen_and_a_half() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= README_LINES


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_links_lead_to_files_and_headings_that_are_there(path: Path) -> None:
    assert broken_links(path) == []


@pytest.mark.parametrize(
    ("link", "broken"),
    [
        ("[a](there.md#a-heading-3)", False), ("[a](#own)", False), ("![a](https://example.org/x.png)", False),
        ("[a](gone.md)", True), ("[a](there.md#gone)", True), ("[a](#gone)", True), ("`[a](gone.md)`", False),
    ],
)  # fmt: skip
def test_a_broken_link_is_found(link: str, broken: bool, tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# A `heading`, 3\n")
    page = tmp_path / "page.md"
    page.write_text(f"## Own\n\n{link}\n")
    assert bool(broken_links(page)) == broken


def test_every_page_is_in_the_navigation() -> None:
    named = list(_pages_of(_config()["nav"]))
    assert sorted(named) == sorted(
        [*(path.relative_to(ROOT / "docs").as_posix() for path in PAGES), *_hooks().PAGES]
    ), "mkdocs.yml, nav"


def test_every_page_is_reached_from_the_readme() -> None:
    waiting, seen = [ROOT / "README.md"], set()
    while waiting:
        path = waiting.pop()
        if path in seen or path.suffix != ".md":
            continue
        seen.add(path)
        files = [target.partition("#")[0] for target in links(path.read_text(encoding="utf-8"))]
        waiting += [(path.parent / file).resolve() for file in files if file and ":" not in file]
    assert [name_of(path) for path in PAGES if path not in seen] == []


def test_mkdocs_takes_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    base = pytest.importorskip("mkdocs.config.base", reason="mkdocs is not installed: make docs installs it")
    pytest.importorskip("material", reason="mkdocs-material is not installed: make docs installs it")
    monkeypatch.chdir(ROOT)
    config = base.load_config(str(CONFIG))
    assert (config.strict, config.theme["font"], "offline" in str(config.plugins)) == (True, False, True)
    assert Path(config.site_dir) == ROOT / "build" / "site"


def test_nothing_of_the_configuration_is_fetched() -> None:
    assert "://" not in CONFIG.read_text(encoding="utf-8")


def test_a_site_that_loads_from_elsewhere_is_found(tmp_path: Path) -> None:
    hooks = _hooks()
    (tmp_path / "good.html").write_text('<a href="https://a.org">a</a><link rel="icon" href="x.png"><script src=y.js>')
    assert list(hooks.loaded_from_elsewhere(tmp_path)) == []
    (tmp_path / "bad.html").write_text('<script src="https://a.org/x.js"></script><link rel=preload href=//b.org/y>')
    (tmp_path / "bad.css").write_text("@font-face {src: url(https://c.org/z)}")
    assert list(hooks.loaded_from_elsewhere(tmp_path)) == [
        "bad.html: https://a.org/x.js", "bad.html: //b.org/y", "bad.css: https://c.org/z",
    ]  # fmt: skip


def test_links_lead_to_pages_of_the_site() -> None:
    relinked = _hooks().relinked
    text = "[n](../runtime/native/README.md#use) [e](../examples/a.py) [w](web.md#x) [u](https://a.org)\n```\n[n](../x)\n```"
    assert relinked(text, "commands/x.md", "docs/x.md").splitlines()[0] == (
        "[n](../native.md#use) e [w](../web.md#x) [u](https://a.org)"
    )
    assert "[n](../x)" in relinked(text, "commands/x.md", "docs/x.md")
    assert relinked("[d](../../docs/web.md)", "native.md", "runtime/native/README.md") == "[d](web.md)"


def test_an_example_in_a_docstring_becomes_code() -> None:
    pytest.importorskip("griffe", reason="griffe is not installed: make docs installs it")
    docstring = "First.\n\n>>> with a() as b:   # doctest: +SKIP\n...     b()\n\nLast."
    assert _tool("doctests").with_code_blocks(docstring) == (
        "First.\n\n```python\nwith a() as b:\n    b()\n```\n\nLast."
    )


@pytest.mark.parametrize("program", CLI_MODULES)
def test_the_reference_of_a_command_has_each_of_its_options(program: str) -> None:
    text = _hooks().command_reference(program)
    for words, parameter in all_parameters(program):
        heading = f"## {words}\n" if " " in words else ""
        section = re.split(r"(?m)^## ", text)[0] if not heading else text[text.index(heading) + len(heading) :]
        section = re.split(r"(?m)^## ", section)[0]
        for name in {*parameter.opts, *parameter.secondary_opts} - UNIVERSAL:
            assert not name.startswith("--") or re.search(rf"`{name}[ `]", section), f"{words} {name}"
        if parameter.param_type_name == "argument":
            name = (parameter.metavar or parameter.name.upper()).replace("|", "\\|")
            assert re.search(rf"\| `\[?{re.escape(name)}", section), f"{words} {name}"


def test_the_reference_of_each_command_is_a_page() -> None:
    pages = {path.stem for path in (ROOT / "docs" / "commands").glob("*.md")}
    assert pages == set(CLI_MODULES) == set(_hooks().PROGRAMS)
    for name in pages:
        assert f"<!-- reference: {name} -->" in (ROOT / "docs" / "commands" / f"{name}.md").read_text(encoding="utf-8")


def test_an_option_that_the_documents_name_exists() -> None:
    known = {
        name
        for program in CLI_MODULES
        for _, each in all_parameters(program)
        for name in (*each.opts, *each.secondary_opts)
    }
    named = set(re.findall(r"`(--[a-z][\w-]*)", all_texts()))
    assert named - known - UNIVERSAL - {"--version", "--extra-index-url", *OF_OTHER_PROGRAMS} == set()


def test_every_public_name_is_in_the_reference_of_python() -> None:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"(?m)^::: ([\w.]+)$", text))
    objects = {name: _object(name) for name in shown}
    missing = []
    for module in sorted((PUBLIC_MODULES | {"nerve_stream"}) - INNER_MODULES):
        for name in set(importlib.import_module(module).__all__) - {"__version__"}:
            same = getattr(importlib.import_module(module), name)
            if f"{module}.{name}" not in shown and not any(each is same for each in objects.values()):
                missing.append(f"{module}.{name}")
    assert missing == []


def _object(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)
