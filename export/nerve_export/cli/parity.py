"""`nerve-build parity BUNDLE`: the reference rebuilt, a bundle compared with it tap by tap, a report for people."""

import json
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from nerve_export.bundle import bundle_lock
from nerve_export.cli import options
from nerve_export.cli.extras import REFERENCE, require
from nerve_export.isolation import run_isolated
from nerve_export.parity.album import Comparison, illustrated_comparison
from nerve_export.parity.measures import CHAIN, ParityReport, Tap
from nerve_export.parity.reference import reference_of_bundle
from nerve_export.parity.report import tensor_name, verdict, write_html, write_markdown
from nerve_export.parity.runners import (
    ENGINE_LIBRARIES,
    POLYGRAPHY_BACKENDS,
    POLYGRAPHY_PREFIX,
    engine_stages,
    import_polygraphy,
    open_engines,
)
from nerve_ref.weights.files import WeightChoice
from nerve_runtime.atomic import refuse_existing, write_bytes_whole
from nerve_runtime.bundle.hub import bundle_folder
from nerve_runtime.bundle.manifest import MANIFEST_NAME, Manifest, load_manifest, manifest_bytes
from nerve_runtime.errors import NumericError, UsageError

COLUMNS = ("verdict", "stage", "tensor", "cosine", "max abs", "p99 abs", "agreement")
Runs = Annotated[
    str,
    typer.Option(
        help="What runs the bundle: ort its graphs with ONNX Runtime on the processor, rtx or tensorrt its engines on "
        "the GPU here; each through polygraphy."
    ),
]
Against = Annotated[
    list[Path] | None,
    typer.Option(
        help="Another bundle of the same method, such as the fp16 one, compared in the same report; repeatable.",
        show_default=False,
    ),
]
Html = Annotated[
    Path | None, typer.Option(help="Write the report as one HTML file, pictures inside.", show_default=False)
]
Markdown = Annotated[
    Path | None,
    typer.Option(help="Write the report as Markdown, its pictures in a folder beside it.", show_default=False),
]
Frames = Annotated[
    int | None,
    typer.Option(
        help="Frames to compare; at true size the reference takes half a minute or more for each.",
        show_default="4 of preset tiny, 1 of the others",
    ),
]


def parity(
    bundle: Annotated[
        Path, typer.Argument(help="Folder of an installed bundle, or hf://owner/name@revision.", show_default=False)
    ],
    backend: Runs = "ort",
    against: Against = None,
    html: Html = None,
    markdown: Markdown = None,
    frames: Frames = None,
    clip: options.Clip = None,
    sd: options.StableDiffusion = None,
    vae: options.Vae = None,
    dinov2: options.Dinov2 = None,
    tokenizer: options.TokenizerFile = None,
    offline: options.Offline = False,
    lock_file: options.LockFile = None,
    force: Annotated[bool, typer.Option("--force", help="Replace reports that exist.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line per comparison on stdout.")] = False,
) -> None:
    """Compare a bundle with the PyTorch reference, tensor by tensor, in the order of the method.

    The reference is rebuilt from what the manifest says: preset, constants, and weights, the packaged ones, the seed of
    random ones, or those that are named here. The first tensor that breaks is named: what comes before it is sound.
    Engines that agree are marked as checked in the bundle's manifest; the runtime refuses those that are not.

    Exit codes: 0 all agree, 2 usage, 3 bad bundle, 4 missing library or GPU, 6 no space or memory, 7 something breaks.
    """
    bundles = [bundle_folder(named) for named in (bundle, *(against or []))]
    for path in filter(None, (html, markdown)):
        refuse_existing(path, force=force, pipes=True)
    _check_request(bundles, backend, frames)
    weights = WeightChoice(clip, sd, vae, tokenizer, offline, dinov2=dinov2, lock=lock_file)
    comparisons = _compare(bundles, backend, weights, frames)
    for folder, comparison in zip(bundles, comparisons, strict=True):
        _print_comparison(comparison, as_json=as_json)
        if comparison.engines:
            record_engine_parity(folder, comparison)
    _write_reports(comparisons, html, markdown)
    broken = [comparison for comparison in comparisons if not comparison.report.passed]
    if broken:
        raise NumericError("; ".join(f"{comparison.bundle}: {verdict(comparison)}" for comparison in broken))


def _write_reports(comparisons: Sequence[Comparison], html: Path | None, markdown: Path | None) -> None:
    if html is not None:
        write_html(html, comparisons)
    if markdown is not None:
        write_markdown(markdown, comparisons)


def _check_request(bundles: Sequence[Path], backend: str, frames: int | None) -> None:
    """Refuse what cannot work before the slow part begins."""
    if backend not in POLYGRAPHY_BACKENDS:
        raise UsageError(f"--backend is {backend!r}, expected one of {', '.join(POLYGRAPHY_BACKENDS)}")
    if frames is not None and frames < 1:
        raise UsageError(f"--frames is {frames}, expected 1 or more")
    require("nerve-build parity", "export", *REFERENCE, "polygraphy", *(["onnxruntime"] if backend == "ort" else []))
    import_polygraphy(tensorrt_rtx=backend == "rtx")
    first, *others = [load_manifest(folder) for folder in bundles]
    if backend in ENGINE_LIBRARIES:
        for folder, manifest in zip(bundles, (first, *others), strict=True):
            _require_engines(folder, manifest, backend)
    for folder, other in zip(bundles[1:], others, strict=True):
        differing = _differing(first, other)
        if differing:
            raise UsageError(
                f"--against {folder} is of another method: {', '.join(differing)} differ from {bundles[0]}; the two may "
                "differ in precision, opset and engines only"
            )


def _require_engines(bundle: Path, manifest: Manifest, backend: str) -> None:
    stages = engine_stages(manifest, backend)
    with closing(open_engines(bundle, manifest, backend)) as engines:
        for stage in stages:
            engines.approved_engine(stage)


def _differing(first: Manifest, second: Manifest) -> list[str]:
    same = ("preset", "random_seed", "method", "geometry", "weights")
    return [name for name in same if getattr(first, name) != getattr(second, name)]


def _compare(bundles: Sequence[Path], backend: str, weights: WeightChoice, frames: int | None) -> list[Comparison]:
    """The reference in one process, each bundle in another: at true size two of them do not fit into memory."""
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="nerve-parity-") as taps:
        with console.status("running the reference"):
            run_isolated("running the reference", reference_of_bundle, bundles[0], weights, frames, Path(taps))
        comparisons = []
        for folder in bundles:
            with console.status(f"comparing {folder}"):
                what = f"comparing {folder} with the reference"
                runner = POLYGRAPHY_PREFIX + backend
                comparisons.append(run_isolated(what, illustrated_comparison, folder, Path(taps), runner))
    return comparisons


def _print_comparison(comparison: Comparison, *, as_json: bool) -> None:
    report = comparison.report
    if as_json:
        for tap in report.in_method_order():
            typer.echo(json.dumps({"bundle": comparison.bundle, **tap.as_json()}))
        first = report.first_broken()
        broken = None if first is None else f"{first.stage}.{first.tensor}"
        closing = {
            "bundle": comparison.bundle,
            "backend": report.backend,
            "passed": report.passed,
            "first_broken": broken,
        }
        typer.echo(json.dumps(closing))
        return
    typer.echo(f"{comparison.bundle}, {comparison.facts['precision']}, {report.backend}")
    for line in table_lines(comparison):
        typer.echo(line)
    if report.passed:  # what broke is the error at the end
        typer.echo(verdict(comparison))
    typer.echo()


def table_lines(comparison: Comparison) -> list[str]:
    """The taps as lines of equal width, one per tensor of a stage: its worst frame."""
    cells = [COLUMNS, *(_terminal_cells(tap, comparison) for tap in worst_frames(comparison.report))]
    widths = [max(len(line[column]) for line in cells) for column in range(len(COLUMNS))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]


def worst_frames(report: ParityReport) -> list[Tap]:
    """One tap of each tensor of each stage: the first frame that breaks, or else that of the largest difference."""
    groups: dict[tuple[str, str], Tap] = {}
    for tap in report.in_method_order():
        kept = groups.setdefault((tap.stage, tap.tensor), tap)
        if (not tap.passed, tap.max_abs) > (not kept.passed, kept.max_abs):
            groups[tap.stage, tap.tensor] = tap
    return list(groups.values())


def _terminal_cells(tap: Tap, comparison: Comparison) -> tuple[str, ...]:
    state = "ok" if tap.passed else "FIRST BROKEN" if tap is comparison.report.first_broken() else "broken"
    return (
        state,
        tap.stage,
        tensor_name(tap, comparison.layers),
        "" if tap.cosine is None else f"{tap.cosine:.7f}",
        f"{tap.max_abs:.2e}",
        f"{tap.p99_abs:.2e}",
        "" if tap.agreement is None else f"{tap.agreement:.3%}",
    )


def record_engine_parity(bundle: Path, comparison: Comparison) -> None:
    """Mark the engines that ran as passed or failed in the bundle's manifest.

    An engine passes with all taps of its stage. Where every stage passes alone and all of them in a row do not, none does.

    Raises:
        BundleError: the bundle is gone.
        ResourceError: it cannot be written, or a builder holds it for too long.
    """
    verdicts = {path: _engine_verdict(comparison.report, stage) for stage, path in comparison.engines.items()}
    with bundle_lock(bundle.resolve()):
        manifest = load_manifest(bundle)
        engines = tuple(
            record.model_copy(update={"parity": verdicts.get(record.path, record.parity)})
            for record in manifest.engines
        )
        judged = manifest.model_copy(update={"engines": engines})
        write_bytes_whole(bundle / MANIFEST_NAME, manifest_bytes(judged))


def _engine_verdict(report: ParityReport, stage: str) -> str:
    alone_all = all(tap.passed for tap in report.taps if tap.stage != CHAIN)
    blame_all = alone_all and not report.passed
    passes = [tap.passed for tap in report.taps if tap.stage == stage]
    return "passed" if passes and all(passes) and not blame_all else "failed"
