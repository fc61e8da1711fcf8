import json
from pathlib import Path
from typing import Any

import pytest

from nerve_bench.figures import MARKED, TABLES, read_records, rendered, shown_records
from nerve_runtime.errors import UsageError
from tests.contracts.checkout import ROOT

WARM: dict[str, Any] = {"bench": "video_walks", "walk": "walk_warm", "ms_per_frame": 1.234, "error_l1": 0.0882, "n": 9}
TEXT = "before\n<!-- figures: video-walks -->\n\nold\n\n<!-- end of figures -->\nafter\n"


def test_the_tables_of_the_readme_are_those_of_its_figures() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    records = json.loads((ROOT / "docs" / "figures.json").read_text(encoding="utf-8"))
    assert {match[2] for match in MARKED.finditer(readme)} == set(TABLES)
    assert rendered(readme, records) == readme, "write them again: nerve-bench figures --from FOLDER --readme README.md"


def test_a_table_shows_the_fields_of_its_records() -> None:
    table = TABLES["video-walks"].markdown([WARM])
    assert table.splitlines()[-1] == "| 3 steps from the frame before | 1.23 |  | 8.8e-02 |  |"
    assert table.splitlines()[1] == "|---|---|---|---|---|"


def test_only_what_stands_between_the_markers_is_replaced() -> None:
    new = rendered(TEXT, [WARM])
    assert new.startswith("before\n<!-- figures: video-walks -->\n\n|")
    assert new.endswith("|\n\n<!-- end of figures -->\nafter\n")
    assert "old" not in new
    assert rendered(new, [WARM]) == new


def test_a_table_without_records_and_an_unknown_table_are_refused() -> None:
    with pytest.raises(UsageError, match="no record of 'video_walks' to show"):
        rendered(TEXT, [])
    with pytest.raises(UsageError, match="no table 'none', only video"):
        rendered(TEXT.replace("video-walks", "none"), [WARM])


def test_only_shown_fields_are_kept() -> None:
    assert shown_records([WARM, {"bench": "other"}]) == [{name: WARM[name] for name in WARM if name != "n"}]


def test_records_are_read_from_all_files_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text('{"bench": "b"}\n')
    (tmp_path / "a.jsonl").write_text('{"bench": "a"}\n{"bench": "a2"}\n')
    assert [record["bench"] for record in read_records(tmp_path)] == ["a", "a2", "b"]
    (tmp_path / "c.jsonl").write_text("3\n")
    with pytest.raises(UsageError, match=r"c\.jsonl, line 1 is '3', expected a JSON object"):
        read_records(tmp_path)
