"""Which tables the README and docs/evidence.md show, and of which records."""

from typing import get_args

from nerve_bench.report.figures import Column, FigureTable, spread_columns
from nerve_bench.report.tables_experiments import EXPERIMENT_TABLES
from nerve_runtime.bundle.spec import StageName

MILLION = 1e6

RUNNERS = {
    "reference_eager": "eager reference",
    "reference_compile": "torch.compile",
    "bundle_ort": "ONNX Runtime",
    "bundle_openvino": "OpenVINO",
}

TABLES: dict[str, FigureTable] = {
    "accuracy": FigureTable(
        "accuracy",
        "",
        ("variant",),
        (
            Column("reference mIoU", "miou reference", ".1f"),
            Column("accuracy", "pixel_accuracy reference", ".1f"),
            Column("bundle mIoU", "miou bundle_ort", ".1f"),
            Column("accuracy", "pixel_accuracy bundle_ort", ".1f"),
        ),
        {
            "clip_only": "CLIP alone (G)",
            "local": "local walk only (beta 0)",
            "global_mean": "global only, mean heads (beta 1)",
            "global_entropy": "global only, entropy weights (beta 1)",
            "nerve": "full NERVE",
            "oracle": "oracle: G averaged over true regions",
        },
        spread=("runner",),
    ),
    "video": FigureTable(
        "video",
        "",
        ("variant",),
        (
            Column("cost, cold = 1", "ratio_to_cold", ".2f"),
            Column("mIoU", "miou", ".1f"),
            Column("minus cold's, 95 %", "miou_interval", "+.1f"),
            Column("flicker", "flicker", ".2f"),
            Column("minus cold's, 95 %", "flicker_interval", "+.2f"),
            Column("consistency", "consistency", ".1f"),
            Column("ghosts", "ghosts", ".1f"),
            Column("recovery", "recovery_frames", ".1f"),
        ),
        {
            "cold": "every frame cold",
            "temporal": "**follow, the default**",
            "unsmoothed": "follow, smoothing 0",
            "scores_every_2": "follow, CLIP every 2 frames",
            "every_4": "follow, keyframe every 4",
            "every_16": "follow, keyframe every 16",
            "shift_only": "follow without CLIP between keyframes",
            "exact": "exact walk, nothing moves",
            "warm": "warm walk, nothing moves",
            "hold": "labels frozen",
            "cold_smoothed": "every frame cold, smoothed",
        },
    ),
    "video-walks": FigureTable(
        "video_walks",
        "",
        ("walk",),
        (
            Column("ms a frame", "ms_per_frame", ".2f"),
            Column("ms a keyframe more", "ms_per_keyframe", ".1f"),
            Column("error to the limit (L1 a token)", "error_l1", ".1e"),
            Column("labels as the limit's, %", "labels_as_limit_percent", ".2f"),
        ),
        {"walk": "20 steps from G", "walk_warm": "3 steps from the frame before", "walk_exact": "exact walk"},
    ),
    "walk": FigureTable(
        "walk",
        "64 x 64 tokens, 21 classes, 10 heads, 20 steps",
        ("summary",),
        (
            Column("all, against dense", "ratio_to_dense", ".1f"),
            Column("steps alone, against dense", "ratio_steps", ".1f"),
            Column("exponent in tokens", "exponent", ".2f"),
        ),
        {"True": "times as fast"},
    ),
    "latency": FigureTable(
        "latency",
        "median ms, every frame a keyframe",
        ("stage",),
        (
            *spread_columns(".1f", "p50_ms", RUNNERS),
            Column("ONNX Runtime against eager", "ratio_to_eager bundle_ort", ".1f"),
        ),
        {
            "frame": "whole frame",
            "scores": "scores",
            "attention": "attention",
            "mix": "mix",
            "walk": "walk, 20 steps",
            "readout": "read-out at 128 px",
        },
        {"keyframe_every": 1},
        ("runner",),
    ),
    "latency-mean": FigureTable(
        "latency",
        "ms a frame, keyframes every 8, plain warm walk between",
        ("stage",),
        (
            *spread_columns(".1f", "typical_ms", RUNNERS),
            Column("ONNX Runtime against eager", "ratio_to_eager bundle_ort", ".1f"),
        ),
        {"frame": "whole frame"},
        {"keyframe_every": 8},
        ("runner",),
    ),
    "memory": FigureTable(
        "memory",
        "resident MB",
        ("runner",),
        (
            Column("before", "start_bytes", ".0f", MILLION),
            Column("opened", "opened_bytes", ".0f", MILLION),
            Column("steady", "steady_bytes", ".0f", MILLION),
            Column("peak", "peak_bytes", ".0f", MILLION),
        ),
        {"reference": "eager reference", "ort": "bundle, ONNX Runtime", "openvino": "bundle, OpenVINO"},
    ),
    "cost": FigureTable(
        "cost",
        "graph",
        ("stage",),
        (
            Column("million multiply-adds", "gmac", ".1f", 1e-3),
            Column("thousand parameters and constants", "parameters", ".0f", 1e3),
            Column("peak of activations, MB", "peak_activation_bytes", ".1f", MILLION),
        ),
        {name: f"`{name}`" for name in get_args(StageName)},
        {"preset": "tiny"},
    ),
    "cost-sizes": FigureTable(
        "cost_preset",
        "GMAC of a cold frame, 21 classes",
        ("preset",),
        spread_columns(".0f", "gmac", {"256": "256 px", "384": "384 px", "512": "512 px", "768": "768 px"}),
        {"sd21": "`sd21`", "sd21-fast": "`sd21-fast`", "edge": "`edge`"},
        spread=("side_px",),
    ),
    "cost-method": FigureTable(
        "cost_method",
        "GMAC of affinity, mix and walk, 10 heads",
        ("form", "keys"),
        spread_columns(".1f", "gmac", {"256": "256 px", "384": "384 px", "512": "512 px", "768": "768 px"}),
        {
            "dense - all": "dense",
            "pooled - growing": "pooled, keys grow with the picture (the presets)",
            "pooled - fixed": "pooled, 256 keys",
            "linear - none": "linear",
        },
        spread=("side_px",),
    ),
    "tiles": FigureTable(
        "tiles",
        "scenes wider than the working frame",
        ("way",),
        (
            *spread_columns(".1f", "miou", {"256": "mIoU at 256 px", "384": "at 384 px"}),
            *spread_columns(".1f", "interval", {"256": "95 % interval at 256 px", "384": "at 384 px"}),
        ),
        {
            "stretch": "stretched to one frame",
            "separate_tiles": "tiles, each by itself",
            "joint_tiles": "tiles with one set of pooled keys",
        },
        spread=("width_px", "against"),
    ),
    "tiles-against": FigureTable(
        "tiles",
        "joint keys against",
        ("against",),
        (
            Column("points at 256 px", "gain 256", "+.1f"),
            Column("95 % interval", "interval 256", "+.1f"),
            Column("points at 384 px", "gain 384", "+.1f"),
            Column("95 % interval", "interval 384", "+.1f"),
        ),
        {"stretch": "one stretched frame", "separate_tiles": "tiles, each by itself"},
        {"way": "joint_tiles"},
        ("width_px",),
    ),
}
TABLES |= EXPERIMENT_TABLES
