"""`nerve-build engines`: engines for this machine from a bundle's graphs, with TensorRT and numpy alone."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, cast

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from nerve_export.bundle import bundle_lock
from nerve_export.cli.console import stderr_console
from nerve_export.engines.build import EngineFacts, EnginePlan, build_engines, plan_engines
from nerve_export.engines.compile import ProgressCallback, available_memory, resolve_targets
from nerve_runtime.atomic import write_bytes_whole
from nerve_runtime.bundle.hub import bundle_folder
from nerve_runtime.bundle.manifest import (
    MANIFEST_NAME,
    EngineRecord,
    FileRecord,
    Manifest,
    file_sha256,
    load_manifest,
    manifest_bytes,
)
from nerve_runtime.bundle.spec import StageName

GIGABYTE = 1e9


def engines(
    bundle: Annotated[
        Path,
        typer.Argument(help="Folder of the bundle, with manifest.json and its graphs, or hf://owner/name@revision."),
    ],
    target: Annotated[
        str,
        typer.Option(
            help="auto looks for a GPU and its library; tensorrt compiles for the GPU that is here; rtx:sm86,sm89 compiles "
            "with TensorRT-RTX for these GPUs, which need not be here."
        ),
    ] = "auto",
    stage: Annotated[
        list[str] | None, typer.Option(help="Only this stage; may be given several times.", show_default="all")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Compile even what is there already.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line per engine on stdout, nothing else.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be compiled, and the memory that it takes.")
    ] = False,
) -> None:
    """Compile engines from a bundle's graphs, on the machine that will run them; needs no torch.

    Compiles one engine at a time in a process of its own, for minutes and gigabytes where the networks are of true size.
    Engines of the same graph, version, settings and target are not compiled again.

    Exit codes: 0 built or up to date, 2 usage, 3 bad bundle, 4 missing library or unsupported GPU, 6 no memory or space.
    """
    bundle = bundle_folder(bundle)
    console = stderr_console()
    targets, why = resolve_targets(target)
    console.print(f"{bundle}: {why}")
    stages = cast("list[StageName] | None", stage)
    if dry_run:
        for plan in plan_engines(bundle, load_manifest(bundle), targets, stages):
            typer.echo(json.dumps(asdict(plan)) if as_json else _plan_line(plan))
        return
    load_manifest(bundle)  # refuses what is no bundle before a lock is made beside it
    if not targets:
        console.print("nothing to compile")
        return
    with bundle_lock(bundle.resolve()):
        plans = plan_engines(bundle, load_manifest(bundle), targets, stages)
        _print_memory(console, [plan for plan in plans if force or not plan.is_there])
        with _bar() as report_progress:
            for number, plan in enumerate(plans):
                fact = _one_engine(bundle, plan, report_progress, number / len(plans), 1 / len(plans), force=force)
                typer.echo(json.dumps(asdict(fact)) if as_json else _line(bundle, fact))


def _one_engine(
    bundle: Path, plan: EnginePlan, report_progress: ProgressCallback, done: float, share_of_all: float, *, force: bool
) -> EngineFacts:
    """Compile one engine and list it at once, so that it outlives a compiler killed at the next one."""

    def report_all(what: str, share: float) -> None:
        report_progress(what, done + share * share_of_all)

    manifest = load_manifest(bundle)
    records, (fact,) = build_engines(bundle, manifest, [plan.target], [plan.stage], report_all, force=force)
    _install(bundle, manifest, records)
    return fact


def _print_memory(console: Console, plans: list[EnginePlan]) -> None:
    """Print the memory that the largest engine takes, before it starts: on small boards the system kills compilers."""
    if not plans:
        return
    largest = max(plans, key=lambda plan: plan.memory_bytes)
    takes, available = largest.memory_bytes, available_memory()
    room = "" if available is None else f", {available / GIGABYTE:.1f} GB are available"
    console.print(
        f"{len(plans)} engines to compile; the largest, {largest.stage}, takes about {takes / GIGABYTE:.1f} GB of memory{room}",
    )
    if available is not None and takes > available:
        console.print(
            "warning: that is more than is available, and the system may kill the compiler: close other programs, add "
            "swap, or compile on a larger machine of the same kind",
            style="yellow",
        )


@contextmanager
def _bar() -> Iterator[ProgressCallback]:
    columns = (
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("starting", total=1.0)

        def report_progress(what: str, share: float) -> None:
            bar.update(task, description=what, completed=max(share, bar.tasks[0].completed))

        yield report_progress


def _install(bundle: Path, manifest: Manifest, records: list[EngineRecord]) -> None:
    """List the engines in the manifest, then remove the files of those that they replace."""
    replaced = {(record.stage, record.target) for record in records}
    kept = [record for record in manifest.engines if (record.stage, record.target) not in replaced]
    listed = (*kept, *records)
    if listed != manifest.engines:
        before = {record.path for record in manifest.engines}
        files = {path: record for path, record in manifest.files.items() if path not in before}
        for record in listed:
            known = manifest.files.get(record.path) if record in kept else None
            files[record.path] = known or _file_record(bundle / record.path)
        changed = manifest.model_copy(update={"engines": listed, "files": files})
        Manifest.model_validate(changed.model_dump())
        write_bytes_whole(bundle / MANIFEST_NAME, manifest_bytes(changed))
    paths = {record.path for record in listed}
    for path in (bundle / "engines").rglob("*"):
        if path.is_file() and path.relative_to(bundle).as_posix() not in paths:
            path.unlink()  # replaced, or left behind by a build that was killed


def _file_record(path: Path) -> FileRecord:
    return FileRecord(bytes=path.stat().st_size, sha256=file_sha256(path))


def _plan_line(plan: EnginePlan) -> str:
    state = "is there" if plan.is_there else f"takes about {plan.memory_bytes / GIGABYTE:.1f} GB of memory"
    return f"{plan.path}  {state}"


def _line(bundle: Path, fact: EngineFacts) -> str:
    how = "up to date" if fact.hit else f"{fact.seconds:.1f} s, peak {fact.peak_rss_mb:.0f} MB"
    return f"{bundle / fact.path}  {fact.bytes / 1e6:.2f} MB, {how}"
