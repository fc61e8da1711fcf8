"""The command `nerve-bench`."""

from nerve_export.cli import start


def run_bench() -> None:
    """Entry point of `nerve-bench`."""
    start("nerve_bench.cli.main", 'pip install "nerve-deploy[bench]"')
