"""The command `nerve-build`."""

import sys
from importlib import import_module
from importlib.util import find_spec

COMMAND_LINE_PACKAGES = ("rich", "typer")
MISSING_EXTRA_EXIT_CODE = 4
INSTALL = 'pip install "nerve-deploy[export]" to build here; "nerve-deploy[stream]" is enough for doctor and engines'


def run_build() -> None:
    """Entry point of `nerve-build`."""
    start("nerve_export.cli.build", INSTALL)


def start(module: str, install: str) -> None:
    """Run a module's `main`, unless what its command line is made of is missing; this file imports none of it.

    Args:
        module: the module's name.
        install: what to run where something is missing.
    """
    missing = [name for name in COMMAND_LINE_PACKAGES if find_spec(name) is None]
    if missing:
        names = ", ".join(missing)
        print(f"this command needs {names} (not installed); run: {install}", file=sys.stderr)  # noqa: T201  # typer is missing
        sys.exit(MISSING_EXTRA_EXIT_CODE)
    import_module(module).main()
