"""Commands of `nerve-bench` that make something to read of the records of the others."""

import json
from pathlib import Path
from typing import Annotated

import typer

from nerve_runtime.errors import UsageError

app = typer.Typer()

TEXTS = (Path("README.md"), Path("docs/evidence.md"))

FromOption = Annotated[
    Path, typer.Option("--from", help="Folder of JSON lines, *.jsonl, as the commands print them with --json.")
]


@app.command()
def figures(
    folder: FromOption = Path("out/evidence"),
    kept: Annotated[Path, typer.Option(help="The records that the tables show.")] = Path("docs/figures.json"),
    texts: Annotated[
        list[Path] | None, typer.Option("--text", help="Text whose marked tables are rendered anew; may be repeated.")
    ] = None,
) -> None:
    """Put measured figures into README.md and docs/evidence.md: marked tables are rendered from the records of a folder.

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


@app.command()
def report(
    folder: FromOption = Path("out/evidence"),
    out: Annotated[Path, typer.Option(help="The HTML page to write.")] = Path("out/report.html"),
    pictures: Annotated[bool, typer.Option(help="Put scenes and masks at the top (seconds).")] = True,
    plots: Annotated[Path | None, typer.Option(help="Folder for the plots as PNG files too.")] = None,
) -> None:
    """Write one self-contained HTML page of all records of a folder: plots, tables, pictures and the commands."""
    from nerve_bench.report.figures import read_records
    from nerve_bench.report.page import drawn, page
    from nerve_bench.report.pictures import qualitative_pictures
    from nerve_bench.report.sections import SECTIONS
    from nerve_runtime.atomic import refuse_special, write_bytes_whole

    refuse_special(out, pipes=True)
    records = read_records(_existing(folder))
    text = page(SECTIONS, records, qualitative_pictures() if pictures else {})
    out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_whole(out, text.encode("utf-8", "replace"))
    typer.echo(str(out))
    if plots is not None:
        plots.mkdir(parents=True, exist_ok=True)
        for section in SECTIONS:
            if section.draw is not None and section.own(records):
                path = plots / f"{section.anchor}.png"
                write_bytes_whole(path, drawn(section.draw, section.own(records)))
                typer.echo(str(path))


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise UsageError(
            f"there is no folder {folder}; write records into it, such as: nerve-bench video --json > {folder}/video.jsonl"
        )
    return folder
