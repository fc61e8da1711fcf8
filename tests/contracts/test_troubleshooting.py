"""docs/troubleshooting.md: every class of error has an entry, and every quoted message still begins one of the code."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from nerve_runtime import errors
from tests.contracts.checkout import PACKAGES, ROOT, sources

PAGE = ROOT / "docs" / "troubleshooting.md"
FEWEST_MESSAGES = 30
CLASSES = [each for each in errors.NerveError.__subclasses__() if each.__module__ == errors.__name__]


def error_classes(text: str) -> set[str]:
    """The classes of a source text that are named as errors, private ones left out."""
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ClassDef)]
    return {node.name for node in nodes if node.name.endswith("Error") and not node.name.startswith("_")}


def messages(text: str) -> Iterator[str]:
    """Every text in a source, with `...` for what is filled in."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield _plain(node.value)
        if isinstance(node, ast.JoinedStr):
            parts = [str(part.value) if isinstance(part, ast.Constant) else "..." for part in node.values]
            yield _plain("".join(parts))


def _plain(text: str) -> str:
    return re.sub(r"\.{3,}", "...", " ".join(text.split()))


def quoted(page: str) -> list[str]:
    """The messages that the page quotes: the first code of each row of a table headed `message`."""
    tables = re.findall(r"(?m)^\| message \|.*\n\|---.*\n((?:\|.*\n)+)", page)
    rows = [row for table in tables for row in table.splitlines()]
    return [re.match(r"\| `([^`]+)` \|", row)[1] for row in rows]  # type: ignore[index]  # a row without one is a mistake


def _all_sources() -> list[str]:
    paths: list[Path] = [path for package in PACKAGES for path in sources(package)]
    return [path.read_text(encoding="utf-8") for path in paths]


def test_every_class_of_error_has_an_entry() -> None:
    classes = {name for text in _all_sources() for name in error_classes(text)}
    headings = set(re.findall(r"(?m)^#{2,3} (\w+Error)$", PAGE.read_text(encoding="utf-8")))
    assert headings == classes


def test_every_quoted_message_begins_a_message_of_the_code() -> None:
    known = {message for text in _all_sources() for message in messages(text)}
    shown = quoted(PAGE.read_text(encoding="utf-8"))
    assert len(shown) >= FEWEST_MESSAGES
    assert [text for text in shown if not any(message.startswith(_plain(text)) for message in known)] == []


def test_every_exit_code_is_in_the_table() -> None:
    rows = dict(re.findall(r"(?m)^\| (\d) \|.*\[(\w+Error)\]\(#\w+\) \|$", PAGE.read_text(encoding="utf-8")))
    assert rows == {str(each.exit_code): each.__name__ for each in CLASSES}


@pytest.mark.parametrize("each", CLASSES)
def test_an_exit_code_stands_above_its_messages(each: type[errors.NerveError]) -> None:
    assert f"## {each.__name__}\n\nExit code {each.exit_code}." in PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("source", "found"),
    [
        (
            "raise UsageError(f'no class is named {name!r}, the classes are {names}')",
            "no class is named ..., the classes",
        ),
        ("raise E(f'{path}: sha256 {got[:12]}... != manifest' f' {wanted}')", "...: sha256 ... != manifest ..."),
    ],
)
def test_a_message_is_read_from_the_code(source: str, found: str) -> None:
    assert any(message.startswith(found) for message in messages(source))


def test_a_private_class_needs_no_entry() -> None:
    assert error_classes("class _LostError(Exception): ...\nclass GoneError(Exception): ...\nclass Errors: ...") == {
        "GoneError"
    }
