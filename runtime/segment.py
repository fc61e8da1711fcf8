"""Segment videos, pictures or a camera from this checkout, installed or not; the same as `nerve-segment`."""

import sys
from pathlib import Path

# First on the path, so that this checkout's code runs even where another version is installed. The runtime's
# folder alone is enough: it may be copied to a device without the rest.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from nerve_stream.cli import run_segment

if __name__ == "__main__":
    run_segment()
