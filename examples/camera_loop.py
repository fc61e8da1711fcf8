"""A camera loop with OpenCV: the newest frame, its labels, and what each class covers, until q is pressed.

python examples/camera_loop.py 0 "person; dog; floor"     (0 is the first camera; a file or a URL does as well)
"""

import sys

import cv2
import numpy as np

from nerve_runtime import Segmenter, Temporal

BUNDLE = "bundles/tiny"
FAILURES_LIMIT = 50  # a camera that gives no frame so often in a row is gone


def watch(source: str, classes: str, *, show: bool = True) -> int:
    """Segment until the source ends; returns how many frames were done."""
    capture, done, failures = cv2.VideoCapture(int(source) if source.isdigit() else source), 0, 0
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # old frames are worth nothing here
    with Segmenter.open(BUNDLE, classes, temporal=Temporal()) as segmenter:
        while failures < FAILURES_LIMIT:
            found, bgr = capture.read()
            if not found:
                failures += 1
                continue
            result, failures, done = segmenter.segment(bgr, bgr=True), 0, done + 1
            if not result.valid:  # scores that are not finite: every label is result.ignore_label
                continue
            print("  ".join(f"{name} {share:.0%}" for name, share in list(result.areas.items())[:4]), flush=True)
            if show:
                cv2.imshow("labels", np.ascontiguousarray(result.plot()[..., ::-1]))
                if cv2.waitKey(1) == ord("q"):
                    break
    capture.release()
    return done


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    watch(sys.argv[1], sys.argv[2], show="--no-window" not in sys.argv)
