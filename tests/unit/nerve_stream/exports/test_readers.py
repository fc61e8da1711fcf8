"""Exports and detections read back by the libraries of others, in an environment of their own: `make test-exports`."""

import os
import subprocess
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from nerve_stream.exports import FORMATS, export_sink
from nerve_stream.sources.images import Picture
from tests.contracts.checkout import ROOT
from tests.data.drawn_results import drawn_results

READERS = ROOT / "build" / "readers" / "bin" / "python"


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not READERS.exists(), reason="no build/readers with datumaro and others; make test-exports makes it"
    ),
]


@pytest.mark.parametrize("background", [True, False])
def test_what_others_read_is_the_labels_to_the_pixel(background: bool, tmp_path: Path) -> None:
    results = list(drawn_results(background=background))
    for name in FORMATS:
        with export_sink(name, tmp_path / name) as sink:
            for number, result in enumerate(results):
                rgb = np.zeros((*result.labels.shape, 3), dtype=np.uint8)
                path = Path(f"street {number}.jpg")
                sink.write(rgb, result, Picture(rgb, number, Fraction(0), path=path, stem=path.stem))
    script, masks = ROOT / "tests" / "data" / "read_exports.py", tmp_path / "masks.npz"
    run = subprocess.run([READERS, script, tmp_path, masks], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    read = np.load(masks)
    expected = {
        f"{name}|{number}|{result.class_names[label]}": result.labels == label
        for name in FORMATS
        for number, result in enumerate(results)
        for label in set(np.unique(result.labels).tolist()) - {255} - ({0} if background else set())
    }
    assert set(read.files) == set(expected)
    for key, mask in expected.items():
        np.testing.assert_array_equal(read[key], mask, err_msg=key)


def test_what_supervision_draws_is_each_pixel_that_has_a_label(tmp_path: Path) -> None:
    labels = {str(number): result.labels for number, result in enumerate(drawn_results(background=False))}
    names = next(drawn_results(background=False)).class_names
    np.savez(tmp_path / "results.npz", allow_pickle=False, names=np.array(names), **labels)
    script = ROOT / "tests" / "data" / "read_detections.py"
    words = [READERS, script, tmp_path / "results.npz", tmp_path / "read.npz"]
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT / "runtime")}
    run = subprocess.run(words, capture_output=True, text=True, check=False, env=surroundings)
    assert run.returncode == 0, run.stderr
    read = np.load(tmp_path / "read.npz")
    for number, expected in labels.items():
        assert set(read[f"{number}|labels"].tolist()) == set(np.unique(expected).tolist()) - {255}
        for mask, label in zip(read[f"{number}|masks"], read[f"{number}|labels"], strict=True):
            np.testing.assert_array_equal(mask, expected == label)
        np.testing.assert_array_equal((read[f"{number}|drawn"] != 128).any(axis=-1), expected != 255)
