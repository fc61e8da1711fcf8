"""Commands of `nerve-bench` about how many streams a node serves: load (measured) and capacity (simulated and planned)."""

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from nerve_bench.cli.shared import COST, JsonOption, emit, fetched, plotting, progress_bars
from nerve_export.cli.extras import require
from nerve_runtime.errors import UsageError

app = typer.Typer()

LOADS = "0.2,0.4,0.6,0.8,0.9,1.0,1.2,1.5"
PolicyOption = Annotated[str, typer.Option(help="newest or fifo, as for load.")]
QueueOption = Annotated[int, typer.Option(min=1, help="Frames that may wait under policy fifo; more are rejected.")]
BatchOption = Annotated[int, typer.Option(min=1, help="Most frames taken at once; above 1 needs records of batch.")]
EveryOption = Annotated[
    int | None, typer.Option(min=1, help="Keyframes every so many frames.", show_default="as measured")
]
ServiceOption = Annotated[
    str | None,
    typer.Option(help="ASSUMED milliseconds instead of the measured ones, such as keyframe=40,follow=5: a what-if."),
]
BitrateOption = Annotated[
    float | None, typer.Option(min=0.001, help="Mbit/s of one encoded stream.", show_default="the packaged clip's")
]
RawSizeOption = Annotated[
    tuple[int, int] | None,
    typer.Option(metavar="HEIGHT WIDTH", min=16, help="Size of raw frames.", show_default="the packaged clip's"),
]
StateOption = Annotated[
    float | None, typer.Option(min=0, help="MB that a stream holds on its replica.", show_default="as measured")
]
MovingOption = Annotated[
    float, typer.Option(min=0, help="Seconds from the death of a replica until its streams are elsewhere.")
]
PriceOption = Annotated[
    float | None, typer.Option(min=0, help="Price of a replica-hour, in any currency.", show_default="none")
]
UtilisationOption = Annotated[
    float, typer.Option(min=0.01, max=1, help="Share of its capacity to which a replica is filled at most.")
]


@app.command(rich_help_panel=COST)
def load(
    bundle: Annotated[
        Path, typer.Argument(help="Folder of the bundle, or hf://owner/name@revision.", callback=fetched)
    ] = Path("bundles/tiny"),
    loads: Annotated[str, typer.Option(help="Offered load over the capacity of the node, ',' between them.")] = LOADS,
    fps: Annotated[
        float,
        typer.Option(min=0.1, help="Frames a second of a camera, about: fitted so that whole cameras give the load."),
    ] = 10.0,
    seconds: Annotated[float, typer.Option(min=1, help="Length of each load and policy, without warm-up.")] = 60.0,
    service_frames: Annotated[int, typer.Option(min=40, help="Frames whose service time is measured alone.")] = 800,
    policies: Annotated[
        str,
        typer.Option(
            help="newest: as nerve-segment --realtime; fifo: a queue with a bound, as before a model in Triton."
        ),
    ] = "newest,fifo",
    queue: QueueOption = 8,
    jitter: Annotated[
        float, typer.Option(min=0, max=1, help="Range in which frames come early or late, as a share of their period.")
    ] = 0.2,
    frame_size: Annotated[
        tuple[int, int] | None,
        typer.Option(metavar="HEIGHT WIDTH", min=16, help="Size of the frames.", show_default="the bundle's"),
    ] = None,
    threads: Annotated[int, typer.Option(min=0, help="Threads of ONNX Runtime; 0 lets it choose.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of the times at which frames come.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Load on one node: what frames take alone, then latency, drops and utilisation as cameras offer more and more.

    Open loop: cameras give frames when they are due, whether or not the node keeps up, and time counts from then. Frames
    lie in memory beforehand, so decoding is not measured. 18 minutes as it stands; on a machine that does nothing else.
    """
    require("nerve-bench load", "bench", "onnxruntime")
    from nerve_bench.capacity.cameras import synthetic_clips
    from nerve_bench.capacity.load import LoadPlan, measure_load
    from nerve_bench.world import CLASS_NAMES
    from nerve_runtime import Segmenter, Temporal
    from nerve_runtime.backends import BackendOptions

    plan = LoadPlan(_numbers("loads", loads), fps, seconds, service_frames, _words(policies), queue, jitter, seed)
    options = BackendOptions(threads=threads)
    with Segmenter.open(
        bundle, list(CLASS_NAMES), backend="ort", backend_options=options, temporal=Temporal(), templates="single", cache_dir=None
    ) as segmenter:  # fmt: skip
        working_hw = segmenter.manifest.geometry.working_hw
        size_hw = frame_size or (working_hw[0], working_hw[1])
        header = {
            **_machine(), "backend": segmenter.backend, "bundle": bundle.name, "threads": threads or "chosen by ONNX Runtime",
            "classes": len(CLASS_NAMES), "frame_hw": list(size_hw),
        }  # fmt: skip
        emit([header], as_json=as_json, columns=())
        clips = synthetic_clips(size_hw)
        columns = (
            "kind", "policy", "load", "cameras", "fps", "mean_ms", "p50_ms", "p90_ms", "p99_ms", "dropped_percent",
            "busy_percent", "done_fps", "keyframe_percent", "capacity_fps", "stride", "early_percent", "overlap",
            "bytes_per_stream", "encoded_bytes", "raw_bytes", "working_bytes", "n",
        )  # fmt: skip
        emit(measure_load(segmenter, clips, plan, progress_bars()), as_json=as_json, columns=columns)


def _machine() -> dict[str, Any]:
    from nerve_bench.machine import processor, usable_cores

    versions = {name: version(name) for name in ("onnxruntime", "numpy")}
    return {
        "bench": "header",
        "machine": f"{platform.machine()} {processor()}",
        "cores": usable_cores(),
        "python": platform.python_version(),
        **versions,
    }


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in _words(text))
    except ValueError as error:
        raise UsageError(f"--{option} is {text!r}, expected numbers, ',' between them") from error


@app.command(rich_help_panel=COST)
def capacity(
    folder: Annotated[
        Path, typer.Option("--from", help="Folder of JSON lines with those of load, and of batch for --batch.")
    ] = Path("out/evidence"),
    streams: Annotated[str, typer.Option(help="Numbers of streams to plan for, ',' between them.")] = "10,1000,100000",
    fps: Annotated[float, typer.Option(min=0.1, help="Frames a second of a stream.")] = 10.0,
    p99_ms: Annotated[
        float, typer.Option(min=1, help="Most that 99 % of the frames may take, arrival to result.")
    ] = 200.0,
    target_drop: Annotated[str, typer.Option(help="Most frames that may be dropped, such as 1%.")] = "1%",
    utilisation: UtilisationOption = 0.8,
    policy: PolicyOption = "newest",
    queue: QueueOption = 8,
    batch: BatchOption = 1,
    keyframe_every: EveryOption = None,
    service_ms: ServiceOption = None,
    bitrate: BitrateOption = None,
    frame_size: RawSizeOption = None,
    state_mb: StateOption = None,
    moving_s: MovingOption = 2.0,
    price_per_hour: PriceOption = None,
    plot: Annotated[Path | None, typer.Option(help="PNG to draw of the measured and the simulated curve.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Measured against simulated load, a queueing estimate beside it, and plans: replicas, latency, network, failures.

    Reads the records of `nerve-bench load --json`. Says where the simulation does not reproduce what was measured.
    With --service-ms nothing is compared: the plans rest on what was assumed. About two minutes.
    """
    require("nerve-bench capacity", "bench", *plotting(plot))
    from nerve_bench.capacity.plan import Goal
    from nerve_bench.capacity.planning import Assumptions, capacity_records
    from nerve_bench.report.figures import read_records

    goal = Goal(fps, p99_ms, _percent(target_drop), utilisation, price_per_hour)
    assumptions = Assumptions(policy, queue, batch, keyframe_every, service_ms, bitrate, frame_size, state_mb, moving_s)
    counts = [int(number) for number in _numbers("streams", streams)]
    records = read_records(folder) if folder.is_dir() else []
    found = list(capacity_records(records, counts, goal, assumptions, progress_bars()))
    for kind, columns in COLUMNS.items():
        emit([record for record in found if record["bench"] == kind], as_json=as_json, columns=columns)
    if plot is not None:
        from nerve_bench.report.plots_capacity import draw_capacity

        draw_capacity(found, plot)


COLUMNS = {
    "capacity_assumptions": ("service", "assumption", "value"),
    "capacity_curve": (
        "policy", "load", "cameras", "measured_p50_ms", "simulated_p50_ms", "p50_ratio", "measured_p99_ms",
        "simulated_p99_ms", "p99_ratio", "measured_mean_ms", "simulated_mean_ms", "estimate_mean_ms", "estimate_p99_ms",
        "measured_dropped_percent", "simulated_dropped_percent", "fluid_dropped_percent", "holds", "service_ratio",
        "own_p50_ratio", "own_p99_ratio", "own_dropped_percent", "own_holds",
    ),
    "capacity_plan": (
        "streams", "service", "streams_per_replica", "limited_by", "needed", "spare", "replicas", "load", "p50_ms", "p99_ms",
        "dropped_percent", "busy_percent", "failed_p99_ms", "failed_dropped_percent", "estimate_wait_ms",
        "estimate_shared_wait_ms", "in_encoded_mbit", "in_raw_mbit", "in_working_mbit", "out_png_mbit",
        "state_mb_per_replica", "replica_hours_a_day", "price_a_day",
    ),
    "capacity_storm": (
        "streams", "service", "replicas", "storm", "staying", "moved", "lost_frames_per_stream", "settled_p99_ms", "first_p99_ms",
        "worst_p99_ms", "first_dropped_percent", "settled_dropped_percent", "back",
    ),
}  # fmt: skip


def _percent(text: str) -> float:
    try:
        share = float(text.strip().removesuffix("%"))
    except ValueError:
        share = -1
    if not 0 <= share <= 100:
        raise UsageError(f"--target-drop is {text!r}, expected a percentage such as 1%")
    return share
