"""Reference against bundle along a video: the same frames, cold and warm, pixel by pixel."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nerve_bench.measure.accuracy import Confusion, World
from nerve_bench.world import CLASS_NAMES, moving_scene
from nerve_ref.video import VideoReference
from nerve_runtime import Segmenter
from nerve_runtime.temporal import Temporal


def measure_agreement(
    world: World, bundle: Path, seed: int, frames: int, keyframe_every: int, progress: Callable[..., Any]
) -> Iterator[dict[str, Any]]:
    """Yield one record for every frame cold and one for keyframes every `keyframe_every`, with the clip's own truth."""
    for mode, every in (("cold", 1), ("warm", keyframe_every)):
        video = VideoReference(world.models, world.bank, world.params, every)
        shares, table = [], Confusion(len(CLASS_NAMES))
        with Segmenter.open(bundle, list(CLASS_NAMES), backend="ort", temporal=Temporal.plain(every)) as segmenter:
            clip = moving_scene(seed, frames, size_px=world.params.size_hw[0])
            for frame in progress(clip, f"comparing, {mode}", total=frames):
                expected = video.step(torch.from_numpy(frame.rgb)).labels.numpy()
                found = segmenter.segment(frame.rgb).labels
                shares.append(100 * float((found == expected).mean()))
                table.add(frame.labels, found)
        yield {
            "bench": "agreement",
            "on": "video",
            "mode": mode,
            "percent": round(float(np.mean(shares)), 4),
            "worst_frame_percent": round(min(shares), 4),
            "pixel_accuracy": round(table.pixel_accuracy(), 2),
            "frames": frames,
            "keyframe_every": every,
        }
