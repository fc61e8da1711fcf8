"""What the report shows, in order."""

from nerve_bench.report.page import Section

_EXPERIMENTS = {
    "parts": (
        "Parts of the method, each at its best",
        "Scores alone, with one of the two affinities, and with both; each at its own best alpha, and at the preset's.",
        "draw_comparison",
    ),
    "heads": (
        "Mean or entropy",
        "Weights of the heads: the mean, the paper's plain exponential, and our z-scores, against the temperature.",
        "draw_heads",
    ),
    "steps": (
        "How many steps",
        "mIoU against L with the knee, and the measured error beside its bound 2 alpha^L.",
        "draw_steps",
    ),
    "affinity": (
        "Kinds of affinity",
        "Pooled, dense, linear and without softmax, each at its own best constants.",
        "draw_comparison",
    ),
    "sweep": ("alpha, beta and T_H", "mIoU over the constants, from cached G, Q and K.", "draw_sweep"),
    "layers": ("Layers and timesteps", "Which layers and which diffusion step the heads come from.", "draw_comparison"),
    "providers": (
        "Where affinity comes from",
        "The tiny diffusion model, CLIP's own keys and plain colours, with effective rank and spread of entropies.",
        "draw_comparison",
    ),
    "adaptive": (
        "Adaptive beta",
        "beta per image and per pixel from the entropies of the two affinities, against a fixed one.",
        "draw_comparison",
    ),
    "groups": ("Stuff and things", "Entropies, head weights and mIoU by group.", "draw_comparison"),
    "transfer": (
        "Constants in another world",
        "What constants chosen on the world lose where textures, light, noise or scale are others.",
        "draw_comparison",
    ),
    "things": (
        "Fewer things",
        "How the figures fall with the number of things that scenes show and the vocabulary names.",
        "draw_comparison",
    ),
    "better": (
        "Better than the paper",
        "Changes to a paper-like setting, tried on validation scenes, judged on test scenes.",
        "draw_comparison",
    ),
    "exact": ("Truncated or exact", "Error against the closed form at equal cost, on real affinities.", "draw_exact"),
    "solo": (
        "One tower for both",
        "CLIP alone, its own attention for affinity, beside the diffusion model and beside its words alone.",
        "draw_comparison",
    ),
}

SECTIONS: tuple[Section, ...] = (
    Section(
        "What each part adds",
        "mIoU and pixel accuracy of each part of the method on test scenes, reference and bundle, at the constants of the full method.",
        ("accuracy",),
        "nerve-bench accuracy --json",
    ),
    Section(
        "Video",
        "What the frames between keyframes cost and are worth on moving scenes; the star is the default. Right: what age does to "
        "each way of going on.",
        ("video", "video_walks"),
        "nerve-bench video --json",
        "nerve_bench.report.plots_video:draw_video",
    ),
    Section(
        "Time",
        "Per stage and frame: eager PyTorch, torch.compile, and the bundle on ONNX Runtime and OpenVINO, all in one run.",
        ("latency", "backend_agreement"),
        "nerve-bench latency --limit 128 --json",
        "nerve_bench.report.plots_cost:draw_latency",
    ),
    Section(
        "The walk and its tokens",
        "Affinity, mix and 20 steps at 64 x 64 tokens in the pooled form against the dense one, on the same threads, and how the "
        "time grows with the tokens at a fixed number of keys. No tensor of the pooled form is tokens by tokens.",
        ("walk_scaling", "walk_exponent", "walk", "walk_tensors"),
        "nerve-bench walk --json",
        "nerve_bench.report.plots_cost:draw_walk",
    ),
    Section(
        "What a bundle costs",
        "Multiply-adds, weights and activations of every graph.",
        ("cost", "cost_bundle"),
        "nerve-bench cost bundles/tiny --json",
        "nerve_bench.report.plots_cost:draw_cost",
    ),
    Section(
        "What other sizes cost",
        "A cold frame of the presets, and the method's own part in its three forms. Presets keep the size of a cell, so their keys "
        "grow with the picture; only at a fixed number of keys is the part linear in the tokens.",
        ("cost_preset", "cost_method", "cost_exponent"),
        "nerve-bench cost --json",
        "nerve_bench.report.plots_cost:draw_cost_sizes",
    ),
    Section(
        "Memory",
        "Resident memory of each runner in a process of its own.",
        ("memory",),
        "nerve-bench memory --json",
        "nerve_bench.report.plots_cost:draw_memory",
    ),
    Section(
        "How many streams a node serves",
        "Measured load on one node (points), the simulation from service times alone (lines) and a queueing estimate (dotted); plans "
        "and failures from the simulation. Lines whose service is assumed are what-ifs, of no machine.",
        ("capacity_curve", "capacity_assumptions", "capacity_plan", "capacity_storm"),
        "nerve-bench capacity --json",
        "nerve_bench.report.plots_capacity:draw_capacity",
    ),
    Section(
        "What a node was measured to do",
        "Frames alone on the machine, the node saturated, and what became of the frames at each load.",
        ("load", "load_service", "load_capacity", "load_cadence", "load_saturated", "load_state", "load_network"),
        "nerve-bench load --json",
    ),
    Section(
        "Wide scenes",
        "Stretched to one frame, in tiles of their own, and in tiles with one set of pooled keys for the whole picture.",
        ("tiles",),
        "nerve-bench tiles --width 256 --json; nerve-bench tiles --width 384 --json",
        "nerve_bench.report.plots_data:draw_tiles",
    ),
    *(
        Section(
            title,
            text,
            (f"experiment_{name}",),
            f"nerve-bench experiment {name} --json",
            f"nerve_bench.report.plots_experiments:{draw}",
        )
        for name, (title, text, draw) in _EXPERIMENTS.items()
    ),
    Section(
        "Certificate",
        "What could be checked of the tiny bundle on the machine where this was written, and what could not.",
        ("certify",),
        "nerve-bench certify bundles/tiny --json",
    ),
)
