"""Things counted in a video: connected regions keep their numbers from frame to frame. Needs the extra `stream`.

python examples/count_things.py VIDEO "zebra; sand; water" zebra
Two things of a class that touch are one region: NERVE says what a pixel is, not whose.
"""

import sys

from nerve_runtime import InstanceTracker, Segmenter, Temporal
from nerve_stream import open_frames

BUNDLE = "bundles/tiny"


def frames_of_each(video: str, classes: str, name: str) -> dict[int, int]:
    """How many frames each numbered region of a class was seen in."""
    seen: dict[int, int] = {}
    tracker = InstanceTracker(least_share=0.005)
    with Segmenter.open(BUNDLE, classes, temporal=Temporal()) as segmenter:
        for result in segmenter.stream(open_frames(video)):
            for instance in tracker.update(result).instances:
                if instance.name == name:
                    seen[instance.number] = seen.get(instance.number, 0) + 1
    return seen


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    for number, frames in frames_of_each(*sys.argv[1:4]).items():
        print(f"{sys.argv[3]} {number}: {frames} frames")
