"""Names that the locale cannot decode: they reach JSON, files and the terminal as what they are, or in another form."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.contracts.checkout import rooms_environment
from tests.data.clips import write_clip

NAME = "möwe-鳥.mp4"
LATIN_1 = os.fsdecode(b"m\xf6we.mp4")  # no UTF-8 at all


def run(*words: object, **environment: str) -> subprocess.CompletedProcess[bytes]:
    env = rooms_environment(LANG="C", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", **environment)
    command: list[str | bytes] = [sys.executable, *map(os.fsencode, map(str, words))]
    return subprocess.run(command, env=env, capture_output=True, check=False, timeout=120)


def segment(bundle: Path, cache: Path, *words: object) -> subprocess.CompletedProcess[bytes]:
    common = ("--bundle", bundle, "--backend", "fake", "--classes", "red; grass")
    return run("-m", "nerve_stream", *words, *common, XDG_CACHE_HOME=str(cache))


@pytest.mark.parametrize(("name", "shown"), [(NAME, NAME), (LATIN_1, "m\ufffdwe.mp4")])
def test_a_source_of_any_name_is_segmented_in_a_locale_of_plain_letters(
    name: str, shown: str, bundle: Path, tmp_path: Path
) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 2).rename(tmp_path / name)
    out = tmp_path / "öut"
    words = (clip, "--jsonl", out / "l.jsonl", "--masks", out / "m", "--overlay", out / "o.mp4")
    ended = segment(bundle, tmp_path, *words, "--status-json", out / "s.json", "--json")
    assert ended.returncode == 0, ended.stderr
    assert [json.loads(line)["source"] for line in (out / "l.jsonl").read_text("utf-8").splitlines()] == [shown] * 2
    assert json.loads((out / "s.json").read_text("utf-8"))["sources"]
    *artefacts, summary = [json.loads(line) for line in ended.stdout.decode("utf-8").splitlines()]
    assert summary["summary"] == shown
    assert {Path(artefact["path"]).parent.name for artefact in artefacts} == {"öut"}


@pytest.mark.parametrize("suffix", [".tif", ".webp", ".png"])
def test_a_picture_of_any_name_is_read_in_a_locale_of_plain_letters(suffix: str, bundle: Path, tmp_path: Path) -> None:
    written, encoded = cv2.imencode(suffix, np.zeros((8, 8, 3), dtype=np.uint8))
    assert written
    (tmp_path / f"möwe{suffix}").write_bytes(encoded.tobytes())
    ended = segment(bundle, tmp_path, tmp_path / f"möwe{suffix}", "--jsonl", tmp_path / "l.jsonl")
    assert ended.returncode == 0, ended.stderr


def test_lines_on_a_stdout_of_plain_letters_are_sound_json(bundle: Path, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 1).rename(tmp_path / NAME)
    ended = segment(bundle, tmp_path, clip, "--jsonl", "-")
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout.decode("ascii"))["source"] == NAME


def test_an_error_with_such_a_name_is_one_line(bundle: Path, tmp_path: Path) -> None:
    ended = segment(bundle, tmp_path, tmp_path / f"missing-{NAME}")
    assert ended.returncode == 5
    assert b"Traceback" not in ended.stderr
    assert b"does not exist; expected a video" in ended.stderr


def test_class_names_are_those_that_were_typed(bundle: Path, tmp_path: Path) -> None:
    words = ("--classes", "red; grün", "--bundle", bundle, "--backend", "fake")
    ended = run("-m", "nerve_stream.cli.vocabulary", tmp_path / "v.safetensors", *words, XDG_CACHE_HOME=str(tmp_path))
    assert (ended.returncode, ended.stdout) == (2, b"")
    assert b"is not known to this bundle" in ended.stderr


WRITE_AND_READ = """
import sys
from pathlib import Path
import numpy as np
from nerve_bench.datasets.label_files import read_picture
from nerve_bench.world.clips import moving_scene, write_video
from nerve_bench.world.grids import write_png
path = Path(sys.argv[1])
assert write_video(iter(list(moving_scene(0, frames=2))), str(path.with_suffix(".mp4")), 10) == 2
print(read_picture(write_png(np.full((2, 3, 3), 7, dtype=np.uint8), path)).tolist())
"""


def test_opencv_writes_and_reads_files_of_such_names(tmp_path: Path) -> None:
    ended = run("-c", WRITE_AND_READ, tmp_path / "möwe.png")
    assert (ended.returncode, ended.stdout.strip()) == (0, str([[[7] * 3] * 3] * 2).encode()), ended.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"möwe.png", "möwe.mp4"}


@pytest.mark.parametrize("program", ["export/build_engines.py", "benchmarks/run.py"])
def test_the_other_commands_say_such_names_too(program: str, tmp_path: Path) -> None:
    words = ("parity", tmp_path / "bü") if "build" in program else ("memory", tmp_path / "bü", "--json")
    ended = run(program, *words)
    assert ended.returncode == 3, ended.stderr
    assert b"Traceback" not in ended.stderr
