"""The Dockerfiles: linted, and true about this repository. No engine builds them here."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.contracts.checkout import ROOT, files_for_git
from tests.deploy.tools import DOCKER, program, run

DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))
SECRET = re.compile(r"token|password|passwd|secret|api_?key", re.IGNORECASE)

each = pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)


def _instructions(text: str) -> list[tuple[str, str]]:
    """Every instruction with its arguments on one line, comments left out."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", " ", lines)
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in joined.splitlines() if line.strip()]


def _copied(path: Path) -> list[str]:
    """What a Dockerfile copies from the repository."""
    copies = [words for name, words in _instructions(path.read_text()) if name == "COPY" and "--from=" not in words]
    return [source for words in copies for source in words.split()[:-1]]


def _arguments(path: Path, instruction: str) -> list[str]:
    return [words for name, words in _instructions(path.read_text()) if name == instruction]


def test_there_are_four_and_the_readme_knows_them() -> None:
    readme = (DOCKER / "README.md").read_text()
    assert len(DOCKERFILES) == 4
    for path in DOCKERFILES:
        assert f"docker build -f docker/{path.name}" in readme
        (base,) = [words.removeprefix("BASE=") for words in _arguments(path, "ARG") if words.startswith("BASE=")]
        assert f"| `{path.name}` |" in readme
        assert f"`{base}`" in readme
    assert "none of them has been built or run" in readme


@each
def test_what_is_copied_is_in_the_repository_and_not_ignored(path: Path) -> None:
    tracked = {file.relative_to(ROOT).as_posix() for file in files_for_git()}
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    sources = _copied(path)
    assert sources
    for source in sources:
        assert any(file == source or file.startswith(f"{source}/") for file in tracked), source
        assert source.split("/")[0] in allowed, source


@each
def test_the_pins_that_are_named_exist(path: Path) -> None:
    text = path.read_text()
    named = set(re.findall(r"requirements/[\w-]+\.txt", text))
    assert named
    assert [name for name in named if not (ROOT / name).is_file()] == []
    # What is copied to /pins is what is installed from there.
    assert {Path(name).name for name in named} >= set(re.findall(r"/pins/([\w-]+\.txt)", text)) - {"gpu.txt"}
    assert re.findall(r"nerve-deploy\[", text) == []


@each
def test_bases_have_tags_and_the_last_user_is_a_number_but_not_root(path: Path) -> None:
    bases = [words.partition("=")[2] for words in _arguments(path, "ARG") if "BASE=" in words]
    assert bases
    for base in bases:
        assert re.fullmatch(r"[\w./-]+:[\w.-]+", base), base
        assert not base.endswith(":latest")
    assert all(words.startswith("${") for words in _arguments(path, "FROM"))
    user = _arguments(path, "USER")[-1]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), user


@each
def test_there_is_a_health_check_and_no_secret_and_no_cache(path: Path) -> None:
    text = path.read_text()
    assert len(_arguments(path, "HEALTHCHECK")) == 1
    assert [words for words in (*_arguments(path, "ARG"), *_arguments(path, "ENV")) if SECRET.search(words)] == []
    for command in re.findall(r"pip (?:install|wheel) [^&\n]*", text):
        assert "--no-cache-dir" in command, command
    assert text.count("apt-get update") == text.count("rm -rf /var/lib/apt/lists/*")
    assert "ADD " not in text


@each
def test_every_command_is_one_that_a_shell_reads(path: Path) -> None:
    for words in _arguments(path, "RUN"):
        ended = subprocess.run(["bash", "-n"], input=words, text=True, capture_output=True, check=False)
        assert (ended.returncode, ended.stderr) == (0, ""), words


@pytest.mark.slow
@each
def test_the_linter_finds_nothing(path: Path) -> None:
    ended = run(program("hadolint"), "--no-color", path)
    assert (ended.returncode, ended.stdout) == (0, "")


@pytest.mark.slow
def test_the_linter_finds_what_is_bad(tmp_path: Path) -> None:
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM ubuntu:latest\nRUN cd /x && echo $1\nUSER root\n")
    ended = run(program("hadolint"), "--no-color", bad)
    assert ended.returncode == 1
    assert {"DL3007", "DL3002", "SC2086"} <= set(re.findall(r"[DS][LC]\d{4}", ended.stdout))


@pytest.mark.slow
@each
def test_the_wheel_is_built_of_what_is_copied_alone(path: Path, tmp_path: Path) -> None:
    files = [file.relative_to(ROOT) for file in files_for_git()]
    for source in _copied(path):
        for file in files:
            if file.as_posix() == source or file.as_posix().startswith(f"{source}/"):
                (tmp_path / "source" / file).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / "source" / file).write_bytes((ROOT / file).read_bytes())
    words = ("-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), ".")
    ended = run(program("python"), *words, cwd=tmp_path / "source")
    assert ended.returncode == 0, ended.stdout
    (wheel,) = tmp_path.glob("nerve_deploy-*.whl")
    ended = run(program("python"), "-m", "zipfile", "-l", wheel)
    for module in (
        "nerve_runtime/segmenter.py",
        "nerve_stream/cli/run.py",
        "nerve_export/cli/build.py",
        "nerve_ref/walk.py",
    ):
        assert module in ended.stdout
