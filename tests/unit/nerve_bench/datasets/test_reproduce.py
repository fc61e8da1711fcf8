"""All eight benchmarks on small folders: end to end, stopped and gone on, and what is said about those not here."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nerve_bench.cli import data as cli_data
from nerve_bench.datasets import BENCHMARKS
from nerve_bench.datasets.label_files import read_picture
from nerve_bench.datasets.protocol import Choices
from nerve_bench.datasets.reproduce import (
    PUBLISHED,
    Reproduction,
    comparison_rows,
    comparison_table,
    missing_datasets,
    reproduce,
)
from nerve_bench.datasets.runners import ReferenceRunner
from nerve_bench.measure.accuracy import World
from nerve_bench.report.plots_data import draw_reproduce, draw_tiles
from nerve_runtime.errors import SourceError, UsageError
from tests.data.benchmark_folders import class_files, write_ade20k, write_benchmark_folders, write_voc
from tests.unit.nerve_bench.conftest import quietly

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reproduce")
    write_benchmark_folders(folder / "data", pictures=1)
    class_files(folder / "classes")
    return folder


def test_all_eight_benchmarks_run_end_to_end_and_once_done_cost_nothing(
    world: World, folders: Path, tmp_path: Path
) -> None:
    runner = ReferenceRunner(world.models, world.params, "tiny", "packaged")
    plan = Reproduction(folders / "data", tmp_path, Choices(), folders / "classes")
    records = list(reproduce(plan, runner, quietly))
    rated = [record["dataset"] for record in records if record["bench"] == "evaluate"]
    assert rated == list(BENCHMARKS)
    ways = {record["dataset"]: record["protocol"]["resize"] for record in records if record["bench"] == "evaluate"}
    assert {name for name, way in ways.items() if way == "tiles"} == {"cityscapes"}
    ours, *published = (record for record in records if "row" in record)
    assert list(ours["miou"]) == list(BENCHMARKS)
    assert not any(ours["complete"].values())
    assert [row["row"] for row in published] == list(PUBLISHED)
    silent = replace_models(runner)
    assert list(reproduce(plan, silent, quietly)) == records


def replace_models(runner: ReferenceRunner) -> ReferenceRunner:
    """The same runner, whose networks fail at first use."""
    return ReferenceRunner(None, runner.params, runner.preset, runner.weights)  # type: ignore[arg-type]  # none on purpose


def test_published_figures_are_marked_and_stand_under_a_heading_of_their_own() -> None:
    ours = {"row": "this run", "published": False, "miou": {"voc21": 50.04}, "complete": {"voc21": False}}
    records = [ours, {"row": "NERVE", "published": True, "miou": dict(PUBLISHED["NERVE"])}]
    heading, this_run, mark, nerve = comparison_table(records).splitlines()
    assert heading.split() == ["mIoU", "VOC21", "PC60", "Object", "VOC20", "PC59", "Stuff", "City", "ADE"]
    assert this_run.split()[2:] == ["50.0*", *["-"] * 7]
    assert mark.startswith("as published")
    assert nerve.split() == ["NERVE", "69.7", "37.7", "43.3", "90.1", "43.4", "-", "34.1", "24.0"]
    assert max(map(len, (heading, this_run, nerve))) <= 80


def test_published_rows_are_those_of_the_method() -> None:
    assert PUBLISHED["CLIPer L/14, SD 2.1"]["cityscapes"] == 41.6
    assert PUBLISHED["Trident (adds SAM)"]["coco-stuff"] == 28.6
    assert "coco-stuff" not in PUBLISHED["NERVE"]
    assert all(set(figures) <= set(BENCHMARKS) for figures in PUBLISHED.values())


def test_what_is_missing_is_said_and_the_rest_is_run(world: World, folders: Path, tmp_path: Path) -> None:
    write_ade20k(tmp_path / "data", pictures=1)
    runner = ReferenceRunner(world.models, world.params, "tiny", "packaged")
    plan = Reproduction(tmp_path / "data", tmp_path / "out", Choices(), folders / "classes")
    records = list(reproduce(plan, runner, quietly))
    missing = {record["dataset"]: record["missing"] for record in records if "missing" in record}
    assert set(missing) == set(BENCHMARKS) - {"ade20k"} == set(missing_datasets(tmp_path / "data"))
    assert "leftImg8bit_trainvaltest.zip" in missing["cityscapes"]
    assert [record["dataset"] for record in records if record["bench"] == "evaluate"] == ["ade20k"]


def test_with_nothing_here_all_five_downloads_are_named(world: World, tmp_path: Path) -> None:
    runner = ReferenceRunner(world.models, world.params, "tiny", "packaged")
    with pytest.raises(SourceError, match=r"none of the eight benchmarks is in") as caught:
        list(reproduce(Reproduction(tmp_path, tmp_path / "out", Choices()), runner, quietly))
    lines = str(caught.value).splitlines()
    assert len(lines) == 6
    for line, archive in zip(
        lines[1:], ("VOCtrainval_11-May-2012", "VOCtrainval_03-May-2010", "val2017", "leftImg8bit", "ADE"), strict=True
    ):
        assert archive in line
    assert caught.value.exit_code == 5


def test_a_folder_of_class_files_that_is_none_is_refused(world: World, tmp_path: Path) -> None:
    write_voc(tmp_path, pictures=1)
    runner = ReferenceRunner(world.models, world.params, "tiny", "packaged")
    plan = Reproduction(tmp_path, tmp_path / "out", Choices(), tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"--classes-folder .*nowhere is not a folder"):
        list(reproduce(plan, runner, quietly))


def test_the_command_prints_the_classes_as_a_class_file() -> None:
    result = CliRunner().invoke(cli_data.app, ["evaluate", "--dataset", "voc21", "--print-classes"])
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == "aeroplane = aeroplane, airplane, aircraft"
    assert result.stdout.splitlines()[-1].startswith("background = sky, cloud")


def test_the_evaluate_command_writes_its_report_and_says_the_same(folders: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    words = ["--classes-file", str(folders / "classes/ade20k.txt"), "--out", str(out), "--json"]
    result = CliRunner().invoke(
        cli_data.app, ["evaluate", "--dataset", "ade20k", "--data", str(folders / "data"), *words]
    )
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout.splitlines()[-1])
    assert printed == json.loads(out.read_text())
    assert (printed["bench"], printed["n"], printed["runner"]["preset"]) == ("evaluate", 1, "tiny")
    assert out.with_suffix(".state.jsonl").is_file()


@pytest.mark.slow
def test_a_reproduction_killed_midway_goes_on_to_the_same_report(folders: Path, tmp_path: Path) -> None:
    """SIGKILL while the third benchmark runs; the second process finishes what the first began."""
    command = [sys.executable, str(ROOT / "benchmarks/run.py"), "reproduce", "--json"]
    command += ["--data", str(folders / "data"), "--classes-folder", str(folders / "classes")]
    whole = subprocess.run([*command, "--out", str(tmp_path / "whole")], check=True, capture_output=True, timeout=300)
    with subprocess.Popen([*command, "--out", str(tmp_path / "stopped")], stdout=subprocess.DEVNULL) as first:
        deadline = time.monotonic() + 200
        while not (tmp_path / "stopped/coco-object.state.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(first.pid, signal.SIGKILL)
    assert first.returncode == -signal.SIGKILL
    again = subprocess.run([*command, "--out", str(tmp_path / "stopped")], check=True, capture_output=True, timeout=300)
    assert again.stdout == whole.stdout
    reports = [(tmp_path / name / "report.jsonl").read_bytes() for name in ("whole", "stopped")]
    assert reports[0] == reports[1]


@pytest.mark.slow
def test_with_nothing_here_the_command_ends_with_the_code_of_a_source(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks/run.py"), "reproduce", "--data", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert ended.returncode == 5
    assert "Download ADEChallengeData2016.zip" in ended.stderr


def test_pictures_are_drawn_from_records_alone(tmp_path: Path) -> None:
    ours = {"bench": "reproduce", "row": "this run", "published": False, "miou": {"voc21": 50.0}}
    rows = [{**ours, "complete": {"voc21": False}}, *list(comparison_rows([]))[1:]]
    draw_reproduce(rows, tmp_path / "reproduce.png")
    shared = {"bench": "tiles", "width_px": 256, "n": 2}
    ways = [{**shared, "way": way, "miou": 50.0, "interval": [48.0, 52.0]} for way in ("stretch", "joint_tiles")]
    draw_tiles([*ways, {**shared, "way": "joint_tiles", "against": "stretch", "gain": 0.0}], tmp_path / "a/tiles.png")
    for path in (tmp_path / "reproduce.png", tmp_path / "a/tiles.png"):
        assert read_picture(path).std() > 5
