"""Commands of `nerve-bench` that make something to read of the records of the others."""

import json
from pathlib import Path
from typing import Annotated

import typer

from nerve_runtime.errors import UsageError

app = typer.Typer()

FromOption = Annotated[
    Path, typer.Option("--from", help="Folder of JSON lines, *.jsonl, as the commands print them with --json.")
]


@app.command()
def figures(
    folder: FromOption = Path("out/evidence"),
    kept: Annotated[Path, typer.Option(help="The records that the tables show.")] = Path("docs/figures.json"),
    readme: Annotated[Path, typer.Option(help="Text whose marked tables are rendered anew.")] = Path("README.md"),
) -> None:
    """Put measured figures into the README: every marked table is rendered from the records of a folder.

    Records that the folder does not have stay as they were.
    """
    from nerve_bench.figures import read_records, rendered, shown_records

    if not folder.is_dir():
        raise UsageError(
            f"there is no folder {folder}; write records into it, such as: nerve-bench video --json > {folder}/video.jsonl"
        )
    new = shown_records(read_records(folder))
    old = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else []
    benches = {record["bench"] for record in new}
    records = [record for record in old if record["bench"] not in benches] + new
    text = rendered(readme.read_text(encoding="utf-8"), records)
    lines = ",\n".join(json.dumps(record) for record in records)
    kept.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    readme.write_text(text, encoding="utf-8")
    typer.echo(f"{readme}: {', '.join(sorted(benches)) or 'nothing new'}")


@app.command()
def report(
    folder: FromOption = Path("out/evidence"),
    out: Annotated[Path, typer.Option(help="The HTML page to write.")] = Path("out/report.html"),
    pictures: Annotated[bool, typer.Option(help="Put scenes and masks at the top (seconds).")] = True,
) -> None:
    """Write one self-contained HTML page of all records of a folder: plots, tables, pictures and the commands."""
    from nerve_bench.figures import read_records
    from nerve_bench.report import page
    from nerve_bench.report_pictures import qualitative_pictures
    from nerve_bench.report_sections import SECTIONS
    from nerve_runtime.atomic import write_bytes_whole

    if not folder.is_dir():
        raise UsageError(
            f"there is no folder {folder}; write records into it, such as: nerve-bench video --json > {folder}/video.jsonl"
        )
    text = page(SECTIONS, read_records(folder), qualitative_pictures() if pictures else {})
    out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_whole(out, text.encode())
    typer.echo(str(out))
