"""Measure, train and draw from this checkout, installed or not; the same as `nerve-bench`."""

import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
ROOMS = (CHECKOUT / "benchmarks", CHECKOUT / "export", CHECKOUT / "runtime", CHECKOUT)
# First on the path, so that this checkout's code runs even where another version is installed.
sys.path[:0] = [str(room) for room in ROOMS]

from nerve_bench.cli import run_bench

if __name__ == "__main__":
    run_bench()
