"""Commands of `nerve-bench` about cost and speed: latency, walk, cost, memory, certify."""

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from nerve_bench.cli.shared import (
    COST,
    REPORTS,
    WEIGHTS,
    BundleOption,
    JsonOption,
    OffsetOption,
    PresetOption,
    all_fetched,
    clip_seed,
    emit,
    fetched,
    open_world,
    plotting,
    progress_bars,
    require_reference,
)
from nerve_export.cli.extras import REFERENCE, is_installed, require
from nerve_runtime.errors import NumericError, UsageError

app = typer.Typer()

ThreadsOption = Annotated[int, typer.Option(min=0, help="Threads of every library; 0 lets each choose.")]
PlotOption = Annotated[Path | None, typer.Option(help="PNG to draw from the records.", show_default=False)]
FrameSizeOption = Annotated[
    tuple[int, int] | None,
    typer.Option(
        metavar="HEIGHT WIDTH", min=16, help="Size of the frames, such as 720 1280.", show_default="the preset's"
    ),
]
BundleArgument = Annotated[
    Path,
    typer.Argument(
        help="Folder of the bundle, of any preset, or hf://owner/name@revision.", show_default=False, callback=fetched
    ),
]
ClipOption = Annotated[Path | None, typer.Option("--clip", rich_help_panel=WEIGHTS, help="CLIP, as for building.")]
SdOption = Annotated[
    Path | None, typer.Option("--sd", rich_help_panel=WEIGHTS, help="Stable Diffusion, as for building.")
]
VaeOption = Annotated[
    Path | None, typer.Option("--vae", rich_help_panel=WEIGHTS, help="The autoencoder, as for building.")
]
Dinov2Option = Annotated[
    Path | None, typer.Option("--dinov2", rich_help_panel=WEIGHTS, help="DINOv2, as for building.")
]


@app.command(rich_help_panel=COST)
def latency(
    preset: PresetOption = "tiny",
    bundle: BundleOption = None,
    limit: Annotated[int, typer.Option("--limit", min=8, help="How many frames are timed.")] = 96,
    warm_up: Annotated[int, typer.Option(min=1, help="How many frames run before timing, compiling included.")] = 16,
    keyframe_every: Annotated[
        int, typer.Option(min=2, help="Also time video with a keyframe every so many frames.")
    ] = 8,
    runners: Annotated[
        str,
        typer.Option(
            help="Which, ',' between them: reference_compile, bundle_ort, bundle_openvino, bundle_fake_cuda. One that is "
            "named and not installed is an error. The eager reference always runs.",
            show_default="all that are installed",
        ),
    ] = "",
    threads: Annotated[int, typer.Option(min=0, help="Threads of ONNX Runtime and OpenVINO; 0 lets them choose.")] = 0,
    spinning: Annotated[
        bool, typer.Option(help="Whether ONNX Runtime's idle threads spin, as PyTorch's do; off in nerve-segment.")
    ] = True,
    frame_size: FrameSizeOption = None,
    plot: PlotOption = None,
    seed_offset: OffsetOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Time per stage and per frame: reference eager and under torch.compile, bundle through ONNX Runtime and OpenVINO.

    All runners take the same frames of a moving scene in turn, in one run; ratios are to the eager reference. With both
    libraries a last line says on how many pixels their labels agree. About seven minutes on 2 cores.

    Lines of whole frames say what crosses between host and device: bytes up, bytes down, and how often the host waits.
    bundle_fake_cuda runs the GPU's data path on an imitation of CUDA that counts and checks it; its times mean nothing.
    """
    require_reference("latency", "onnxruntime", *plotting(plot))
    from nerve_bench.measure.latency import TRANSFERS, LatencyPlan, available_runners, measure_latency
    from nerve_bench.world import moving_scene
    from nerve_runtime.frames import resize_frame

    world = open_world(preset)
    clip = moving_scene(clip_seed(seed_offset), warm_up + limit, size_px=world.params.size_hw[0], cuts=0)
    frames = [resize_frame(frame.rgb, frame_size or world.params.size_hw) for frame in clip]
    chosen = tuple(_words(runners)) or available_runners()
    plan = LatencyPlan(limit, warm_up, keyframe_every, threads, spinning, chosen)
    records = measure_latency(world, bundle or Path("bundles") / preset, frames, plan, progress_bars())
    columns = (
        "runner",
        "keyframe_every",
        "stage",
        "p50_ms",
        "p90_ms",
        "p99_ms",
        "fps",
        "ratio_to_eager",
        "n",
        *TRANSFERS,
        "percent",
    )
    _draw("draw_latency", _emitted(records, columns, as_json=as_json), plot)


@app.command("batch", rich_help_panel=COST)
def batch_command(
    bundle: Annotated[
        Path,
        typer.Argument(
            help="Folder of a bundle of any preset, built with --max-batch, or hf://owner/name@revision.",
            callback=fetched,
        ),
    ] = Path("bundles/tiny-batch"),
    limit: Annotated[int, typer.Option("--limit", min=2, help="How many frames are labelled in a round.")] = 16,
    rounds: Annotated[int, typer.Option(min=1, help="Timed rounds; figures are their medians.")] = 9,
    backend: Annotated[str, typer.Option(help="What runs the bundle: auto, ort, rtx or tensorrt.")] = "auto",
    threads: ThreadsOption = 0,
    spinning: Annotated[
        bool, typer.Option(help="Whether ONNX Runtime's idle threads spin; off in nerve-segment.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Frames a second with 1, 2, 4 and 8 unrelated frames in a run of the networks, as far as the bundle takes them.

    All of them in turns, in one run; ratios are to one frame in a run. Labels have to be those of one frame in a run.
    The tiny bundle takes two minutes on 2 cores.

    Exit codes: 0 labels agree, 2 usage, such as a bundle that takes one frame in a run, 3 bad bundle, 7 labels differ.
    """
    require("nerve-bench batch", "bench", "onnxruntime")
    from nerve_bench.measure.batch import BatchPlan, measure_batch
    from nerve_bench.report.certify import bundle_pictures, bundle_words
    from nerve_runtime.bundle.manifest import load_manifest

    manifest, plan = load_manifest(bundle), BatchPlan(rounds, threads, spinning, backend)
    pictures, words = bundle_pictures(bundle, manifest, limit), bundle_words(bundle, manifest)
    columns = ("batch", "fps", "frame_ms", "networks_ms", "ratio_to_one", "agreement_percent", "frames", "n")
    records = _emitted(measure_batch(bundle, words, pictures, plan, progress_bars()), columns, as_json=as_json)
    if differing := [record["batch"] for record in records if record["agreement_percent"] < 100]:
        raise NumericError(
            f"labels of {differing} frames in a run are not those of one; compare: nerve-build parity {bundle}"
        )


@app.command("walk", rich_help_panel=COST)
def walk_command(
    limit: Annotated[int, typer.Option("--limit", min=1, help="Timed turns at 64 x 64 tokens.")] = 7,
    turns: Annotated[int, typer.Option(min=1, help="Timed turns over all grids, for the exponent.")] = 7,
    threads: Annotated[int, typer.Option(min=0, help="Threads of PyTorch; 0 lets it choose.")] = 0,
    plot: PlotOption = None,
    as_json: JsonOption = False,
) -> None:
    """Affinity, mix and 20 steps at 64 x 64 tokens, 21 classes, 10 heads: pooled and linear against the dense form.

    All forms run in turns, in eager PyTorch, after one turn in which each is compared with the reference. A pooled or
    linear form that makes a tensor of tokens x tokens is an error. The last line has the ratios of the medians and the
    exponent of the cost in tokens, of the least times. Three minutes on one idle core, and 3 GB of memory for the dense form.
    """
    require_reference("walk", *plotting(plot))
    from nerve_bench.measure.walk import WalkPlan, keep_memory, measure_walk

    records = measure_walk(WalkPlan(limit, turns, threads, memory_kept=keep_memory()), progress_bars())
    columns = (
        "runner",
        "form",
        "part",
        "tokens",
        "p50_ms",
        "p90_ms",
        "cpu_ms",
        "n",
        "exponent",
        "ratio_to_dense",
        "ratio_steps",
    )
    _draw("draw_walk", _emitted(records, columns, as_json=as_json), plot)


@app.command(rich_help_panel=COST)
def cost(
    bundles: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Folders of bundles, or hf://owner/name@revision.", show_default=False, callback=all_fetched
        ),
    ] = None,
    sizes: Annotated[
        str, typer.Option(help="Sides of square pictures in pixels, ',' between them.")
    ] = "256,384,512,768",
    presets: Annotated[
        str, typer.Option(help="Presets to count at these sizes, ',' between them: sd21, sd21-fast, edge; none: none.")
    ] = "sd21,sd21-fast,edge",
    times: Annotated[
        bool, typer.Option("--times/--no-times", help="Also time the method's own graphs, up to 512 px.")
    ] = True,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Timed runs of each graph.")] = 5,
    threads: Annotated[int, typer.Option(min=0, help="Threads of ONNX Runtime; 0 lets it choose.")] = 0,
    plots: Annotated[Path | None, typer.Option(help="Folder for PNG files.", show_default=False)] = None,
    as_json: JsonOption = False,
) -> None:
    """GMAC, parameters and bytes per stage of bundles, and what pictures of other sizes cost; 21 classes.

    Counted from the graphs; at other sizes from the traced programs of presets, whose weights are not needed. The
    method's own part is counted and timed dense, pooled and linear. A bundle takes seconds, each preset and size about
    20 s on one core, the times four minutes and 4 GB of memory for the dense form.
    """
    sizes_px = _pixels(sizes)
    require_reference("cost", "onnx", *(("onnxruntime",) if sizes_px and times else ()), *plotting(plots))
    parts: list[Iterable[dict[str, Any]]] = []
    if bundles:
        from nerve_bench.measure.cost import bundle_costs

        parts += [bundle_costs(bundle) for bundle in bundles]
    if sizes_px:
        parts.append(_size_records(sizes_px, [] if presets == "none" else _words(presets)))
    if sizes_px and times:
        from nerve_bench.measure.method_times import LONGEST_SIDE_PX, measure_method

        timed_px = [side for side in sizes_px if side <= LONGEST_SIDE_PX]
        parts.append(measure_method(timed_px, limit, threads, progress_bars()))
    columns = (
        "bundle", "stage", "preset", "form", "keys", "part", "side_px", "gmac", "parameters", "weight_bytes",
        "peak_activation_bytes", "p50_ms", "exponent", "walk_exponent",
    )  # fmt: skip
    records = _emitted(chain.from_iterable(parts), columns, as_json=as_json)
    for name, kind in (("cost", "cost"), ("cost_sizes", "cost_preset")):
        if plots is not None and any(record["bench"] == kind for record in records):
            _draw(f"draw_{name}", records, plots / f"{name}.png")


def _size_records(sizes_px: Sequence[int], presets: Sequence[str]) -> Iterator[dict[str, Any]]:
    from nerve_bench.measure.cost import gmac_exponents, method_costs, preset_costs

    yield from preset_costs(presets, sizes_px, progress_bars())
    method = list(method_costs(sizes_px, progress_bars()))
    yield from method
    if len(sizes_px) > 1:
        yield from gmac_exponents(method)


@app.command(rich_help_panel=COST)
def memory(
    bundle: Annotated[
        Path, typer.Argument(help="Folder of the bundle, of any preset, or hf://owner/name@revision.", callback=fetched)
    ] = Path("bundles/tiny"),
    runners: Annotated[
        str,
        typer.Option(
            help="Which, ',' between them: reference, ort, openvino, ort-cuda, rtx, tensorrt.",
            show_default="reference, ort, and openvino where it is installed",
        ),
    ] = "",
    limit: Annotated[int, typer.Option("--limit", min=2, help="How many frames run.")] = 48,
    threads: ThreadsOption = 0,
    clip: ClipOption = None,
    sd: SdOption = None,
    vae: VaeOption = None,
    dinov2: Dinov2Option = None,
    plot: PlotOption = None,
    as_json: JsonOption = False,
) -> None:
    """Resident memory of each runner, steady and at the peak, each in a fresh process; and the bytes of the bundle.

    Linux only. Half a minute for the tiny bundle; minutes and up to 6 GB at true size.
    """
    from nerve_bench.measure.memory import measure_memory
    from nerve_bench.report.certify import bundle_pictures, bundle_words
    from nerve_runtime.bundle.manifest import load_manifest

    manifest = load_manifest(bundle)
    chosen = _words(runners) or ["reference", "ort", *(["openvino"] if is_installed("openvino") else [])]
    _require_runners(chosen, plot)
    given = {"clip": clip, "sd": sd, "vae": vae, "dinov2": dinov2}
    weights = {role: str(path) for role, path in given.items() if path is not None}
    pictures, words = bundle_pictures(bundle, manifest, limit), bundle_words(bundle, manifest)
    records = measure_memory(bundle, chosen, words, pictures, threads, progress_bars(), weights)
    columns = ("runner", "start_bytes", "opened_bytes", "steady_bytes", "peak_bytes", "bundle_bytes", "p50_ms", "n")
    _draw("draw_memory", _emitted(records, columns, as_json=as_json), plot)


def _require_runners(runners: Sequence[str], plot: Path | None) -> None:
    needs = {"reference": REFERENCE, "ort": ("onnxruntime",), "openvino": ("openvino",)}
    packages = (package for runner in runners for package in needs.get(runner, ()))
    require("nerve-bench memory", "bench", *packages, *plotting(plot))


@app.command("certify", rich_help_panel=REPORTS)
def certify_command(
    bundle: BundleArgument,
    data: Annotated[
        Path | None, typer.Option(help="Folder of the field's benchmarks, as for reproduce.", show_default=False)
    ] = None,
    classes_folder: Annotated[
        Path | None, typer.Option(help="Class files of the benchmarks, as for reproduce.", show_default=False)
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for certificate.json and certificate.html.")] = Path(
        "out/certificate"
    ),
    frames: Annotated[int, typer.Option(min=2, help="Frames that are timed.")] = 24,
    limit: Annotated[
        int, typer.Option("--limit", min=1, help="Scenes, or pictures of each benchmark, that are scored.")
    ] = 100,
    threads: ThreadsOption = 0,
    clip: ClipOption = None,
    sd: SdOption = None,
    vae: VaeOption = None,
    dinov2: Dinov2Option = None,
    offline: Annotated[
        bool, typer.Option("--offline", rich_help_panel=WEIGHTS, help="Never download weights.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Certify a bundle on this machine: parity on every back end found, engines, speed, memory, accuracy; one page.

    Engines are built into the bundle where a GPU and its library are here, and marked as compared. What cannot run says
    why and is no failure. Two minutes for the tiny bundle on 2 cores, half an hour at true size.

    Exit codes: 0 all that could run passed, 2 usage, 3 bad bundle, 7 something failed.
    """
    require("nerve-bench certify", "bench", "jinja2")
    from nerve_bench.report.certificate import CERTIFICATE_NAME, PAGE_NAME, passed, write_certificate
    from nerve_bench.report.certify import CertifyPlan, certify
    from nerve_ref.weights.files import WeightChoice
    from nerve_runtime.atomic import refuse_special

    for name in (CERTIFICATE_NAME, PAGE_NAME):
        refuse_special(out / name, pipes=True)
    if data is not None and not data.is_dir():
        raise UsageError(f"--data {data} is no folder; give the one that holds the benchmarks")
    weights = WeightChoice(clip=clip, sd=sd, vae=vae, dinov2=dinov2, offline=offline)
    plan = CertifyPlan(bundle, weights, data, frames, limit, threads, out, classes_folder)
    findings = []
    with Console(stderr=True).status("starting") as status:
        for finding in certify(plan, status.update, _no_bars):
            findings.append(finding)
            typer.echo(
                json.dumps(finding.as_json()) if as_json else f"{finding.state:8} {finding.part}: {finding.what}"
            )
    paths = write_certificate(bundle, findings, out)
    if not as_json:
        typer.echo(f"certificate: {paths[0]}, {paths[1]}")
    if not passed(findings):
        failed = ", ".join(finding.part for finding in findings if finding.state == "failed")
        raise NumericError(f"not certified, failed: {failed}; see {paths[1]}")


def _no_bars(items: Any, _description: str, total: float | None = None) -> Any:
    """The spinner beside the name of the part is its progress; two live displays cannot share a terminal."""
    return items


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _pixels(sizes: str) -> list[int]:
    words = _words(sizes)
    if not all(word.isdigit() and int(word) > 0 and int(word) % 128 == 0 for word in words):
        raise UsageError(
            f"--sizes is {sizes!r}, expected multiples of 128 pixels, ',' between them: 16 cells divide their tokens"
        )
    return [int(word) for word in words]


def _emitted(records: Iterable[dict[str, Any]], columns: tuple[str, ...], *, as_json: bool) -> list[dict[str, Any]]:
    """Print records as they come, and give them back to be drawn."""
    kept: list[dict[str, Any]] = []

    def passing() -> Iterator[dict[str, Any]]:
        for record in records:
            kept.append(record)
            yield record

    emit(passing(), as_json=as_json, columns=columns)
    return kept


def _draw(name: str, records: Sequence[dict[str, Any]], path: Path | None) -> None:
    if path is not None:
        from nerve_bench.report import plots_cost

        getattr(plots_cost, name)(records, path)
