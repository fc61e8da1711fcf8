"""Tables of the commands: every heading and every value can be read at 80 columns, narrower, and in a pipe."""

import ast
import inspect
import io
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console

from nerve_bench.cli import cost, data, experiments, main
from nerve_bench.cli.tables import UNLIMITED, print_tables, table_console

WORST: dict[str, Any] = {
    "runner": "reference_compile", "stage": "walk_carried", "variant": "global_entropy", "tensor": "head_affinity",
    "interval": [-11.123, 12.456], "setting": "softmax_pooled, plain entropy, 20 steps", "verdict": "no difference shown",
    "constants": {"alpha": 0.93, "beta": 0.2}, "walk": "3 steps from the frame before", "preset": "sd21-fast",
    "form": "pooled", "part": "head weights", "title": "PASCAL Context 60", "way": "tiles with joint keys",
    "against": "stretched", "on": "reference and bundle", "mode": "cold", "complete": True,
    "what": "share of pixels", "minus": "CLIP alone (G)",
}  # fmt: skip


def tables_of_commands() -> Iterator[tuple[str, ...]]:
    """Every tuple of column names in the modules of the commands."""
    for module in (main, cost, data, experiments):
        yield from _tuples(module)


def _tuples(module: ModuleType) -> Iterator[tuple[str, ...]]:
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Tuple):
            names = [item.value for item in node.elts if isinstance(item, ast.Constant) and isinstance(item.value, str)]
            if len(names) > 3 and {"miou", "n", "p50_ms", "gmac", "percent", "frames"} & set(names):
                yield tuple(names)


def printed(columns: tuple[str, ...], width: int, rows: int = 2) -> str:
    record = {"bench": "any", **{column: WORST.get(column, 123456.789) for column in columns}}
    stream = io.StringIO()
    print_tables([record] * rows, columns, Console(file=stream, width=width))
    return stream.getvalue()


def words_of(value: Any) -> list[str]:
    return re.findall(r"[\w.+-]+", str(value))


def test_the_columns_of_every_command_are_looked_at() -> None:
    assert len(list(tables_of_commands())) >= 10


@pytest.mark.parametrize("width", [80, 60, 40])
@pytest.mark.parametrize("columns", list(tables_of_commands()), ids=lambda columns: columns[0])
def test_every_heading_and_every_value_can_be_read(columns: tuple[str, ...], width: int) -> None:
    text = printed(columns, width)
    assert max(map(len, text.splitlines())) <= width
    words = set(re.findall(r"[\w.+-]+", text))
    assert {word for column in columns for word in column.split("_")} <= words
    assert {word for column in columns for word in words_of(WORST.get(column, 123456.789))} <= words
    assert "…" not in text


def test_in_a_pipe_a_record_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    records = [{"bench": "parts", "setting": "word " * 60, "miou": 1.5, "n": 3}]
    assert table_console().width == UNLIMITED
    print_tables(records, ("setting", "miou", "n"), table_console())
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.split()[-2:] == ["1.5", "3"]


def test_each_kind_of_record_has_the_columns_that_it_fills(capsys: pytest.CaptureFixture[str]) -> None:
    records = [{"bench": "video", "variant": "cold", "miou": 7.5}, {"bench": "walks", "walk": "exact", "mean_ms": 2}]
    print_tables(records, ("variant", "miou", "flicker", "walk", "mean_ms"), Console(width=80))
    first, second = capsys.readouterr().out.split("exact")[0].split("cold")
    assert ("miou" in first, "walk" in first, "flicker" in first) == (True, False, False)
    assert ("walk" in second, "variant" in second) == (True, False)
