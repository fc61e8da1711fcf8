"""Several worker processes: what dies is started again, what is fatal ends the job, and the command says it all."""

import json
import os
import signal
import tempfile
import threading
from functools import partial
from pathlib import Path

import psutil
import pytest

from nerve_runtime.errors import ResourceError
from nerve_stream.cli.scaleout import HOPELESS
from nerve_stream.scaleout.job import Outcome, split_into_chunks
from nerve_stream.scaleout.processes import run_on_processes
from tests.data.clips import write_clip
from tests.data.job_inputs import (
    KILLER_RED,
    DyingSegmenter,
    job_for,
    never_opens,
    reads_what_hangs,
    write_broken,
    write_picture,
    write_tree,
)
from tests.data.running_command import RunningCommand, everything_below, json_lines, segment, words_of
from tests.data.stream_doubles import DoubleSegmenter


def _outcomes(job_and_inputs: tuple, workers: int = 2) -> dict[str, Outcome]:  # type: ignore[type-arg]
    job, inputs = job_and_inputs
    chunks = split_into_chunks(inputs, 1)
    outcomes = list(run_on_processes(job, chunks, workers, threading.Event()))
    assert sorted(outcome.source for outcome in outcomes) == sorted(item.source for item in inputs)
    return {Path(outcome.source).name: outcome for outcome in outcomes}


def test_row_58_an_input_that_kills_its_worker_twice_fails_by_name_and_the_rest_of_its_chunk_is_done(
    tmp_path: Path,
) -> None:
    for name in ("a", "b", "killer", "y", "z"):
        write_picture(tmp_path / "in" / f"{name}.png", KILLER_RED if name == "killer" else 40)
    outcomes = _outcomes(job_for(tmp_path / "in", tmp_path / "out", DyingSegmenter), workers=1)
    killer = outcomes.pop("killer.png")
    assert (killer.status, killer.exit_code) == ("failed", 8)
    assert "killer.png ended its worker process twice" in str(killer.error)
    assert {outcome.status for outcome in outcomes.values()} == {"done"}
    assert sorted(path.name for path in (tmp_path / "out" / "lines").iterdir()) == [f"{n}.jsonl" for n in "abyz"]


def test_temporary_folders_of_workers_that_were_killed_are_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    (tmp_path / "temporary").mkdir()
    job, inputs = job_for(write_picture(tmp_path / "in" / "killer.png", KILLER_RED), tmp_path / "out", DyingSegmenter)
    assert _outcomes((job, inputs), workers=1)["killer.png"].killed
    assert list((tmp_path / "temporary").iterdir()) == []


def test_row_57_a_worker_that_is_killed_while_it_works_is_replaced(tmp_path: Path) -> None:
    for number in range(4):
        write_picture(tmp_path / "in" / f"{number}.png")
    slow = partial(DoubleSegmenter, encode_s=0.3)
    job, inputs = job_for(tmp_path / "in", tmp_path / "out", slow)
    others = set(psutil.Process().children())  # of tests that ran before, such as the tracker of shared memory
    outcomes = run_on_processes(job, [inputs], 1, threading.Event())
    first = next(outcomes)
    (child,) = set(psutil.Process().children()) - others
    os.kill(child.pid, signal.SIGKILL)
    assert [first.status, *(outcome.status for outcome in outcomes)] == ["done"] * 4


def test_row_29_a_file_whose_decoder_hangs_fails_by_name_and_the_rest_of_its_chunk_is_done(tmp_path: Path) -> None:
    (tmp_path / "a.hang").write_bytes(b"x")
    job, (hangs,) = job_for(tmp_path / "a.hang", tmp_path / "out", reads_what_hangs, open_limit_s=1.0)
    _, (picture,) = job_for(write_picture(tmp_path / "b.png"), tmp_path / "out")
    first, second = run_on_processes(job, [[hangs, picture]], 1, threading.Event())
    assert (first.status, first.exit_code, second.status) == ("failed", 8, "done")
    assert "a.hang took longer than 1 s to open; it or its disk hangs" in str(first.error)


def test_a_segmenter_that_kills_every_worker_ends_in_failures_by_name(tmp_path: Path) -> None:
    job, inputs = job_for(write_picture(tmp_path / "a.png"), tmp_path / "out", never_opens)
    (outcome,) = run_on_processes(job, [inputs], 1, threading.Event())
    assert (outcome.status, outcome.killed) == ("failed", True)


def test_workers_that_die_before_they_begin_end_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nerve_stream.scaleout.processes.TARGET", "tests.data.child_targets:exit_with_7")
    job, inputs = job_for(write_picture(tmp_path / "a.png"), tmp_path / "out")
    with pytest.raises(
        ResourceError, match=r"3 worker processes in a row ended .* ended with exit code 7; .* fewer --workers"
    ):
        list(run_on_processes(job, [inputs], 1, threading.Event()))


def test_a_job_is_the_same_by_processes_and_by_the_plain_loop(bundle: Path, tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "in")
    outputs = [word for kind in ("masks", "overlay", "jsonl") for word in (f"--{kind}", f"{{out}}/{kind}")]
    plain = segment(
        bundle, tree / "**" / "*", *(word.format(out=tmp_path / "plain") for word in outputs), "--reproducible"
    )
    assert plain.exit_code == 0, plain.output
    job = segment(bundle, tree, *(word.format(out=tmp_path / "job") for word in outputs), "--workers", 2)
    assert job.exit_code == 0, job.output
    assert _contents(tmp_path / "job") == _contents(tmp_path / "plain")
    assert "plan: 5 inputs (2 videos, 3 pictures) in " in job.stderr
    assert "5 inputs: 5 done, 0 skipped, 0 failed in " in job.stderr
    assert len(job.stdout.splitlines()) == 15


def _contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and ".nerve-job" not in path.parts]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_failed_inputs_are_named_and_counted_everywhere(bundle: Path, tmp_path: Path) -> None:
    broken = write_broken(write_tree(tmp_path / "in") / "broken")
    report = tmp_path / "report.json"
    words = (tmp_path / "in", "--jsonl", tmp_path / "lines", "--workers", 2, "--report", report, "--json")
    ended = segment(bundle, *words)
    assert ended.exit_code == 5
    *records, job = map(json.loads, ended.stdout.splitlines())
    assert {name: job["job"][name] for name in ("inputs", "done", "skipped", "failed", "stopped")} == {
        "inputs": 10, "done": 5, "skipped": 0, "failed": 5, "stopped": 0,
    }  # fmt: skip
    failed = {record["source"] for record in records if record["status"] == "failed"}
    assert failed == set(map(str, broken))
    assert all(f"   5  {path}: " in ended.stderr for path in broken)
    told = json.loads(report.read_text())
    assert {result["source"] for result in told["results"] if result["error"]} == failed
    again = segment(bundle, *words, "--force")
    assert "10 inputs: 0 done, 5 skipped, 5 failed" in again.stderr


@pytest.mark.parametrize(("words", "code", "message"), [
    (["--workers", "2"], 2, "--workers and --ray write to folders; name one or more"),
    (["--workers", "2", "--jsonl", "l.jsonl"], 2, "--jsonl l.jsonl is a file, expected a folder"),
    (["--workers", "2", "--masks", "o", "--overlay", "o/v"], 2, "--overlay lies within --masks"),
    (["--workers", "2", "--masks", "o", "--overlay", "o"], 2, "lies within"),
    (["--workers", "2", "--masks", "o", "--show"], 2, "--show cannot go with --workers or --ray"),
    (["--workers", "2", "--masks", "o", "--export", "yolo=y"], 2, "--export cannot go with --workers or --ray"),
    (["--workers", "2", "--masks", "o", "--web", "--loop"], 2, "--web, --loop cannot go with --workers or --ray"),
    (["--report", "r.json", "--masks", "o"], 2, "go with --workers or --ray; add one of them"),
    (["--workers", "2", "--gpus-per-worker", "1", "--masks", "o"], 2, "are for --ray; add it"),
])  # fmt: skip
def test_a_job_that_makes_no_sense_is_refused_before_anything_is_done(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_picture(tmp_path / "in" / "a.png")
    ended = segment(bundle, "in", *words)
    assert ended.exit_code == code, ended.output
    assert message in " ".join(ended.stderr.split())
    assert everything_below(tmp_path) == ["in", "in/a.png"]


def test_what_no_worker_can_do_ends_the_job_with_its_reason(bundle: Path, tmp_path: Path) -> None:
    write_tree(tmp_path / "in")
    ended = segment(bundle, tmp_path / "in", "--masks", tmp_path / "m", "--workers", 2, "--alpha", 1)
    assert ended.exit_code == 2
    assert "error: alpha is 1.0, expected 0 to below 1" in ended.stderr
    assert "5 inputs: 0 done, 0 skipped, 0 failed, 5 not done" in ended.stderr


def test_other_settings_are_refused_until_they_are_forced(bundle: Path, tmp_path: Path) -> None:
    words = (write_picture(tmp_path / "a.png"), "--masks", tmp_path / "m", "--workers", 1)
    assert segment(bundle, *words).exit_code == 0
    refused = segment(bundle, *words, "--alpha", 0.5)
    assert refused.exit_code == 2
    assert "job with other settings (constants: then " in refused.stderr
    assert "1 done" in segment(bundle, *words, "--alpha", 0.5, "--force").stderr
    assert "1 skipped" in segment(bundle, *words, "--alpha", 0.5).stderr


def test_a_job_whose_workers_die_of_everything_ends_early(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        write_picture(tmp_path / "in" / f"{number}.png")
    monkeypatch.setattr("nerve_stream.pipeline.SegmenterOptions.open", property(lambda _: never_opens))
    ended = segment(bundle, tmp_path / "in", "--masks", tmp_path / "m", "--workers", 1)
    assert ended.exit_code == 8
    assert HOPELESS in ended.stderr
    assert "20 inputs: 0 done, 0 skipped, 3 failed, 17 not done" in ended.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_row_59_a_job_that_is_interrupted_leaves_nothing_half_written_and_goes_on_later(
    bundle: Path, tmp_path: Path, number: int, code: int
) -> None:
    for index in range(60):
        (tmp_path / "in").mkdir(exist_ok=True)
        write_clip(tmp_path / "in" / f"{index}.mp4", 20)
    words = words_of(bundle, tmp_path / "in", "--jsonl", tmp_path / "lines", "--workers", 2)
    with RunningCommand(tmp_path / "run", words) as command:
        command.wait_for("a first output", lambda: list((tmp_path / "lines").glob("[0-9]*.jsonl")))
        command.children()
        command.process.send_signal(number)
        assert command.end(20) == code
        assert command.left_over() == []
        assert " not done in " in command.stderr()
    done = list((tmp_path / "lines").glob("[0-9]*.jsonl"))
    assert {len(json_lines(path)) for path in done} == {20}
    assert [path for path in everything_below(tmp_path / "lines") if "tmp" in path] == []
    ended = segment(bundle, tmp_path / "in", "--jsonl", tmp_path / "lines", "--workers", 2)
    assert f"60 inputs: {60 - len(done)} done, {len(done)} skipped, 0 failed" in ended.stderr
