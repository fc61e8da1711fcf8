"""The commands `nerve-segment` and `nerve-vocab`."""

import sys
from importlib import import_module
from importlib.util import find_spec

EXTRA_PACKAGES = ("av", "prometheus_client", "psutil", "rich", "typer")
"""What the extra `stream` installs."""
MISSING_EXTRA_EXIT_CODE = 4


def run_segment() -> None:
    """Entry point of `nerve-segment`."""
    _run("segment")


def run_vocab() -> None:
    """Entry point of `nerve-vocab`."""
    _run("vocabulary")


def _run(command: str) -> None:
    missing = [name for name in EXTRA_PACKAGES if find_spec(name) is None]
    if missing:
        print(  # noqa: T201  # typer may be what is missing
            f'this command needs the extra "stream", {", ".join(missing)} not installed; run: pip install "nerve-deploy[stream]"',
            file=sys.stderr,
        )
        sys.exit(MISSING_EXTRA_EXIT_CODE)
    import_module(f"nerve_stream.cli.{command}").main()
