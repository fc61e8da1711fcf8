import json
from pathlib import Path
from typing import Any

import pytest

from nerve_bench.cli.report import TEXTS
from nerve_bench.report.figures import MARKED, Column, FigureTable, read_records, rendered, shown_records
from nerve_bench.report.tables import TABLES
from nerve_runtime.errors import UsageError
from tests.contracts.checkout import ROOT

WARM: dict[str, Any] = {"bench": "video_walks", "walk": "walk_warm", "ms_per_frame": 1.234, "error_l1": 0.0882, "n": 9}
TEXT = "before\n<!-- figures: video-walks -->\n\nold\n\n<!-- end of figures -->\nafter\n"


def test_the_tables_of_the_texts_are_those_of_their_figures() -> None:
    records = json.loads((ROOT / "docs" / "figures.json").read_text(encoding="utf-8"))
    texts = [(ROOT / path).read_text(encoding="utf-8") for path in TEXTS]
    assert sorted(match[2] for text in texts for match in MARKED.finditer(text)) == sorted(TABLES)
    for text in texts:
        assert rendered(TABLES, text, records) == text, "write them again: nerve-bench figures --from FOLDER"


def test_no_table_has_a_row_or_a_column_without_a_figure() -> None:
    records = json.loads((ROOT / "docs" / "figures.json").read_text(encoding="utf-8"))
    for name, table in TABLES.items():
        rows = table.rows(records)
        assert len(rows) == len(table.names), name
        assert [column.field for column in table.columns if all(column.field not in row for row in rows)] == [], name


def test_a_table_shows_the_fields_of_its_records() -> None:
    table = TABLES["video-walks"].markdown([WARM])
    assert table.splitlines()[-1] == "| 3 steps from the frame before | 1.23 |  | 8.8e-02 |  |"
    assert table.splitlines()[1] == "|---|---|---|---|---|"


def test_a_row_may_show_several_records() -> None:
    megabytes = Column("MB", "bytes", ".1f", 1e6)
    columns = (Column("stuff", "miou stuff", ".1f"), Column("things", "miou things", ".1f"), megabytes)
    table = FigureTable("groups", "", ("setting", "minus"), columns, {"a": "A", "a - b": "A - B"}, {}, ("group",))
    records = [
        {"bench": "groups", "setting": "a", "group": "stuff", "miou": 1.0, "n": 3},
        {"bench": "groups", "setting": "a", "group": "things", "miou": 2.0},
        {"bench": "groups", "setting": "a", "minus": "b", "bytes": 2_500_000},
        {"bench": "groups", "setting": "c", "group": "things", "miou": 9.0},
        {"bench": "others", "setting": "a", "group": "things", "miou": 9.0},
    ]
    assert table.markdown(records).splitlines()[2:] == ["| A | 1.0 | 2.0 |  |", "| A - B |  |  | 2.5 |"]
    kept = shown_records({"groups": table}, records)
    assert kept == [{name: value for name, value in record.items() if name != "n"} for record in records[:3]]


def test_only_what_stands_between_the_markers_is_replaced() -> None:
    new = rendered(TABLES, TEXT, [WARM])
    assert new.startswith("before\n<!-- figures: video-walks -->\n\n|")
    assert new.endswith("|\n\n<!-- end of figures -->\nafter\n")
    assert "old" not in new
    assert rendered(TABLES, new, [WARM]) == new
    assert rendered(TABLES, TEXT.replace("\nold\n", ""), [WARM]) == new, "from a table that is still empty"


def test_a_table_without_records_and_an_unknown_table_are_refused() -> None:
    with pytest.raises(UsageError, match="no record of 'video_walks' to show"):
        rendered(TABLES, TEXT, [])
    with pytest.raises(UsageError, match="no table 'none', only accuracy"):
        rendered(TABLES, TEXT.replace("video-walks", "none"), [WARM])


def test_only_shown_fields_are_kept() -> None:
    assert shown_records(TABLES, [WARM, {"bench": "other"}]) == [{name: WARM[name] for name in WARM if name != "n"}]


def test_records_are_read_from_all_files_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text('{"bench": "b"}\n')
    (tmp_path / "a.jsonl").write_text('{"bench": "a"}\n{"bench": "a2"}\n')
    assert [record["bench"] for record in read_records(tmp_path)] == ["a", "a2", "b"]
    (tmp_path / "c.jsonl").write_text("3\n")
    with pytest.raises(UsageError, match=r"c\.jsonl, line 1 is '3', expected a JSON object"):
        read_records(tmp_path)
