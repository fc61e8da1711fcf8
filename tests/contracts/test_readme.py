"""The README is true: its commands run and print what it shows, and it names every option of every command."""

import os
import re
import sys
from pathlib import Path

import pytest

from tests.contracts.checkout import LAUNCHERS, ROOMS, ROOT, run
from tests.contracts.readme_blocks import Command, blocks, commands, make_targets, matches

README = ROOT / "README.md"
SHELL_LANGUAGES = {"bash", "sh", "shell", "zsh"}


def _readme() -> str:
    return README.read_text(encoding="utf-8") if README.exists() else ""


def _tested() -> list[Command]:
    return [command for command in commands(_readme()) if command.not_tested is None]


def _make_targets_of_the_makefile() -> set[str]:
    return set(re.findall(r"(?m)^([a-z][a-z-]*):", (ROOT / "Makefile").read_text()))


@pytest.fixture(scope="session")
def shell_env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which our commands are this checkout's, whether or not it is installed."""
    folder = tmp_path_factory.mktemp("bin")
    starts = {name: f'"{path}"' for name, path in LAUNCHERS.items()}
    starts["nerve-vocab"] = '-c "from nerve_stream.cli.vocabulary import main; main()"'
    starts["python"] = ""
    for name, start in starts.items():
        script = folder / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {start} "$@"\n')
        script.chmod(0o755)
    rooms = os.pathsep.join(map(str, ROOMS))
    return {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": rooms, "COLUMNS": "120"}


def test_there_is_a_readme_with_commands() -> None:
    assert commands(_readme()), "README.md is missing or has no ```console block"


def test_every_command_stands_in_a_block_that_is_tested() -> None:
    untested = [block.line for block in blocks(_readme()) if block.language in SHELL_LANGUAGES]
    assert not untested, f"README.md, lines {untested}: write commands in ```console blocks, after '$ '"


@pytest.mark.parametrize(
    "command", [c for c in _tested() if make_targets(c.text) is not None], ids=lambda command: command.text
)
def test_a_make_command_of_the_readme_names_a_target(command: Command) -> None:
    assert set(make_targets(command.text) or ()) <= _make_targets_of_the_makefile()


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [c for c in _tested() if make_targets(c.text) is None], ids=lambda command: command.text
)
def test_a_command_of_the_readme_prints_what_it_shows(command: Command, shell_env: dict[str, str]) -> None:
    ended = run("bash", "-c", command.text, cwd=ROOT, env=shell_env)
    assert ended.returncode == 0, (
        f"README.md, line {command.line}: exit {ended.returncode}\n{ended.stdout}{ended.stderr}"
    )
    assert matches(ended.stdout, command.output), f"README.md, line {command.line} printed:\n{ended.stdout}"


def test_the_entry_for_machines_names_targets_of_the_makefile() -> None:
    named = re.findall(r"(?m)^make ([a-z-]+)$", Path(ROOT / ".ci" / "run").read_text())
    assert named == ["test", "test-slow"]
    assert set(named) <= _make_targets_of_the_makefile()
