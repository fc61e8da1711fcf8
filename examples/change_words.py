"""Other words while a video runs: no graph is rebuilt, and the next frame has them. Needs the extra `stream`.

python examples/change_words.py VIDEO "zebra; sand" "zebra; sand; water, sea"
"""

import sys
from itertools import islice

from nerve_runtime import Segmenter, Temporal
from nerve_stream import open_frames

BUNDLE = "bundles/tiny"
FRAMES_EACH = 10


def areas_of_each(video: str, *lists: str) -> list[dict[str, float]]:
    """Segment ten frames with each list of words; returns what each class covers in the last of them."""
    areas = []
    with Segmenter.open(BUNDLE, lists[0], temporal=Temporal()) as segmenter, open_frames(video) as frames:
        results = segmenter.stream(frames)
        for classes in lists:
            segmenter.set_classes(classes)
            areas.append([result.areas for result in islice(results, FRAMES_EACH)][-1])
    return areas


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    for words, shares in zip(sys.argv[2:], areas_of_each(*sys.argv[1:]), strict=True):
        print(f"{words}: {', '.join(f'{name} {share:.0%}' for name, share in shares.items())}")
