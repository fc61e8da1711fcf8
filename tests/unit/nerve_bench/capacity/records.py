"""Records as `nerve-bench load` prints them, small and made up, for tests of what reads them."""

from typing import Any

KEYFRAME_MS, FOLLOW_MS = [40.0, 44.0, 48.0], [8.0, 9.0, 10.0]
MEASURED: dict[str, Any] = {
    "bench": "load", "policy": "newest", "load": 0.6, "cameras": 5, "fps": 9.5, "capacity_fps": 80.0, "offered_fps": 47.5,
    "done_fps": 47.5, "mean_ms": 20.0, "p50_ms": 12.0, "p90_ms": 45.0, "p99_ms": 80.0, "dropped_percent": 0.1,
    "busy_percent": 60.0, "service_ms": 12.5, "keyframe_percent": 10.0, "seconds": 30.0, "warm_s": 2.0, "jitter": 0.2,
    "late_frames": 10, "seed": 60, "bound": None, "n": 1400,
}  # fmt: skip
SERVICES: list[dict[str, Any]] = [
    *({"bench": "load_cadence", "stride": stride, "early_percent": early, "n": 100, "keyframe_every": 10, "longest_s": 2.0} for stride, early in ((1, 0.0), (2, 5.0))),
    {"bench": "load_service", "kind": "keyframe", "samples_ms": KEYFRAME_MS},
    {"bench": "load_service", "kind": "follow", "samples_ms": FOLLOW_MS},
    {"bench": "load_state", "bytes_per_stream": 17_000_000},
    {"bench": "load_network", "encoded_bytes": 4000, "raw_bytes": 200_000, "working_bytes": 50_000, "labels_png_bytes": 2000},
]  # fmt: skip
