"""The commands of this project, with every argument and option that they have."""

import importlib
from collections.abc import Iterator
from typing import Any

import typer

CLI_MODULES = {
    "nerve-build": "nerve_export.cli.build",
    "nerve-segment": "nerve_stream.cli.segment",
    "nerve-bench": "nerve_bench.cli.main",
    "nerve-vocab": "nerve_stream.cli.vocabulary",
}
# Typer's own, the same everywhere.
UNIVERSAL = {"--help", "--install-completion", "--show-completion"}


def app_of(module_name: str) -> typer.Typer:
    """The one typer.Typer at the top of a module."""
    found = [value for value in vars(importlib.import_module(module_name)).values() if isinstance(value, typer.Typer)]
    assert len(found) == 1, f"{module_name} must define one typer.Typer at its top, found {len(found)}"
    return found[0]


def all_parameters(program: str) -> list[tuple[str, Any]]:
    """Every argument and option of a program, each with the words that lead to its command."""
    return list(_parameters(typer.main.get_command(app_of(CLI_MODULES[program])), program))


def long_options(program: str) -> set[str]:
    """The names of a program's options that begin with two dashes."""
    named = {name for _, parameter in all_parameters(program) for name in (*parameter.opts, *parameter.secondary_opts)}
    return {name for name in named if name.startswith("--")} - UNIVERSAL


def _parameters(command: Any, words: str) -> Iterator[tuple[str, Any]]:
    yield from ((words, parameter) for parameter in command.params)
    for name, child in getattr(command, "commands", {}).items():
        yield from _parameters(child, f"{words} {name}")
