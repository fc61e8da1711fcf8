"""Commands of `nerve-bench` about the field's benchmarks: evaluate, reproduce, tiles."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nerve_bench.cli.shared import (
    ACCURACY,
    FIELD,
    PROTOCOL,
    WEIGHTS,
    JsonOption,
    LimitOption,
    OffsetOption,
    PresetOption,
    emit,
    fetched,
    open_world,
    progress_bars,
    require_reference,
)
from nerve_runtime.errors import UsageError

if TYPE_CHECKING:
    from nerve_bench.datasets.protocol import Choices
    from nerve_bench.datasets.runners import Runner

app = typer.Typer()

DataOption = Annotated[Path | None, typer.Option("--data", help="Folder that holds the data sets.", show_default=False)]
SomeOption = Annotated[
    int | None, typer.Option("--limit", min=1, help="Only the first so many pictures.", show_default="all")
]
BundleChoice = Annotated[
    Path | None,
    typer.Option(
        "--bundle",
        help="Folder of a bundle to run, or hf://owner/name@revision.",
        show_default="the reference of --preset",
        callback=fetched,
    ),
]
ReferenceFlag = Annotated[
    bool, typer.Option("--reference", help="With --bundle: run the reference with the bundle's weights instead.")
]
BackendOption = Annotated[str, typer.Option(help="What runs the bundle's graphs, as in nerve-segment.")]
RuleOption = Annotated[
    str | None,
    typer.Option(
        "--background-rule",
        rich_help_panel=PROTOCOL,
        help="words, threshold or cam, where there is a background.",
        show_default="threshold",
    ),
]
ThresholdOption = Annotated[
    float | None,
    typer.Option(
        rich_help_panel=PROTOCOL, help="Least score that is no background, 0 to 1.", show_default="the preset's"
    ),
]
TemplatesOption = Annotated[
    str | None,
    typer.Option(rich_help_panel=PROTOCOL, help="Set of sentences around the words.", show_default="the preset's"),
]
ResizeOption = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=PROTOCOL,
        help="stretch or tiles.",
        show_default="tiles for Cityscapes by the reference, else stretch",
    ),
]
OverlapOption = Annotated[
    float,
    typer.Option(rich_help_panel=PROTOCOL, help="Least share of a tile that its neighbour sees too, 0 to below 1."),
]
ClassesFileOption = Annotated[
    Path | None,
    typer.Option(
        rich_help_panel=PROTOCOL,
        help="Other words: a line 'class = word, synonym' each; classes without one are left out.",
    ),
]
PrintClassesFlag = Annotated[
    bool, typer.Option("--print-classes", help="Print the classes as such a file has them, and stop.")
]
RestartFlag = Annotated[bool, typer.Option("--restart", help="Begin anew; what was counted before is thrown away.")]
ClipOption = Annotated[
    Path | None, typer.Option("--clip", rich_help_panel=WEIGHTS, help="CLIP for the reference, as for building.")
]
SdOption = Annotated[
    Path | None,
    typer.Option("--sd", rich_help_panel=WEIGHTS, help="Stable Diffusion for the reference, as for building."),
]
VaeOption = Annotated[
    Path | None, typer.Option("--vae", rich_help_panel=WEIGHTS, help="The autoencoder, as for building.")
]
Dinov2Option = Annotated[
    Path | None, typer.Option("--dinov2", rich_help_panel=WEIGHTS, help="DINOv2 for the reference, as for building.")
]
OfflineFlag = Annotated[bool, typer.Option("--offline", rich_help_panel=WEIGHTS, help="Never download weights.")]


@app.command(rich_help_panel=FIELD)
def evaluate(
    dataset: Annotated[
        str,
        typer.Option(help="voc21, context60, coco-object, voc20, context59, coco-stuff, cityscapes or ade20k."),
    ],
    data: DataOption = None,
    bundle: BundleChoice = None,
    reference: ReferenceFlag = False,
    preset: PresetOption = "tiny",
    backend: BackendOption = "auto",
    limit: SomeOption = None,
    classes_file: ClassesFileOption = None,
    print_classes: PrintClassesFlag = False,
    background_rule: RuleOption = None,
    threshold: ThresholdOption = None,
    templates: TemplatesOption = None,
    resize: ResizeOption = None,
    overlap: OverlapOption = 0.25,
    out: Annotated[
        Path | None, typer.Option(help="File of the report.", show_default="out/evaluate/DATASET.json")
    ] = None,
    restart: RestartFlag = False,
    clip: ClipOption = None,
    sd: SdOption = None,
    vae: VaeOption = None,
    dinov2: Dinov2Option = None,
    offline: OfflineFlag = False,
    as_json: JsonOption = False,
) -> None:
    """Mean IoU on one benchmark of the field, with the protocol it was made by.

    The state is kept beside the report after each picture: a run that was stopped goes on where it was. The reference
    runs on the CPU: about 10 s a picture for sd21-fast on 2 cores, twice that for sd21, 0.2 s for tiny.
    """
    from nerve_bench.datasets import class_lines, open_dataset
    from nerve_runtime.atomic import refuse_special, write_bytes_whole

    if print_classes:
        _check_dataset(dataset)
        typer.echo("\n".join(class_lines(dataset)))
        return
    folder = _required(data)
    require_reference("evaluate", "PIL")
    from nerve_bench.datasets.evaluate import Run, evaluate_benchmark

    report = out or Path("out/evaluate") / f"{dataset}.json"
    refuse_special(report, pipes=True)
    open_dataset(dataset, folder)  # what is missing is said before any weight is read
    choices = _choices(classes_file, background_rule, threshold, resize, overlap)
    runner = _runner(bundle, reference, preset, backend, templates, _weights(clip, sd, vae, dinov2, offline))
    run = Run(report.with_suffix(".state.jsonl"), limit, restart)
    record = evaluate_benchmark(dataset, folder, runner, choices, run, progress_bars())
    write_bytes_whole(report, json.dumps(record, indent=2).encode() + b"\n")
    emit([record], as_json=as_json, columns=("title", "miou", "interval", "pixel_accuracy", "n", "of", "complete"))
    if not as_json:
        typer.echo(f"report: {report}")


@app.command(rich_help_panel=FIELD)
def reproduce(
    data: DataOption = None,
    bundle: BundleChoice = None,
    reference: ReferenceFlag = False,
    preset: PresetOption = "tiny",
    backend: BackendOption = "auto",
    limit: SomeOption = None,
    classes_folder: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=PROTOCOL, help="Folder of class files, such as voc21.txt; see evaluate --classes-file."
        ),
    ] = None,
    background_rule: RuleOption = None,
    threshold: ThresholdOption = None,
    templates: TemplatesOption = None,
    resize: ResizeOption = None,
    overlap: OverlapOption = 0.25,
    out: Annotated[Path, typer.Option(help="Folder of the report and the states.")] = Path("out/reproduce"),
    restart: RestartFlag = False,
    clip: ClipOption = None,
    sd: SdOption = None,
    vae: VaeOption = None,
    dinov2: Dinov2Option = None,
    offline: OfflineFlag = False,
    as_json: JsonOption = False,
) -> None:
    """All eight benchmarks of the field, our row beside the published ones; says what to download for those not here.

    Published figures are their authors', each under a protocol of its own. Goes on where it was stopped. 24,553
    pictures in all: days by the reference at true size, so use a bundle on a GPU, or --limit.
    """
    folder = _required(data)
    require_reference("reproduce", "PIL")
    from nerve_bench.datasets.reproduce import Reproduction, comparison_table
    from nerve_bench.datasets.reproduce import reproduce as run_all
    from nerve_runtime.atomic import refuse_special, write_bytes_whole

    refuse_special(out / "report.jsonl", pipes=True)
    choices = _choices(None, background_rule, threshold, resize, overlap)
    runner = _runner(bundle, reference, preset, backend, templates, _weights(clip, sd, vae, dinov2, offline))
    plan = Reproduction(folder, out, choices, classes_folder, limit, restart)
    records = []
    for record in run_all(plan, runner, progress_bars()):
        records.append(record)
        if as_json:
            typer.echo(json.dumps(record))
        elif "missing" in record:
            typer.echo(f"{record['dataset']} is left out. {record['missing']}", err=True)
    lines = "".join(f"{json.dumps(record)}\n" for record in records)
    write_bytes_whole(out / "report.jsonl", lines.encode())
    if not as_json:
        typer.echo(comparison_table(records))
        typer.echo(f"* only a part of the pictures or classes. Report, with protocols: {out / 'report.jsonl'}")


@app.command(rich_help_panel=ACCURACY)
def tiles(
    preset: PresetOption = "tiny",
    limit: LimitOption = 100,
    width: Annotated[int, typer.Option(min=128, help="Width of the scenes in pixels; their height is 128.")] = 384,
    overlap: OverlapOption = 0.25,
    split: Annotated[str, typer.Option(help="Which scenes: test or validation.")] = "test",
    seed_offset: OffsetOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Wide scenes: stretched to one frame, in tiles that know nothing of each other, in tiles with one joint key set.

    Differences are of the same scenes, with a bootstrap interval. About a second a scene on one core.
    """
    require_reference("tiles")
    from nerve_bench.cli.shared import scene_seeds
    from nerve_bench.datasets.tile_comparison import measure_tiles

    seeds = scene_seeds(split, seed_offset, limit)
    records = measure_tiles(open_world(preset), seeds, width, overlap, progress_bars())
    emit(records, as_json=as_json, columns=("way", "miou", "interval", "pixel_accuracy", "against", "gain", "n"))


def _required(data: Path | None) -> Path:
    if data is None:
        raise UsageError("--data is missing; give the folder that holds VOCdevkit, cityscapes and so on")
    return data


def _check_dataset(name: str) -> None:
    from nerve_bench.datasets import BENCHMARKS

    if name not in BENCHMARKS:
        raise UsageError(f"--dataset is {name!r}, expected one of: {', '.join(BENCHMARKS)}")


def _choices(
    classes_file: Path | None, background_rule: Any, threshold: float | None, resize: Any, overlap: float
) -> "Choices":
    """Words that no protocol knows are refused where the protocol is made."""
    from nerve_bench.datasets.protocol import Choices

    return Choices(classes_file, background_rule, threshold, resize, overlap)


def _weights(clip: Path | None, sd: Path | None, vae: Path | None, dinov2: Path | None, offline: bool) -> Any:
    from nerve_ref.weights.files import WeightChoice

    return WeightChoice(clip=clip, sd=sd, vae=vae, dinov2=dinov2, offline=offline)


def _runner(
    bundle: Path | None, reference: bool, preset: str, backend: str, templates: str | None, weights: Any
) -> "Runner":
    from nerve_bench.datasets.runners import BundleRunner, reference_of_bundle, reference_of_preset, with_templates

    if bundle is None:
        return with_templates(reference_of_preset(preset, weights), templates)
    if reference:
        return with_templates(reference_of_bundle(bundle, weights), templates)
    return BundleRunner(bundle, backend, templates)
