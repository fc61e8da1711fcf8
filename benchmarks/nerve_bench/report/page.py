"""One self-contained HTML page of all that was measured: pictures, tables and the commands that give them."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from nerve_export.parity.report import page_templates

Record = Mapping[str, Any]
Draw = Callable[[Sequence[Record], Path], None]

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


def page(
    sections: Sequence[Section],
    records: Sequence[Record],
    pictures: Mapping[str, bytes],
    *,
    without_plots: str | None = None,
) -> str:
    """The page as HTML, nothing of which is fetched from anywhere.

    Args:
        sections: in order.
        records: all that were read; those of no section are listed at the end.
        pictures: further pictures, PNG, by what they show; they come first.
        without_plots: why plots are left out; None where they are drawn.
    """
    templates = page_templates(__package__)
    templates.filters.update(tables=_tables, cell=_cell, drawn=drawn)
    known = {bench for section in sections for bench in section.benches} | {"header"}
    return templates.get_template("evidence.html").render(
        sections=sections,
        all_records=records,
        pictures=pictures,
        without_plots=without_plots,
        facts=_facts(records),
        others=[record for record in records if record.get("bench") not in known],
    )


def _facts(records: Sequence[Record]) -> list[str]:
    """What the headers of all runs say of machine and versions, each line once."""
    lines = (
        ", ".join(f"{name} {value}" for name, value in record.items() if name not in HIDDEN and value != {})
        for record in records
        if record.get("bench") == "header"
    )
    return list(dict.fromkeys(lines))


def drawn(draw: str, records: Sequence[Record]) -> bytes:
    """The PNG that a drawing function, `module:function`, makes of records."""
    module, _, name = draw.partition(":")
    function: Draw = getattr(import_module(module), name)
    with tempfile.TemporaryDirectory(prefix="nerve-report-") as folder:
        path = Path(folder) / "plot.png"
        function(records, path)
        return path.read_bytes()


def _tables(records: Sequence[Record]) -> list[tuple[tuple[str, ...], list[Record]]]:
    """Fields and rows of a table for each set of fields; a field that is a curve in one record is in no table."""
    curves = {
        name
        for record in records
        for name, value in record.items()
        if isinstance(value, (dict, list)) and len(value) > LONG
    }
    kinds: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        kinds.setdefault(tuple(name for name in record if name not in HIDDEN | curves), []).append(record)
    return list(kinds.items())


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list) and len(value) == 2 and all(isinstance(end, (int, float)) for end in value):
        return f"{_cell(value[0])} to {_cell(value[1])}"
    if isinstance(value, list):
        return ", ".join(_cell(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {_cell(item)}" for name, item in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)
