"""Tables of docs/, made from the records of the benchmarks.

`docs/figures.json` holds the records that they show. A table stands between `<!-- figures: NAME -->` and `<!-- end of figures -->`; a test renders it again and compares.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nerve_runtime.errors import UsageError

Record = Mapping[str, Any]
HEADING = "heading"
"""Under this name a row holds the text of its first cell."""
MARKED = re.compile(r"(<!-- figures: ([\w-]+) -->\n)(.*?)(\n<!-- end of figures -->)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its heading, the field it shows, and how, as in `format(value / per, shown)`."""

    heading: str
    field: str
    shown: str = ""
    per: float = 1

    def cell(self, record: Record) -> str:
        """The field of a record as text, empty where it has none."""
        value = record.get(self.field)
        if isinstance(value, list):
            return " to ".join(format(end, self.shown) for end in value)
        if value is None or isinstance(value, str) or self.per == 1:
            return "" if value is None else format(value, self.shown)
        return format(value / self.per, self.shown)


@dataclass(frozen=True, slots=True)
class FigureTable:
    """A table of a page under docs/.

    Attributes:
        bench: which records it shows, by their field "bench".
        heading: of the first column.
        by: fields whose values, joined by " - ", say which row a record belongs to.
        columns: the other columns, from left to right.
        names: what to call the rows, in this order; records of other rows are left out.
        only: further fields that a record must have, with these values.
        spread: fields whose values, joined by " - ", follow the names of a record's other fields; with it one row shows
            several records: `miou` of a record whose `group` is stuff is the field "miou stuff".
    """

    bench: str
    heading: str
    by: tuple[str, ...]
    columns: tuple[Column, ...]
    names: Mapping[str, str]
    only: Mapping[str, Any] = field(default_factory=dict)
    spread: tuple[str, ...] = ()

    def shows(self, record: Record) -> bool:
        """Whether a record belongs to the table."""
        if record.get("bench") != self.bench or any(record.get(name) != value for name, value in self.only.items()):
            return False
        wanted = {column.field for column in self.columns}
        return _key(record, self.by) in self.names and not wanted.isdisjoint(self._fields(record))

    def kept(self, record: Record) -> dict[str, Any]:
        """The fields of a record that the table needs."""
        wanted = {column.field for column in self.columns}
        own = {name for name, shown in zip(record, self._fields(record), strict=True) if shown in wanted}
        return {name: record[name] for name in record if name in {"bench", *self.by, *self.only, *self.spread, *own}}

    def _fields(self, record: Record) -> list[str]:
        """Names of a record's fields as columns call them."""
        suffix = _key(record, self.spread)
        return [f"{name} {suffix}" if suffix else name for name in record]

    def rows(self, records: Iterable[Record]) -> list[Record]:
        """Its rows in the order of its names."""
        merged: dict[str, dict[str, Any]] = {}
        for record in records:
            if self.shows(record):
                row = merged.setdefault(_key(record, self.by), {})
                row.update(zip(self._fields(record), record.values(), strict=True))
        return [{**merged[name], HEADING: said} for name, said in self.names.items() if name in merged]

    def markdown(self, records: Iterable[Record]) -> str:
        """The table in Markdown.

        Raises:
            UsageError: there is no record to show.
        """
        rows = self.rows(records)
        if not rows:
            raise UsageError(f"there is no record of {self.bench!r} to show; run: nerve-bench {self.bench} --json")
        columns = (Column(self.heading, HEADING), *self.columns)
        lines = [" | ".join(column.heading for column in columns), "|".join("---" for _ in columns)]
        lines += [" | ".join(column.cell(record) for column in columns) for record in rows]
        return "\n".join(f"| {line} |" if line[0] != "-" else f"|{line}|" for line in lines)


def _key(record: Record, fields: Sequence[str]) -> str:
    return " - ".join(str(record[name]) for name in fields if name in record)


def read_records(folder: Path) -> list[dict[str, Any]]:
    """All records of the `*.jsonl` files of a folder, in the order of the files' names.

    Raises:
        UsageError: a line is no JSON object.
    """
    records = []
    for path in sorted(folder.glob("*.jsonl")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                record = json.loads(line)
            except ValueError as error:
                raise UsageError(f"{path}, line {number} is no JSON: {error}; write it again") from error
            if not isinstance(record, dict):
                raise UsageError(f"{path}, line {number} is {line[:40]!r}, expected a JSON object")
            records.append(record)
    return records


def shown_records(tables: Mapping[str, FigureTable], records: Iterable[Record]) -> list[dict[str, Any]]:
    """Of all records the fields that tables show, which is what is kept in git."""
    everything = list(records)
    kept = [table.kept(record) for table in tables.values() for record in everything if table.shows(record)]
    return [record for position, record in enumerate(kept) if record not in kept[:position]]


def rendered(tables: Mapping[str, FigureTable], text: str, records: Sequence[Record]) -> str:
    """A text with every marked table rendered anew.

    Raises:
        UsageError: a marker names no table, or a table has no record.
    """

    def table(match: re.Match[str]) -> str:
        name = match[2]
        if name not in tables:
            raise UsageError(f"there is no table {name!r}, only {', '.join(tables)}")
        return f"{match[1]}\n{tables[name].markdown(records)}\n{match[4]}"

    return MARKED.sub(table, text)
