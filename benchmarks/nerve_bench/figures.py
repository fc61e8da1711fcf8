"""Tables of the README, made from the records of the benchmarks: `docs/figures.json` holds the records they show.

A table stands between `<!-- figures: NAME -->` and `<!-- end of figures -->`; a test renders it again and compares.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nerve_runtime.errors import UsageError

Record = Mapping[str, Any]
MARKED = re.compile(r"(<!-- figures: ([\w-]+) -->\n\n)(.*?)(\n\n<!-- end of figures -->)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its heading, the field it shows, and how, as in `format(value, shown)`."""

    heading: str
    field: str
    shown: str = ""

    def cell(self, record: Record) -> str:
        """The field of a record as text, empty where it has none."""
        value = record.get(self.field)
        if isinstance(value, list):
            return " to ".join(format(end, self.shown) for end in value)
        return "" if value is None else format(value, self.shown)


@dataclass(frozen=True, slots=True)
class FigureTable:
    """A table of the README.

    Attributes:
        bench: which records it shows, by their field "bench".
        columns: from left to right.
        names: what to call the values of the first column's field, in this order; others are left out.
        only: further fields that a record must have, with these values.
    """

    bench: str
    columns: tuple[Column, ...]
    names: Mapping[str, str]
    only: Mapping[str, str] = field(default_factory=dict)

    def shows(self, record: Record) -> bool:
        """Whether a record belongs to the table."""
        named = record.get("bench") == self.bench and record.get(self.columns[0].field) in self.names
        return named and self.columns[1].field in record and all(record.get(n) == v for n, v in self.only.items())

    def rows(self, records: Iterable[Record]) -> list[Record]:
        """Its records in the order of its names."""
        own = [record for record in records if self.shows(record)]
        by_name = {record[self.columns[0].field]: record for record in own}
        return [{**by_name[name], self.columns[0].field: said} for name, said in self.names.items() if name in by_name]

    def markdown(self, records: Iterable[Record]) -> str:
        """The table in Markdown.

        Raises:
            UsageError: there is no record to show.
        """
        rows = self.rows(records)
        if not rows:
            raise UsageError(f"there is no record of {self.bench!r} to show; run: nerve-bench {self.bench} --json")
        lines = [" | ".join(column.heading for column in self.columns), "|".join("---" for _ in self.columns)]
        lines += [" | ".join(column.cell(record) for column in self.columns) for record in rows]
        return "\n".join(f"| {line} |" if line[0] != "-" else f"|{line}|" for line in lines)


TABLES: dict[str, FigureTable] = {
    "video": FigureTable(
        "video",
        (
            Column("", "variant"),
            Column("cost, cold = 1", "ratio_to_cold", ".2f"),
            Column("mIoU", "miou", ".1f"),
            Column("flicker", "flicker", ".2f"),
            Column("consistency", "consistency", ".1f"),
            Column("ghosts", "ghosts", ".1f"),
            Column("recovery", "recovery_frames", ".1f"),
        ),
        {
            "cold": "every frame cold",
            "temporal": "**follow, the default**",
            "unsmoothed": "follow, smoothing 0",
            "scores_every_2": "follow, CLIP every 2 frames",
            "every_4": "follow, keyframe every 4",
            "every_16": "follow, keyframe every 16",
            "shift_only": "labels moved along, no CLIP, no walk of their own",
            "exact": "exact walk, nothing moves",
            "warm": "warm walk, nothing moves",
            "hold": "labels frozen",
            "cold_smoothed": "every frame cold, smoothed",
        },
    ),
    "video-walks": FigureTable(
        "video_walks",
        (
            Column("", "walk"),
            Column("ms a frame", "ms_per_frame", ".2f"),
            Column("ms a keyframe more", "ms_per_keyframe", ".1f"),
            Column("error to the limit (L1 a token)", "error_l1", ".1e"),
            Column("labels as the limit's, %", "labels_as_limit_percent", ".2f"),
        ),
        {"walk": "20 steps from G", "walk_warm": "3 steps from the frame before", "walk_exact": "exact walk"},
    ),
}

_DIFFERENCE = (
    Column("points of mIoU", "difference", "+.2f"),
    Column("95 % interval", "interval", "+.2f"),
    Column("", "verdict"),
)
TABLES["parts"] = FigureTable(
    "experiment_parts",
    (Column("NERVE against", "minus"), *_DIFFERENCE),
    {
        "G": "CLIP alone (G)",
        "local": "local affinity only",
        "global": "global affinity only",
        "global, mean heads": "global affinity only, mean of the heads",
        "hybrid, mean heads": "both, mean of the heads",
    },
    {"setting": "NERVE"},
)
TABLES["better"] = FigureTable(
    "experiment_better",
    (Column("change to the paper-like setting", "setting"), *_DIFFERENCE),
    {
        "guided read-out": "guided read-out",
        "key_norm": "key normalisation",
        "beta per pixel": "beta per pixel",
        "self-loop removed": "self-loop left out of the entropies",
        "sharpen": "sharpened rows",
        "zscore": "z-scores in the head weights",
        "exact walk": "exact walk",
        "preset": "the preset `tiny` as it is",
        "all that won on validation": "all that won on validation",
    },
    {"minus": "paper-like"},
)


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


def shown_records(records: Iterable[Record]) -> list[dict[str, Any]]:
    """Of all records the fields that tables show, which is what is kept in git."""
    kept: list[dict[str, Any]] = []
    everything = list(records)
    for table in TABLES.values():
        fields = ["bench", *table.only, *(column.field for column in table.columns)]
        kept += [
            {name: record[name] for name in fields if name in record} for record in everything if table.shows(record)
        ]
    return kept


def rendered(text: str, records: Sequence[Record]) -> str:
    """A text with every marked table rendered anew.

    Raises:
        UsageError: a marker names no table, or a table has no record.
    """

    def table(match: re.Match[str]) -> str:
        name = match[2]
        if name not in TABLES:
            raise UsageError(f"there is no table {name!r}, only {', '.join(TABLES)}")
        return f"{match[1]}{TABLES[name].markdown(records)}{match[4]}"

    return MARKED.sub(table, text)
