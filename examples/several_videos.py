"""Several videos through one set of graphs: each has its own keyframes and motion. Needs the extra `stream`.

python examples/several_videos.py "zebra; sand; water" FIRST.mp4 SECOND.mp4
"""

import sys
from collections.abc import Iterator
from itertools import zip_longest

from nerve_runtime import FrameResult, Segmenter, Temporal
from nerve_stream import open_frames

BUNDLE = "bundles/tiny"


def results_in_turn(classes: str, paths: list[str]) -> Iterator[tuple[str, FrameResult]]:
    """One frame of each video in turn, with its name, until the longest has ended."""
    with Segmenter.open(BUNDLE, classes, temporal=Temporal()) as segmenter:
        videos = [segmenter.new_video() for _ in paths]
        for frames in zip_longest(*(open_frames(path) for path in paths)):
            for path, video, frame in zip(paths, videos, frames, strict=True):
                if frame is not None:
                    yield path, video.segment(frame)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    for path, result in results_in_turn(sys.argv[1], sys.argv[2:]):
        print(f"{path} {result.index}: {'keyframe' if result.keyframe else 'followed'}, {len(result.areas)} classes")
