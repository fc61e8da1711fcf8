"""README and docs are true: their commands print what they show, their code runs, and what is not run says why."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contracts.checkout import LAUNCHERS, ROOMS, ROOT, rooms_environment, run
from tests.contracts.documents import DOCUMENTS, name_of
from tests.contracts.readme_blocks import Block, Command, blocks, commands, make_targets, matches

README = ROOT / "README.md"
SHELL_LANGUAGES = {"bash", "sh", "shell", "zsh"}
RUN_HERE = {"console", "python"}
NO_CODE = {"", "text", "json"}
INCLUDED = re.compile(r'--8<-- "(examples/\w+\.py)"')
MASK = ROOT / "out" / "demo" / "masks" / "frame_000000.png"
VIDEO = ROOT / "out" / "demo" / "world.mp4"


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _tested(*, make: bool) -> list[tuple[Path, Command]]:
    """The commands that are to be run, each once, with the document where it stands first."""
    found: dict[str, tuple[Path, Command]] = {}
    for path in DOCUMENTS:
        for command in commands(_text(path)):
            if command.not_tested is None and (make_targets(command.text) is not None) == make:
                found.setdefault(f"{command.text}\n{command.output}", (path, command))
    return list(found.values())


def _python_blocks() -> list[tuple[Path, Block]]:
    """The Python code that is to be run, without what is included from examples/, which has tests of its own."""
    every = [(path, block) for path in DOCUMENTS for block in blocks(_text(path)) if block.language == "python"]
    return [(path, block) for path, block in every if block.not_tested is None and not _included(block)]


def _included(block: Block) -> str | None:
    """The file that a block is, where it holds an inclusion and nothing else."""
    match = INCLUDED.fullmatch("\n".join(block.lines).strip())
    return match and match[1]


def _untold(path: Path) -> list[int]:
    """The lines of code blocks of a document that are neither run nor say why not."""
    found = [block for block in blocks(_text(path)) if block.language not in RUN_HERE | NO_CODE]
    return [block.line for block in found if block.not_tested is None]


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


@pytest.fixture(scope="session")
def demo_outputs() -> None:
    """What `make demo` leaves behind and code of the documents reads."""
    if not VIDEO.is_file():
        ended = run(sys.executable, LAUNCHERS["nerve-bench"], "demo-video", "--out", VIDEO, cwd=ROOT)
        assert ended.returncode == 0, ended.stderr
    if not MASK.is_file():
        words = ("--classes", "sand; water", "--limit", "1", "--force", "--masks", MASK.parent)
        ended = run(sys.executable, LAUNCHERS["nerve-segment"], VIDEO, *words, cwd=ROOT)
        assert ended.returncode == 0, ended.stderr


def test_there_is_a_readme_with_commands() -> None:
    assert commands(_text(README)), "README.md has no ```console block"


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_every_command_stands_in_a_block_that_is_tested(path: Path) -> None:
    untested = [block.line for block in blocks(_text(path)) if block.language in SHELL_LANGUAGES]
    assert not untested, f"{name_of(path)}, lines {untested}: write commands in ```console blocks, after '$ '"


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_code_that_is_not_run_says_why(path: Path) -> None:
    untold = _untold(path)
    assert not untold, f"{name_of(path)}, lines {untold}: put <!-- not tested: REASON --> before the block"


def test_a_block_without_a_reason_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```c\nint x;\n```\n\n<!-- not tested: compiled elsewhere -->\n```c\nint y;\n```\n")
    assert _untold(page) == [1]


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_a_file_that_a_document_includes_exists(path: Path) -> None:
    text = _text(path)
    assert text.count("--8<--") == len(INCLUDED.findall(text))
    assert [name for name in INCLUDED.findall(text) if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize(
    ("path", "command"), _tested(make=True), ids=[command.text for _, command in _tested(make=True)]
)
def test_a_make_command_of_the_documents_names_a_target(path: Path, command: Command) -> None:
    targets = set(make_targets(command.text) or ())
    assert targets <= _make_targets_of_the_makefile(), f"{name_of(path)}, line {command.line}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "command"), _tested(make=False), ids=[command.text for _, command in _tested(make=False)]
)
def test_a_command_of_the_documents_prints_what_it_shows(
    path: Path, command: Command, shell_env: dict[str, str], demo_outputs: None
) -> None:
    where = f"{name_of(path)}, line {command.line}"
    ended = run("bash", "-c", command.text, cwd=ROOT, env=shell_env)
    assert ended.returncode == 0, f"{where}: exit {ended.returncode}\n{ended.stdout}{ended.stderr}"
    assert matches(ended.stdout, command.output), f"{where} printed:\n{ended.stdout}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "block"), _python_blocks(), ids=[f"{name_of(path)}:{block.line}" for path, block in _python_blocks()]
)
def test_code_of_the_documents_runs(path: Path, block: Block, demo_outputs: None) -> None:
    (ROOT / "out").mkdir(exist_ok=True)
    command = [sys.executable, "-c", "\n".join(block.lines)]
    ended = subprocess.run(
        command, cwd=ROOT, env=rooms_environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, f"{name_of(path)}, line {block.line}:\n{ended.stdout}{ended.stderr}"


def test_the_entry_for_machines_names_targets_of_the_makefile() -> None:
    named = re.findall(r"(?m)^make ([a-z-]+)$", Path(ROOT / ".ci" / "run").read_text())
    assert named == ["test", "test-slow"]
    assert set(named) <= _make_targets_of_the_makefile()
