"""Commands of `nerve-bench` that make something to read of the records of the others."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from nerve_bench.cli.shared import REPORTS, require_reference
from nerve_export.cli.extras import REFERENCE, is_installed, require
from nerve_runtime.errors import UsageError

app = typer.Typer()

TEXTS = tuple(Path("docs") / f"{name}.md" for name in ("figures", "video", "evidence", "capacity"))
"""The pages with marked tables."""
EVIDENCE = Path("out/evidence")
KEPT = Path("docs/figures.json")
KEPT_NOTE = f"Made of {KEPT}: records that hold what tables show, so there are no plots."

FromOption = Annotated[
    Path, typer.Option("--from", help="Folder of JSON lines, *.jsonl, as the commands print them with --json.")
]


@app.command(rich_help_panel=REPORTS)
def figures(
    folder: FromOption = EVIDENCE,
    kept: Annotated[Path, typer.Option(help="The records that the tables show.")] = KEPT,
    texts: Annotated[
        list[Path] | None, typer.Option("--text", help="Text whose marked tables are rendered anew; may be repeated.")
    ] = None,
) -> None:
    """Put measured figures into the pages of docs/: marked tables are rendered from the records of a folder.

    Records that the folder does not have stay as they were.
    """
    from nerve_bench.report.figures import read_records, rendered, shown_records
    from nerve_bench.report.tables import TABLES
    from nerve_runtime.atomic import refuse_special, write_bytes_whole

    for path in (kept, *(texts or TEXTS)):
        refuse_special(path)  # they are read first, and a device may have no end
    new = shown_records(TABLES, read_records(_existing(folder)))
    old = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else []
    benches = {record["bench"] for record in new}
    records = [record for record in old if record["bench"] not in benches] + new
    written = {path: rendered(TABLES, path.read_text(encoding="utf-8"), records) for path in texts or TEXTS}
    lines = ",\n".join(json.dumps(record) for record in records)
    write_bytes_whole(kept, f"[\n{lines}\n]\n".encode())
    for path, text in written.items():
        write_bytes_whole(path, text.encode())
        typer.echo(f"{path}: {', '.join(sorted(benches)) or 'nothing new'}")


@app.command(rich_help_panel=REPORTS)
def report(
    folder: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Folder of JSON lines, as for figures; docs/figures.json has those of the tables in the texts.",
            show_default="out/evidence if it is there, else docs/figures.json",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="The HTML page to write.")] = Path("out/report.html"),
    pictures: Annotated[
        bool | None,
        typer.Option(
            help="Put scenes and masks at the top (seconds; needs PyTorch).", show_default="where PyTorch is installed"
        ),
    ] = None,
    plots: Annotated[Path | None, typer.Option(help="Folder for the plots as PNG files too.")] = None,
) -> None:
    """Write one HTML page of all records: plots, tables, pictures.

    The page is self-contained and has the command of each question. With the records of docs/figures.json it has tables
    and no plots: plots take records with all their fields, as the commands print them.
    """
    from nerve_bench.report.page import page
    from nerve_bench.report.sections import SECTIONS
    from nerve_runtime.atomic import refuse_special, write_bytes_whole

    refuse_special(out, pipes=True)
    source = folder or (EVIDENCE if EVIDENCE.is_dir() else KEPT)
    kept = source == KEPT
    with_pictures = is_installed(*REFERENCE) if pictures is None else pictures
    require("nerve-bench report", "bench", "jinja2", *(() if kept else ("matplotlib",)))
    if with_pictures:
        require_reference("report --pictures")
    records = _kept_records(plots) if kept else _folder_records(source)
    note = KEPT_NOTE if kept else None
    text = page(SECTIONS, records, _pictures() if with_pictures else {}, without_plots=note)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_whole(out, text.encode("utf-8", "replace"))
    missing = [section.title for section in SECTIONS if not section.own(records)]
    if missing:
        typer.echo(f"not measured: {'; '.join(missing)}", err=True)
    typer.echo(str(out))
    if plots is not None:
        _write_plots(records, plots)


def _kept_records(plots: Path | None) -> list[dict[str, Any]]:
    """The records that the tables of a checkout show.

    Raises:
        UsageError: this is no checkout, or plots are asked for, which these records are too short for.
    """
    if not KEPT.is_file():
        raise UsageError(
            f"there is neither a folder {EVIDENCE} of records nor {KEPT} of a checkout; write records, such as: "
            f"mkdir -p {EVIDENCE} && nerve-bench video --json > {EVIDENCE}/video.jsonl"
        )
    if plots is not None:
        raise UsageError(
            f"--plots takes records with all fields, {KEPT} has those of tables; give a folder with --from"
        )
    records: list[dict[str, Any]] = json.loads(KEPT.read_text(encoding="utf-8"))
    return records


def _folder_records(folder: Path) -> list[dict[str, Any]]:
    from nerve_bench.report.figures import read_records

    return read_records(_existing(folder))


def _pictures() -> dict[str, bytes]:
    from nerve_bench.report.pictures import qualitative_pictures

    return qualitative_pictures()


def _write_plots(records: list[dict[str, Any]], folder: Path) -> None:
    from nerve_bench.report.page import drawn
    from nerve_bench.report.sections import SECTIONS
    from nerve_runtime.atomic import write_bytes_whole

    folder.mkdir(parents=True, exist_ok=True)
    for section in SECTIONS:
        if section.draw is not None and section.own(records):
            path = folder / f"{section.anchor}.png"
            write_bytes_whole(path, drawn(section.draw, section.own(records)))
            typer.echo(str(path))


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise UsageError(
            f"there is no folder {folder}; make it and write records into it, such as: "
            f"mkdir -p {folder} && nerve-bench video --json > {folder}/video.jsonl"
        )
    return folder
