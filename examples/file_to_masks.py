"""A file to masks: one picture or video in, a PNG of labels for each frame out, by the thin runtime and OpenCV alone.

python examples/file_to_masks.py SOURCE FOLDER "water; sand; zebra"
"""

import sys
from pathlib import Path

import cv2

from nerve_runtime import Segmenter, Temporal

BUNDLE = "bundles/tiny"


def write_masks(source: str, folder: Path, classes: str) -> int:
    """Write `frame_000000.labels.png` and so on, whose pixel values count in `classes`; returns how many."""
    folder.mkdir(parents=True, exist_ok=True)
    capture, count = cv2.VideoCapture(source), 0  # it reads pictures too
    if not capture.isOpened():
        raise SystemExit(f"{source} cannot be opened, expected a picture or a video")
    with Segmenter.open(BUNDLE, classes, temporal=Temporal()) as segmenter:
        while (read := capture.read())[0]:
            result = segmenter.segment(read[1], bgr=True)
            result.save(folder / f"frame_{count:06}.labels.png")
            count += 1
    capture.release()
    return count


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    print(f"{write_masks(sys.argv[1], Path(sys.argv[2]), sys.argv[3])} masks in {sys.argv[2]}")
