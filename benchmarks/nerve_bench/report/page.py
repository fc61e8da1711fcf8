"""One self-contained HTML page of all that was measured: pictures, tables and the commands that give them."""

import base64
import html
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

Record = Mapping[str, Any]
Draw = Callable[[Sequence[Record], Path], None]

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { margin-bottom: 0; } h2 { margin-top: 3rem; border-top: 1px solid #ccc; padding-top: 1rem; }
img { max-width: 100%; display: block; margin: 1rem 0; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .85rem; }
th, td { padding: .2rem .6rem; border-bottom: 1px solid #e3e3e3; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } tbody tr:hover { background: #f6f6f0; }
code, pre { background: #f4f4f0; padding: .1rem .3rem; border-radius: .2rem; } pre { padding: .6rem; overflow-x: auto; }
.missing { color: #a40; } nav a { margin-right: 1rem; } .facts { color: #666; font-size: .85rem; }
"""
HIDDEN = frozenset({"bench"})
LONG = 6
"""More values in one field are a curve: it is drawn, not tabled."""


@dataclass(frozen=True, slots=True)
class Section:
    """One question and its answer.

    Attributes:
        title: the question in a few words.
        text: what is shown and how to read it, plain text.
        benches: the records that belong to it, by their field "bench".
        command: prints these records.
        draw: `module:function` that draws them into a PNG, or None.
    """

    title: str
    text: str
    benches: tuple[str, ...]
    command: str
    draw: str | None = None

    @property
    def anchor(self) -> str:
        """Its name within the page."""
        return self.benches[0]

    def own(self, records: Sequence[Record]) -> list[Record]:
        """Its records."""
        return [record for record in records if record.get("bench") in self.benches]


def page(sections: Sequence[Section], records: Sequence[Record], pictures: Mapping[str, bytes]) -> str:
    """The page as HTML, nothing of which is fetched from anywhere.

    Args:
        sections: in order.
        records: all that were read; those of no section are listed at the end.
        pictures: further pictures, PNG, by what they show; they come first.
    """
    parts = ["<h1>NERVE Deploy: evidence</h1>", _facts(records)]
    links = " ".join(f'<a href="#{section.anchor}">{html.escape(section.title)}</a>' for section in sections)
    parts.append(f"<nav>{links}</nav>")
    parts += [
        f"<figure><figcaption>{html.escape(said)}</figcaption>{_image(png, said)}</figure>"
        for said, png in pictures.items()
    ]
    parts += [_section(section, section.own(records)) for section in sections]
    told = {bench for section in sections for bench in section.benches} | {"header"}
    others = [record for record in records if record.get("bench") not in told]
    if others:
        parts += ["<h2>Other records</h2>", *_tables(others)]
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>NERVE Deploy: evidence</title>'
        f"<style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _facts(records: Sequence[Record]) -> str:
    seen = dict.fromkeys(
        ", ".join(f"{name} {value}" for name, value in record.items() if name not in HIDDEN and value != {})
        for record in records
        if record.get("bench") == "header"
    )
    return "".join(f'<p class="facts">{html.escape(line)}</p>' for line in seen)


def _section(section: Section, records: list[Record]) -> str:
    parts = [f'<h2 id="{section.anchor}">{html.escape(section.title)}</h2>', f"<p>{html.escape(section.text)}</p>"]
    parts.append(f"<pre>$ {html.escape(section.command)}</pre>")
    if not records:
        parts.append(
            '<p class="missing">Not measured: run the command above with --json and put its lines into the folder.</p>'
        )
        return "\n".join(parts)
    if section.draw is not None:
        parts.append(_image(drawn(section.draw, records), section.title))
    for bench in section.benches:
        parts += _tables([record for record in records if record["bench"] == bench])
    return "\n".join(parts)


def drawn(draw: str, records: Sequence[Record]) -> bytes:
    """The PNG that a drawing function, `module:function`, makes of records."""
    module, _, name = draw.partition(":")
    function: Draw = getattr(import_module(module), name)
    with tempfile.TemporaryDirectory(prefix="nerve-report-") as folder:
        path = Path(folder) / "plot.png"
        function(records, path)
        return path.read_bytes()


def _image(png: bytes, said: str) -> str:
    encoded = base64.b64encode(png).decode("ascii")
    return f'<img alt="{html.escape(said, quote=True)}" src="data:image/png;base64,{encoded}">'


def _tables(records: Sequence[Record]) -> list[str]:
    """A table for each set of fields that records have; a field that is a curve in one of them is in none."""
    curves = {
        name
        for record in records
        for name, value in record.items()
        if isinstance(value, (dict, list)) and len(value) > LONG
    }
    kinds: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        kinds.setdefault(tuple(name for name in record if name not in HIDDEN | curves), []).append(record)
    return [_table(fields, own) for fields, own in kinds.items()]


def _table(fields: Sequence[str], records: Sequence[Record]) -> str:
    head = "".join(f"<th>{html.escape(field.replace('_', ' '))}</th>" for field in fields)
    rows = "".join(
        f"<tr>{''.join(f'<td>{html.escape(_said(record.get(field)))}</td>' for field in fields)}</tr>"
        for record in records
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _said(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list) and len(value) == 2 and all(isinstance(end, (int, float)) for end in value):
        return f"{_said(value[0])} to {_said(value[1])}"
    if isinstance(value, list):
        return ", ".join(_said(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {_said(item)}" for name, item in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)
