"""What the real supervision makes of results: `python read_detections.py RESULTS.npz OUT.npz`.

Runs in the environment of read_exports.py with runtime/ on its path. The labels of RESULTS.npz are called by their
number; OUT.npz has for each the masks and the class of each detection, and a grey frame that they were drawn over.
"""

import sys
from pathlib import Path

import numpy as np
import supervision

from nerve_runtime.result import FrameResult


def main(results: Path, out: Path) -> None:
    """Make detections of all labels and draw them."""
    found = {}
    with np.load(results) as given:
        for number in sorted(set(given.files) - {"names"}):
            labels = given[number]
            rgb = np.full((*labels.shape, 3), 128, dtype=np.uint8)
            result = FrameResult(labels, labels, tuple(map(str, given["names"])), 0, None, {}, True, 0, True)
            detections = result.to_detections()
            found[f"{number}|masks"], found[f"{number}|labels"] = detections.mask, detections.class_id
            found[f"{number}|drawn"] = supervision.MaskAnnotator().annotate(rgb.copy(), detections)
    np.savez_compressed(out, allow_pickle=False, **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
