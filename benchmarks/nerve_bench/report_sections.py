"""What the report shows, in order."""

from nerve_bench.report import Section

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
        "nerve_bench.video_plot:draw_video",
    ),
    Section(
        "Time",
        "Per stage and frame: eager PyTorch, torch.compile, and the bundle, all in one run.",
        ("latency",),
        "nerve-bench latency --json",
    ),
)
