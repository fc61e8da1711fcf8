"""The documents that users read: which they are, their headings, their links."""

import re
from collections.abc import Iterator
from pathlib import Path

from tests.contracts.checkout import ROOT

PAGES = sorted((ROOT / "docs").rglob("*.md"))
DOCUMENTS = [
    ROOT / "README.md",
    *PAGES,
    ROOT / "CONTRIBUTING.md",
    ROOT / "docker" / "README.md",
    ROOT / "runtime" / "native" / "README.md",
]
"""Texts whose commands, code and links are tested."""
LINK = re.compile(r"\[(?:[^][]|\[[^]]*\])*\]\(([^()\s]+)\)")
FENCED = re.compile(r"(?ms)^```.*?^```$")


def name_of(path: Path) -> str:
    """A document's path from the root of the checkout."""
    return path.relative_to(ROOT).as_posix()


def all_texts() -> str:
    """README and all pages of docs/ in one text."""
    return "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *PAGES))


def links(text: str) -> list[str]:
    """The targets of the links and pictures of a Markdown text, those in code left out."""
    return [match[1] for match in LINK.finditer(re.sub(r"`[^`\n]*`", "", FENCED.sub("", text)))]


def anchors(text: str) -> set[str]:
    """The anchors of a Markdown text's headings, as GitHub and mkdocs make them, and of names for `mkdocstrings`."""
    return set(_anchors(FENCED.sub("", text)))


def _anchors(text: str) -> Iterator[str]:
    for heading in re.findall(r"(?m)^#{1,6} (.+)$", text):
        explicit = re.search(r"\{#([\w-]+)\}$", heading)
        yield explicit[1] if explicit else slug(heading)
    yield from re.findall(r"(?m)^::: ([\w.]+)$", text)


def slug(heading: str) -> str:
    """The anchor of a heading."""
    words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", words)).strip("-")
