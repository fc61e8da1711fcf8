"""Records as tables for people: no column is cut or left out, however narrow the terminal is."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

Record = Mapping[str, Any]
WRAPPED_FROM = 20
"""Cells with more characters than this may be wrapped."""
UNLIMITED = 10_000
GAP = 1


def table_console() -> Console:
    """Standard output, as wide as the terminal or COLUMNS say; a file or a pipe has no width that lines must fit."""
    fits = Console().is_terminal or "COLUMNS" in os.environ
    return Console(width=None if fits else UNLIMITED)


def print_tables(records: Sequence[Record], columns: Sequence[str], console: Console) -> None:
    """Print a table for each kind of record (its field "bench"), and what has none of the columns as JSON.

    A table too wide for the console goes on below in further columns, in the same order of rows, its first column repeated.
    """
    kinds: dict[str, list[Record]] = {}
    for record in records:
        if any(column in record for column in columns):
            kinds.setdefault(str(record.get("bench")), []).append(record)
        else:
            console.out(json.dumps(record, indent=2), highlight=False)
    for rows in kinds.values():
        shown = [column for column in columns if any(column in row for row in rows)]
        for part in _parts(shown, rows, console.width):
            console.print(_table(part, rows))


def _table(columns: Sequence[str], rows: Sequence[Record]) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
    for column in columns:
        is_short = max(len(_cell(row, column)) for row in rows) <= WRAPPED_FROM
        is_text = any(isinstance(row.get(column), str | dict | list) for row in rows)
        table.add_column(
            column.replace("_", "\n"),
            no_wrap=is_short,
            overflow="fold",
            min_width=_least_width(column, rows),
            justify="left" if is_text else "right",
            vertical="top",
        )
    for row in rows:
        table.add_row(*(_cell(row, column) for column in columns))
    return table


def _parts(columns: Sequence[str], rows: Sequence[Record], width: int) -> Iterator[list[str]]:
    """The columns in groups that fit side by side; each further group begins with the first column."""
    part: list[str] = []
    for column in columns:
        together = sum(_least_width(name, rows) + GAP for name in (*part, column)) - GAP
        if together > width and len(part) > 1:
            yield part
            part = [columns[0]]
        part.append(column)
    yield part


def _least_width(column: str, rows: Sequence[Record]) -> int:
    words = [word for row in rows for word in _cell(row, column).split()]
    cells = [_cell(row, column) for row in rows]
    longest = max(map(len, cells))
    needed = longest if longest <= WRAPPED_FROM else min(WRAPPED_FROM, max(map(len, words)))
    return max(needed, *(len(word) for word in column.split("_")))


def _cell(row: Record, column: str) -> str:
    return _text(row.get(column, ""))


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(item)}" for name, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
