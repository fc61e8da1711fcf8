"""What a run did: a line and a table for people, a record for programs."""

from typing import Any

from rich.table import Table

from nerve_runtime import Readout
from nerve_stream.pipeline import StreamReport

PERCENTILES = (50, 90, 99)
STAGE_ORDER = (
    "resize",
    "motion",
    "attention",
    "local",
    "scores",
    "carry",
    "local_carried",
    "mix",
    "solve",
    "walk",
    "walk_carried",
    "walk_warm",
    "walk_exact",
    "readout",
    "readout_guided",
    "total",
)


def percentiles_ms(report: StreamReport) -> dict[str, dict[str, float]]:
    """For each stage the 50th, 90th and 99th percentile of its milliseconds, and how often it ran.

    The percentiles are those of the latest 4096 runs. Stages come in the order in which they run, others before the total.
    """
    table = {}
    for stage in sorted(report.stages, key=_place):
        of_stage = report.stages[stage]
        table[stage] = {
            **{f"p{rank}_ms": getattr(of_stage, f"p{rank}_ms") for rank in PERCENTILES},
            "runs": of_stage.runs,
        }
    return table


def _place(stage: str) -> tuple[int, str]:
    """Sort key: the known stages in order, unknown ones by name before the total."""
    known = stage in STAGE_ORDER and stage != "total"
    return (STAGE_ORDER.index(stage) if known else len(STAGE_ORDER) + (stage == "total"), stage)


def summary_record(
    source: str, backend: str, readout: Readout, report: StreamReport, skipped: int = 0
) -> dict[str, Any]:
    """The run as plain numbers and words, for JSON."""
    return {
        "summary": source,
        "backend": backend,
        "readout": readout,
        "frames": report.frames,
        "invalid": report.invalid,
        "keyframes": report.keyframes,
        "seconds": round(report.seconds, 3),
        "fps": round(report.fps, 2),
        "stopped": report.stopped,
        "error": None if report.error is None else str(report.error),
        "frames_in": report.counts.frames_in,
        "skipped": skipped,
        "dropped": report.counts.dropped_by_reason,
        "age_p50_ms": report.age.p50_ms,
        "age_p99_ms": report.age.p99_ms,
        "stages": percentiles_ms(report),
    }


def summary_line(source: str, readout: Readout, report: StreamReport, skipped: int = 0) -> str:
    """The run in a line for people.

    Args:
        source: its name.
        readout: how labels were read out; the plain one is not mentioned.
        report: of its run.
        skipped: pictures that were damaged and left out.
    """
    parts = [f"{source}: {_counted(report.frames, 'frame')} in {report.seconds:.1f} s ({report.fps:.1f} frames/s)"]
    if report.keyframes < report.frames:
        parts.append(_counted(report.keyframes, "keyframe"))
    if report.counts.dropped:
        reasons = [f"{count} {reason}" for reason, count in report.counts.dropped_by_reason.items() if count]
        parts.append(f"{report.counts.dropped} dropped ({', '.join(reasons)})")
    if skipped:
        parts.append(f"{skipped} damaged and skipped")
    if readout != "bilinear":
        parts.append(f"{readout} read-out")
    return ", ".join(parts)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def timings_table(report: StreamReport) -> Table:
    """The stages of a run as a table of milliseconds."""
    table = Table(title="milliseconds a frame", title_justify="left")
    for heading in ("stage", *(f"p{rank} ms" for rank in PERCENTILES), "runs"):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    for stage, row in percentiles_ms(report).items():
        numbers = [f"{row[f'p{rank}_ms']:.2f}" for rank in PERCENTILES]
        table.add_row(stage, *numbers, str(int(row["runs"])))
    return table
