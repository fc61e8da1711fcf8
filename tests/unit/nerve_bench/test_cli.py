"""With --json a command prints JSON lines and nothing else; a refusal is one line and its exit code."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from nerve_bench.cli import main as cli
from nerve_bench.experiments import tune
from nerve_bench.experiments.tune import grid
from nerve_runtime.errors import UsageError

Lines = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def json_lines() -> Lines:
    """Run a command with --json and parse every line of its stdout."""

    def run(*words: str) -> list[dict[str, Any]]:
        ended = CliRunner().invoke(cli.app, [*words, "--json"], catch_exceptions=False)
        assert ended.exit_code == 0
        lines = [json.loads(line) for line in ended.stdout.splitlines()]
        assert all(isinstance(line, dict) and line["bench"] for line in lines)
        return lines

    return run


def test_accuracy_prints_a_line_per_variant(json_lines: Lines) -> None:
    lines = json_lines("accuracy", "--limit", "1", "--reference-only")
    expected = ["clip_only", "local", "global_mean", "global_entropy", "nerve", "nerve", "oracle"]
    assert [line["variant"] for line in lines] == expected
    assert [line["readout"] for line in lines if line["variant"] == "nerve"] == ["bilinear", "guided"]
    assert all(
        {"bench", "variant", "readout", "runner", "miou", "pixel_accuracy", "scenes"} <= set(line) for line in lines
    )


def test_an_offset_chooses_other_scenes(json_lines: Lines) -> None:
    first = json_lines("accuracy", "--limit", "1", "--reference-only")
    other = json_lines("accuracy", "--limit", "1", "--reference-only", "--seed-offset", "1")
    validation = json_lines("accuracy", "--limit", "1", "--reference-only", "--split", "validation")
    oracles = [lines[-1]["class_iou"] for lines in (first, other, validation)]
    assert oracles[0] != oracles[1]
    assert oracles[0] != oracles[2]


@pytest.mark.onnx
def test_agreement_prints_a_line_cold_and_a_line_warm(json_lines: Lines, bundle: Path) -> None:
    lines = json_lines("agreement", "--limit", "3", "--bundle", str(bundle), "--keyframe-every", "2")
    assert [line["mode"] for line in lines] == ["cold", "warm"]
    assert min(line["worst_frame_percent"] for line in lines) >= 99.5


def test_tune_prints_its_bounds_and_a_line_per_setting(json_lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tune.SWEEPS, "walk", grid(alpha=[0.5, 0.9]))
    lines = json_lines("tune", "--limit", "1")
    assert [line["setting"] for line in lines[:2]] == ["clip_only", "oracle"]
    assert sorted(line["setting"]["alpha"] for line in lines[2:]) == [0.5, 0.9]


def test_demo_video_prints_its_path_and_number_of_frames(json_lines: Lines, tmp_path: Path) -> None:
    out = tmp_path / "new" / "world.mp4"
    (line,) = json_lines("demo-video", "--frames", "3", "--size", "64", "--out", str(out))
    assert (line["path"], line["frames"]) == (str(out), 3)
    assert out.stat().st_size > 0


@pytest.mark.slow
def test_pictures_prints_the_files_that_it_wrote(json_lines: Lines, tmp_path: Path) -> None:
    lines = json_lines("pictures", "--limit", "1", "--out", str(tmp_path))
    assert {Path(line["path"]) for line in lines} == set(tmp_path.rglob("*.png"))
    assert all(np.fromfile(line["path"], np.uint8, 4).tobytes() == b"\x89PNG" for line in lines)


@pytest.mark.slow
@pytest.mark.onnx
def test_latency_prints_a_header_and_a_line_per_stage(
    json_lines: Lines, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without compiling, which the shape checks of these tests forbid."""
    monkeypatch.setattr("torch.compile", lambda function, dynamic: function)
    chosen = ("--runners", "reference_compile,bundle_ort", "--bundle", str(bundle))
    header, *lines = json_lines("latency", "--limit", "8", "--warm-up", "1", "--threads", "1", *chosen)
    assert header["bench"] == "header"
    assert {line["runner"] for line in lines} == {"reference_eager", "reference_compile", "bundle_ort"}
    keys = {"bench", "runner", "stage", "p50_ms", "p90_ms", "p99_ms", "fps", "ratio_to_eager"}
    assert all(keys <= set(line) for line in lines)


def test_without_json_a_table_is_printed() -> None:
    ended = CliRunner().invoke(cli.app, ["accuracy", "--limit", "1", "--reference-only"], catch_exceptions=False)
    assert "variant" in ended.stdout
    assert "oracle" in ended.stdout
    assert "{" not in ended.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("accuracy", "--preset", "huge"), "--preset is 'huge', expected tiny"),
        (("accuracy", "--split", "train"), "--split is 'train', expected test or validation"),
        (("train-tiny", "--part", "vae"), "--part is 'vae', expected clip or diffusion"),
        (("tune", "--part", "all"), "--part is 'all', expected one of: layers, heads, local, walk"),
        (("train-tiny", "--device", "tpu"), "--device is 'tpu', expected auto, cpu or cuda"),
    ],
)
def test_a_word_that_makes_no_sense_is_refused(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        CliRunner().invoke(cli.app, [*words], catch_exceptions=False)


def test_a_refusal_is_one_line_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["nerve-bench", "train-tiny", "--device", "tpu"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: --device is 'tpu', expected auto, cpu or cuda\n"
