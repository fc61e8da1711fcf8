"""Which marked tables the pages of docs/ show, and of which records: `tables.toml`."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nerve_bench.report.figures import Column, FigureTable

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def _table(entry: Mapping[str, Any]) -> FigureTable:
    return FigureTable(
        bench=entry["bench"],
        heading=entry.get("heading", ""),
        by=tuple(entry["by"]),
        columns=tuple(Column(*column) for column in entry["columns"]),
        names=entry["rows"],
        only=entry.get("only", {}),
        spread=tuple(entry.get("spread", ())),
    )


TABLES: Mapping[str, FigureTable] = {
    name: _table(entry) for name, entry in tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8")).items()
}
