"""Where `nerve-build` prints what is not a result."""

from rich.console import Console


def stderr_console() -> Console:
    """Standard error: whole lines as they are, without markup or colouring of numbers and paths."""
    return Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
