"""Every command starts anywhere, explains each of its options, and README or docs know them all."""

import importlib
import re
import shutil
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import nerve_runtime
from tests.contracts.checkout import LAUNCHERS, ROOT, run_python, settings
from tests.contracts.documents import all_texts
from tests.contracts.programs import CLI_MODULES, all_parameters, app_of, long_options


@pytest.mark.parametrize("program", LAUNCHERS)
def test_a_launcher_shows_its_help_from_any_folder(program: str, tmp_path: Path) -> None:
    ended = run_python(LAUNCHERS[program], "--help", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "Usage" in ended.stdout


def test_the_runtime_room_starts_alone(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "runtime", tmp_path / "runtime", ignore=shutil.ignore_patterns("__pycache__", "native"))
    ended = run_python("-I", tmp_path / "runtime" / "segment.py", "--help", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "Usage" in ended.stdout


def test_the_installed_commands_are_these() -> None:
    scripts = settings()["project"]["scripts"]
    # They say which extra is missing before they import what it installs.
    assert scripts == {
        "nerve-build": "nerve_export.cli:run_build",
        "nerve-bench": "nerve_bench.cli:run_bench",
        "nerve-segment": "nerve_stream.cli:run_segment",
        "nerve-vocab": "nerve_stream.cli:run_vocab",
    }


@pytest.mark.parametrize("program", CLI_MODULES)
def test_every_installed_command_has_a_main(program: str) -> None:
    assert callable(importlib.import_module(CLI_MODULES[program]).main)


@pytest.mark.parametrize("program", CLI_MODULES)
def test_every_argument_and_option_has_help(program: str) -> None:
    named = [(f"{words} {parameter.name}", parameter.help) for words, parameter in all_parameters(program)]
    assert [name for name, help_text in named if not help_text] == []


@pytest.mark.parametrize("program", CLI_MODULES)
def test_every_option_is_explained_on_a_page(program: str) -> None:
    text = all_texts()
    absent = [name for name in long_options(program) if not re.search(rf"{name}(?![\w-])", text)]
    assert not absent, f"neither README.md nor a page of docs/ mentions {program} {' '.join(sorted(absent))}"


@pytest.mark.parametrize("program", CLI_MODULES)
def test_every_command_says_its_version(program: str) -> None:
    app = app_of(CLI_MODULES[program])
    ended = CliRunner().invoke(app, ["--version"])
    assert (ended.exit_code, ended.stdout) == (0, f"nerve-deploy {nerve_runtime.__version__}\n")


def test_the_version_is_that_of_the_installation_or_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert nerve_runtime.__version__ == "source"
    installed = tmp_path / "nerve_deploy-9.8.7.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: nerve-deploy\nVersion: 9.8.7\n")
    assert nerve_runtime.__version__ == "9.8.7"


@pytest.mark.parametrize("program", ["nerve-build", "nerve-bench"])
def test_the_list_of_commands_is_not_cut_at_80_columns(program: str) -> None:
    app = app_of(CLI_MODULES[program])
    ended = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"})
    assert max(map(len, ended.stdout.splitlines())) <= 80
    text = re.sub(r"[│|\s]+", " ", ended.stdout)
    commands = getattr(typer.main.get_command(app), "commands", {})
    summaries = {name: " ".join(str(command.help).split("\n\n")[0].split()) for name, command in commands.items()}
    assert len(summaries) > 3
    assert {name: said for name, said in summaries.items() if f"{name} {said}" not in text} == {}


@pytest.mark.parametrize(
    ("words", "groups"),
    [
        ("nerve-build", ("What is built", "Precision", "Weights")),
        ("nerve-bench", ("Accuracy on the tiny world", "Cost and speed", "Benchmarks of the field", "Reports")),
        ("nerve-bench evaluate", ("Protocol", "Weights of the reference")),
    ],
)
def test_help_is_in_groups(words: str, groups: tuple[str, ...]) -> None:
    program, *command = words.split()
    ended = CliRunner().invoke(app_of(CLI_MODULES[program]), [*command, "--help"], env={"COLUMNS": "80"})
    assert [group for group in groups if f"─ {group} ─" not in ended.stdout] == []
