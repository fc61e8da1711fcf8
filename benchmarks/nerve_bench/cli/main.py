"""`nerve-bench`, also `python benchmarks/run.py`: one command per question."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from nerve_bench.cli import capacity as cli_capacity
from nerve_bench.cli import cost as cli_cost
from nerve_bench.cli import data as cli_data
from nerve_bench.cli import experiments as cli_experiments
from nerve_bench.cli import report as cli_report
from nerve_bench.cli.shared import (
    ACCURACY,
    COST,
    MAKING,
    BundleOption,
    JsonOption,
    LimitOption,
    OffsetOption,
    PresetOption,
    clip_seed,
    emit,
    fetched,
    open_world,
    plotting,
    progress_bars,
    require_reference,
    scene_seeds,
)
from nerve_export.cli.build import run_command
from nerve_export.cli.extras import require
from nerve_export.cli.options import Version
from nerve_runtime.errors import UsageError

app = typer.Typer(
    add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False, no_args_is_help=True
)


@app.callback()
def bench(_version: Version = False) -> None:
    """Measure, train and draw: one command per question."""


LIVELY_CLIP = 39
"""Seed offset of the demo: a clip of several things that stay in view and are named rightly.

In 40 clips every thing that fills 5 % of a frame has its right name in 82 % of the frames, in this one in all.
"""

CLIPS_OF_VALIDATION = 500_000
"""Where validation clips start among the validation seeds; the scenes before are for still pictures."""
WALKED_FRAMES = 48


@app.command("train-tiny", rich_help_panel=MAKING)
def train_tiny_command(
    out: Annotated[
        Path | None, typer.Option(help="Folder for the models.", show_default="nerve_ref/models/tiny")
    ] = None,
    work: Annotated[Path, typer.Option(help="Folder for scenes and checkpoints, about 3 GB.")] = Path("build/tiny"),
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto: cuda where there is one.")] = "auto",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 lets PyTorch choose.")] = 0,
    shorten: Annotated[int, typer.Option(min=1, help="Divide all step counts by this, to try the command out.")] = 1,
    part: Annotated[
        str | None,
        typer.Option(help="clip or diffusion: that alone, beside the other; then run the command without --part."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train the tiny CLIP, VAE and UNet from scratch on the world (three hours on a core, two with --part on each of two).

    A run that was stopped goes on where it was: checkpoints are written every 100 steps.
    """
    require_reference("train-tiny")
    import torch

    import nerve_ref
    from nerve_bench.tiny.train import TrainPlan, train_part, train_tiny

    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device is {device!r}, expected auto, cpu or cuda")
    if threads:
        torch.set_num_threads(threads)
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    folder = out or Path(str(nerve_ref.__file__)).parent / "models" / "tiny"
    plan = TrainPlan(folder, work, chosen, shorten)
    if part is not None:
        if part not in ("clip", "diffusion"):
            raise UsageError(f"--part is {part!r}, expected clip or diffusion")
        train_part(plan, part)
        return
    card = train_tiny(plan)
    emit([{"bench": "train", **card}], as_json=as_json, columns=())
    if not as_json:
        typer.echo(f"models: {folder}")


@app.command(rich_help_panel=ACCURACY)
def accuracy(
    preset: PresetOption = "tiny",
    bundle: BundleOption = None,
    limit: LimitOption = 500,
    seed_offset: OffsetOption = 0,
    split: Annotated[str, typer.Option(help="Which scenes: test or validation.")] = "test",
    reference_only: Annotated[bool, typer.Option("--reference-only", help="Leave the bundle out.")] = False,
    as_json: JsonOption = False,
) -> None:
    """What each part of the method adds, in mIoU and pixel accuracy, for the reference and for a bundle.

    clip_only is G; local and global_* are the walk with one of its two affinities; nerve is both, read out by distance
    (bilinear) and by colour too (guided); oracle is G averaged over the true regions, what a perfect affinity could give.
    About four minutes for 500 scenes on 2 cores.
    """
    require_reference("accuracy", *(() if reference_only else ("onnxruntime",)))
    from nerve_bench.measure.accuracy import measure_accuracy

    scenes = scene_seeds(split, seed_offset, limit)
    chosen = None if reference_only else bundle or Path("bundles") / preset
    records = measure_accuracy(open_world(preset), scenes, chosen, progress_bars())
    columns = ("runner", "variant", "readout", "miou", "miou_minus_bilinear", "interval", "pixel_accuracy")
    emit(records, as_json=as_json, columns=(*columns, "scenes", "percent"))


@app.command(rich_help_panel=COST)
def true_size(
    bundle: Annotated[
        Path, typer.Argument(help="Folder of the bundle, of any preset, or hf://owner/name@revision.", callback=fetched)
    ],
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many runs of the frame are timed.")] = 3,
    threads: Annotated[int, typer.Option(min=0, help="Threads of either runner; 0 lets the libraries choose.")] = 0,
    clip: Annotated[Path | None, typer.Option(help="CLIP, as for building.")] = None,
    sd: Annotated[Path | None, typer.Option(help="Stable Diffusion, as for building.")] = None,
    vae: Annotated[Path | None, typer.Option(help="The autoencoder, as for building.")] = None,
    as_json: JsonOption = False,
) -> None:
    """One frame of a bundle of any size: time per stage beside the eager reference, then agreement at every tap.

    Random weights are made again from the bundle's seed. Takes minutes and up to 6 GB of memory at true size.
    """
    require_reference("true-size", "onnxruntime")
    from nerve_bench.measure.true_size import Effort, measure_true_size
    from nerve_ref.weights.files import WeightChoice

    console = Console(stderr=True)
    choice = WeightChoice(clip=clip, sd=sd, vae=vae)
    with console.status("starting") as status:
        records = measure_true_size(bundle, choice, Effort(limit, threads), status.update)
        columns = (
            "runner",
            "stage",
            "p50_ms",
            "least_ms",
            "ratio_to_eager",
            "n",
            "tensor",
            "cosine",
            "max_abs",
            "agreement",
        )
        emit(records, as_json=as_json, columns=columns)


@app.command(rich_help_panel=ACCURACY)
def agreement(
    preset: PresetOption = "tiny",
    bundle: BundleOption = None,
    limit: Annotated[int, typer.Option("--limit", min=2, help="How many frames of the clip.")] = 100,
    keyframe_every: Annotated[int, typer.Option(min=2, help="Keyframes of the warm run.")] = 8,
    seed_offset: OffsetOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Share of pixels on which reference and bundle agree along a moving scene, every frame cold, and warm."""
    require_reference("agreement", "onnxruntime")
    from nerve_bench.measure.agreement import measure_agreement

    world, folder = open_world(preset), bundle or Path("bundles") / preset
    records = measure_agreement(world, folder, clip_seed(seed_offset), limit, keyframe_every, progress_bars())
    emit(records, as_json=as_json, columns=("on", "mode", "percent", "worst_frame_percent", "pixel_accuracy", "frames"))


@app.command(rich_help_panel=ACCURACY)
def video(
    preset: PresetOption = "tiny",
    bundle: BundleOption = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many clips.")] = 10,
    frames: Annotated[int, typer.Option(min=2, help="Frames of each clip.")] = 120,
    variants: Annotated[str, typer.Option(help="Which ways, ',' between them.", show_default="all")] = "",
    threads: Annotated[int, typer.Option(min=0, help="Threads of ONNX Runtime; 0 lets it choose.")] = 0,
    split: Annotated[str, typer.Option(help="Which clips: test, or validation for choosing constants.")] = "test",
    plot: Annotated[Path | None, typer.Option(help="PNG to draw from the records.")] = None,
    seed_offset: OffsetOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Ways of going on between keyframes: cost and accuracy on moving scenes, every frame against its truth.

    cold computes each frame from nothing; temporal is what nerve-segment does on video. flicker: labels that change where
    nothing moves, per cent; consistency: labels that stay with a surface as it moves; ghosts: labels left behind where
    something was; things_named_percent: frames in which each thing that fills 5 % has its right name. The last lines
    compare truncated, warm and exact walk. About four minutes for 10 clips on 2 cores.
    """
    require_reference("video", "onnxruntime", *plotting(plot))
    from nerve_bench.measure.video import NAMES, measure_video
    from nerve_bench.measure.walk_limit import measure_walks
    from nerve_bench.world import SEEDS

    if preset != "tiny":
        raise UsageError(f"--preset is {preset!r}, expected tiny: the only preset with weights so far")
    if split not in ("test", "validation"):
        raise UsageError(f"--split is {split!r}, expected test or validation")
    chosen = [name.strip() for name in variants.split(",") if name.strip()] or list(NAMES)
    unknown = [name for name in chosen if name not in NAMES]
    if unknown:
        raise UsageError(f"--variants names {', '.join(unknown)}, expected of: {', '.join(NAMES)}")
    seeds = (SEEDS["clips"] if split == "test" else SEEDS["validation"][CLIPS_OF_VALIDATION:])[seed_offset:][:limit]
    folder = bundle or Path("bundles") / preset
    records = list(measure_video(folder, seeds, frames, chosen, threads, progress_bars()))
    records += measure_walks(folder, seeds[0], min(frames, WALKED_FRAMES), threads, progress_bars())
    if plot is not None:
        from nerve_bench.report.plots_video import draw_video

        draw_video(records, plot)
    columns = (
        "variant",
        "ms_per_frame",
        "ratio_to_cold",
        "miou",
        "miou_minus_bilinear",
        "flicker",
        "consistency",
        "ghosts",
        "recovery_frames",
    )
    walks = ("walk", "mean_ms", "error_l1", "labels_as_limit_percent")
    emit(records, as_json=as_json, columns=(*columns, "keyframe_percent", *walks))


@app.command(rich_help_panel=ACCURACY)
def tune(
    preset: PresetOption = "tiny",
    limit: LimitOption = 100,
    part: Annotated[str, typer.Option(help="Which sweep: layers, heads, local, walk, parts.")] = "walk",
    as_json: JsonOption = False,
) -> None:
    """Compare constants of the method on validation scenes, best first; test scenes are never looked at."""
    require_reference("tune")
    from nerve_bench.experiments.tune import SWEEPS, sweep

    if part not in SWEEPS:
        raise UsageError(f"--part is {part!r}, expected one of: {', '.join(SWEEPS)}")
    emit(
        sweep(open_world(preset), SWEEPS[part], limit, progress_bars()),
        as_json=as_json,
        columns=("miou", "setting", "scenes"),
    )


@app.command(rich_help_panel=MAKING)
def pictures(
    preset: PresetOption = "tiny",
    out: Annotated[Path, typer.Option(help="Folder for the PNG files.")] = Path("out/pictures"),
    limit: Annotated[
        int, typer.Option("--limit", min=1, help="Rows of the method picture: every 50th test scene.")
    ] = 4,
    seed_offset: OffsetOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Pictures to look at: scenes with their truth, each class, a clip, and the method from frame to labels."""
    require_reference("pictures")
    from nerve_bench.report.method_pictures import SHOWN_EVERY, write_method_picture
    from nerve_bench.world import SEEDS
    from nerve_bench.world.grids import write_grids

    seeds = SEEDS["test"][seed_offset::SHOWN_EVERY][:limit]
    write_method_picture(open_world(preset), list(seeds), out / "method.png")
    paths = [out / "method.png", *write_grids(out)]
    emit([{"bench": "pictures", "path": str(path)} for path in paths], as_json=as_json, columns=("path",))


@app.command(rich_help_panel=MAKING)
def animate(
    source: Annotated[Path, typer.Argument(help="A video.")],
    overlay: Annotated[Path, typer.Argument(help="Its overlay, as nerve-segment writes it.")],
    out: Annotated[Path, typer.Option(help="The animated WebP to write.")] = Path("out/demo/demo.webp"),
    side: Annotated[int, typer.Option(min=16, help="Height of the pictures in pixels.")] = 256,
    every: Annotated[int, typer.Option(min=1, help="Take the first of every so many frames.")] = 3,
    fps: Annotated[float, typer.Option(min=1, help="Frames a second.")] = 10.0,
    as_json: JsonOption = False,
) -> None:
    """A video beside its overlay as an animated WebP, for pages."""
    require("nerve-bench animate", "bench", "PIL")
    from nerve_bench.report.animation import write_animation

    count = write_animation(source, overlay, out, side_px=side, every=every, fps=fps)
    record = {"bench": "animate", "path": str(out), "frames": count, "bytes": out.stat().st_size}
    emit([record], as_json=as_json, columns=("path", "frames", "bytes"))


@app.command("write-voc", rich_help_panel=MAKING)
def write_voc_command(
    out: Annotated[Path, typer.Option(help="Folder to write; must be empty or absent.")] = Path("out/world-voc"),
    limit: LimitOption = 500,
    seed_offset: OffsetOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Write training and validation scenes in PASCAL VOC folder layout, for other programs to train or test on."""
    require("nerve-bench write-voc", "bench", "av")
    from nerve_bench.world import SEEDS
    from nerve_bench.world.voc import write_voc

    window = slice(seed_offset, seed_offset + limit)
    count = write_voc(out, {"train": SEEDS["train"][window], "val": SEEDS["validation"][window]})
    emit([{"bench": "write_voc", "path": str(out), "scenes": count}], as_json=as_json, columns=("path", "scenes"))


@app.command("demo-video", rich_help_panel=MAKING)
def demo_video(
    out: Annotated[Path, typer.Option(help="The mp4 file to write.")] = Path("out/demo/world.mp4"),
    frames: Annotated[int, typer.Option(min=1, help="Number of frames, at 25 a second.")] = 75,
    size: Annotated[int, typer.Option(min=64, help="Side of the square frames in pixels, even.")] = 512,
    seed_offset: OffsetOption = LIVELY_CLIP,
    as_json: JsonOption = False,
) -> None:
    """Write a video of a moving scene: things that move, overlap and are cut away from, under a panning camera."""
    from nerve_bench.world import moving_scene
    from nerve_bench.world.clips import write_video
    from nerve_runtime.atomic import move_into_place, refuse_special, temporary_beside

    if size % 2:
        raise UsageError(f"--size is {size}, expected an even number: the video format needs it")
    refuse_special(out)
    clip = moving_scene(clip_seed(seed_offset), frames, size_px=size)
    temporary = temporary_beside(out)
    try:
        count = write_video(progress_bars()(clip, "drawing the video", total=frames), str(temporary), 25)
        move_into_place(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)
    emit([{"bench": "demo_video", "path": str(out), "frames": count}], as_json=as_json, columns=("path", "frames"))


app.registered_commands += cli_cost.app.registered_commands
app.registered_commands += cli_capacity.app.registered_commands
app.registered_commands += cli_data.app.registered_commands
app.registered_commands += cli_experiments.app.registered_commands
app.registered_commands += cli_report.app.registered_commands


def main() -> None:
    """Entry point of `nerve-bench`."""
    run_command(app)


if __name__ == "__main__":
    main()
