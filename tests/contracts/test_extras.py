"""A command without the packages that it needs says so in one line, ends with exit code 4 and leaves nothing behind."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.contracts.checkout import LAUNCHERS, ROOT, rooms_environment

HIDE = """
from importlib.machinery import PathFinder
find_spec = PathFinder.find_spec
def find_unless_hidden(name, path=None, target=None):
    return None if name.partition(".")[0] in {hidden!r} else find_spec(name, path, target)
PathFinder.find_spec = find_unless_hidden
"""
EXPORT = (
    "diffusers",
    "jaxtyping",
    "jinja2",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "safetensors",
    "torch",
    "transformers",
)
BENCH = (*EXPORT, "matplotlib", "PIL", "polygraphy", "av")
REFERENCE_COMMANDS = (
    "accuracy", "agreement", "video", "tune", "pictures", "latency", "walk", "cost", "tiles", "experiment parts",
    "train-tiny", "evaluate --dataset voc21 --data .", "reproduce --data .", "true-size bundle",
)  # fmt: skip


def run_without(hidden: tuple[str, ...], *words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command where these packages can be neither found nor imported; `folder` is its working folder."""
    site = folder / ".site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(HIDE.format(hidden=hidden))
    environment = rooms_environment(COLUMNS="80")
    environment["PYTHONPATH"] = f"{site}:{environment['PYTHONPATH']}"
    program, *others = words
    command = [sys.executable, str(LAUNCHERS[program]), *others]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def one_line(ended: subprocess.CompletedProcess[str], folder: Path) -> str:
    """The only line of a refused command that wrote nothing."""
    assert (ended.returncode, ended.stdout) == (4, ""), ended.stderr
    assert [path.name for path in folder.iterdir()] == [".site"]
    (line,) = ended.stderr.splitlines()
    return line


def test_a_package_that_is_hidden_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "look.py").write_text("from importlib.util import find_spec; print(find_spec('numpy'))\nimport numpy")
    site = tmp_path / ".site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(HIDE.format(hidden=("numpy",)))
    environment = rooms_environment(PYTHONPATH=str(site))
    ended = subprocess.run(
        [sys.executable, "look.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.stdout == "None\n"
    assert "No module named 'numpy'" in ended.stderr


@pytest.mark.parametrize("command", REFERENCE_COMMANDS)
def test_a_command_of_the_reference_names_the_extra_bench(command: str, tmp_path: Path) -> None:
    line = one_line(run_without(BENCH, "nerve-bench", *command.split(), folder=tmp_path), tmp_path)
    assert line.startswith(f"error: nerve-bench {command.split()[0]} needs diffusers, ")
    assert "torch" in line
    assert 'run: pip install "nerve-deploy[bench' in line


def test_a_bundle_is_measured_with_the_extra_ort_and_the_reference_alone_without(tmp_path: Path) -> None:
    line = one_line(run_without(("onnxruntime",), "nerve-bench", "accuracy", folder=tmp_path), tmp_path)
    assert line == (
        'error: nerve-bench accuracy needs onnxruntime (not installed); run: pip install "nerve-deploy[ort]"'
    )


def test_a_video_of_the_world_needs_nothing_of_the_extra(tmp_path: Path) -> None:
    words = ("demo-video", "--frames", "2", "--size", "64", "--out", "world.mp4")
    ended = run_without(BENCH, "nerve-bench", *words, folder=tmp_path)
    assert (ended.returncode, (tmp_path / "world.mp4").is_file()) == (0, True), ended.stderr


def test_a_build_without_its_extra_leaves_nothing_behind(tmp_path: Path) -> None:
    line = one_line(run_without(EXPORT, "nerve-build", folder=tmp_path), tmp_path)
    assert line.startswith("error: nerve-build needs diffusers, ")
    assert 'run: pip install "nerve-deploy[export,ort]"' in line


@pytest.mark.parametrize(("program", "extra"), [("nerve-build", "export"), ("nerve-bench", "bench")])
def test_without_a_command_line_library_a_command_says_so(program: str, extra: str, tmp_path: Path) -> None:
    line = one_line(run_without(("rich", "typer"), program, "--help", folder=tmp_path), tmp_path)
    assert line.startswith(f'this command needs rich, typer (not installed); run: pip install "nerve-deploy[{extra}]"')


@pytest.mark.parametrize("words", ["nerve-build --help", "nerve-build parity --help", "nerve-bench accuracy --help"])
def test_help_needs_no_extra_but_that_of_the_command_line(words: str, tmp_path: Path) -> None:
    ended = run_without(BENCH, *words.split(), folder=tmp_path)
    assert (ended.returncode, "Usage" in ended.stdout) == (0, True), ended.stderr


def test_without_the_extra_of_the_page_the_command_starts(tmp_path: Path) -> None:
    ended = run_without(("starlette", "uvicorn", "websockets"), "nerve-segment", "--help", folder=tmp_path)
    assert (ended.returncode, "--web" in ended.stdout) == (0, True), ended.stderr


def test_a_report_of_records_needs_no_torch(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "figures.json").write_bytes((ROOT / "docs" / "figures.json").read_bytes())
    ended = run_without(("torch", "transformers", "matplotlib"), "nerve-bench", "report", folder=tmp_path)
    assert (ended.returncode, ended.stdout) == (0, "out/report.html\n"), ended.stderr
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Made of docs/figures.json" in page
    assert "Not measured: run the command above" in page
