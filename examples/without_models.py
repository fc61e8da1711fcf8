"""Tests of your own application without models: the fake back end gives lawful results, and faults when asked to.

python examples/without_models.py BUNDLE     (only its manifest and tokenizer are read)
"""

import sys
from pathlib import Path

import numpy as np

from nerve_runtime import ResourceError, Segmenter
from nerve_runtime.backends.fake import FakeBackend, Faults
from nerve_runtime.bundle import load_manifest

BUNDLE = "bundles/tiny"


def worst_day(bundle: str) -> list[str]:
    """What an application has to live with: a frame with NaN scores, and one for which memory runs out."""
    faults = Faults(nan_scores_at=frozenset({1}), errors_at={("walk", 2): MemoryError("out of memory")})
    backend = FakeBackend(load_manifest(Path(bundle)), faults)
    pixels = np.zeros((90, 160, 3), dtype=np.uint8)
    said = []
    with Segmenter.open(bundle, "zebra; sand", backend=backend, cache_dir=None) as segmenter:
        for _ in range(4):
            try:
                result = segmenter.segment(pixels)
            except ResourceError as error:
                said.append(f"memory: {error}")
            else:
                said.append("labels" if result.valid else f"no labels, all are {result.ignore_label}")
    return said


if __name__ == "__main__":
    print("\n".join(worst_day(sys.argv[1] if len(sys.argv) > 1 else BUNDLE)))
