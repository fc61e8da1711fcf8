"""What a run did, as a table for people and as a record for programs."""

from typing import Any

import numpy as np
from rich.table import Table

from nerve_runtime.stream import StreamReport

PERCENTILES = (50, 90, 99)
STAGE_ORDER = ("resize", "scores", "attention", "mix", "walk", "walk_warm", "readout", "total")


def percentiles_ms(report: StreamReport) -> dict[str, dict[str, float]]:
    """For each stage the 50th, 90th and 99th percentile of its milliseconds, and how often it ran."""
    table = {}
    for stage in sorted(report.stage_ms, key=STAGE_ORDER.index):
        spent_ms = report.stage_ms[stage]
        values = np.percentile(np.asarray(spent_ms), PERCENTILES)
        row = {f"p{rank}_ms": round(float(value), 3) for rank, value in zip(PERCENTILES, values, strict=True)}
        table[stage] = {**row, "runs": len(spent_ms)}
    return table


def summary_record(source: str, backend: str, report: StreamReport) -> dict[str, Any]:
    """The run as plain numbers and words, for JSON."""
    return {
        "summary": source,
        "backend": backend,
        "frames": report.frames,
        "invalid": report.invalid,
        "keyframes": report.keyframes,
        "seconds": round(report.seconds, 3),
        "fps": round(report.fps, 2),
        "stopped": report.stopped,
        "stages": percentiles_ms(report),
    }


def summary_table(source: str, report: StreamReport) -> Table:
    """The run as a table of milliseconds."""
    title = f"{source}: {report.frames} frames, {report.keyframes} keyframes, {report.fps:.1f} fps"
    table = Table(title=title, title_justify="left")
    for heading in ("stage", *(f"p{rank} ms" for rank in PERCENTILES), "runs"):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    for stage, row in percentiles_ms(report).items():
        numbers = [f"{row[f'p{rank}_ms']:.2f}" for rank in PERCENTILES]
        table.add_row(stage, *numbers, str(int(row["runs"])))
    return table
