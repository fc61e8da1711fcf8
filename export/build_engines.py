"""Build bundles and engines from this checkout, installed or not; the same as `nerve-build`."""

import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
# First on the path, so that this checkout's code runs even where another version is installed.
sys.path[:0] = [str(CHECKOUT / "export"), str(CHECKOUT / "runtime"), str(CHECKOUT)]

from nerve_export.cli import run_build

if __name__ == "__main__":
    run_build()
