"""`python -m nerve_stream` is `nerve-segment`."""

from nerve_stream.cli import run_segment

if __name__ == "__main__":
    run_segment()
