"""One worker: outcomes, records, what is left out, and what it does when something hangs or fails."""

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from nerve_runtime import BundleError, ResourceError
from nerve_stream.pipeline.hang_limit import HangLimit
from nerve_stream.scaleout.job import Job, JobInput, Outcome
from nerve_stream.scaleout.records import InputRecord, Records
from nerve_stream.scaleout.report import JobReport
from nerve_stream.scaleout.storage import LocalFolder, url_of_path
from nerve_stream.scaleout.worker import JobWorker
from tests.data.clips import write_clip
from tests.data.job_inputs import hangs_for_ever, job_for, write_broken, write_picture, write_tree
from tests.data.running_command import everything_below
from tests.data.stream_doubles import DoubleSegmenter

memory = pytest.importorskip("fsspec", reason="not installed: fsspec, of the extra ray").filesystem("memory")


def _run_all(job: Job, inputs: list[JobInput]) -> list[Outcome]:
    worker = JobWorker(job)
    outcomes = [worker.run(item) for item in inputs]
    worker.close()
    return outcomes


def _begun(job: Job, item: JobInput, starts: int = 1) -> InputRecord:
    """What a worker that died has left."""
    return InputRecord(job.key, job.run, "begun", starts, {}, source=item.source, own_folders=(".", "../lines"))


def _statuses(outcomes: list[Outcome]) -> list[str]:
    return [outcome.status for outcome in outcomes]


def test_outputs_keep_the_paths_of_their_inputs_and_nothing_else_is_left(tmp_path: Path) -> None:
    job, inputs = job_for(write_tree(tmp_path / "in"), tmp_path / "out")
    outcomes = _run_all(job, inputs)
    assert [(outcome.status, outcome.frames) for outcome in outcomes] == [
        ("done", 3), ("done", 1), ("done", 1), ("done", 2), ("done", 1),
    ]  # fmt: skip
    assert outcomes[0].outputs == tuple(
        f"{tmp_path}/out/{place}" for place in ("masks/a/clip.mp4", "lines/a/clip.mp4.jsonl")
    )
    files = [path for path in everything_below(tmp_path / "out") if ".nerve-job" not in path]
    assert [path for path in files if path.endswith(("png", "jsonl"))] == [
        "lines/a/clip.mp4.jsonl", "lines/a/clip.png.jsonl", "lines/b/deep/clip.jsonl", "lines/b/deep/other.jsonl",
        "lines/b/photo 1.jsonl",
        "masks/a/clip.mp4/frame_000000.png", "masks/a/clip.mp4/frame_000001.png", "masks/a/clip.mp4/frame_000002.png",
        "masks/a/clip.png.png", "masks/b/deep/clip/frame_000000.png", "masks/b/deep/clip/frame_000001.png",
        "masks/b/deep/other.png", "masks/b/photo 1.png",
    ]  # fmt: skip
    assert not [path for path in files if "tmp" in path]


def test_a_second_run_does_only_what_is_missing_or_has_changed(tmp_path: Path) -> None:
    job, inputs = job_for(write_tree(tmp_path / "in"), tmp_path / "out")
    _run_all(job, inputs)
    assert _statuses(_run_all(replace(job, run="second"), inputs)) == ["skipped"] * 5
    (tmp_path / "out/lines/a/clip.mp4.jsonl").unlink()
    (tmp_path / "out/masks/b/deep/clip/frame_000001.png").unlink()
    write_picture(tmp_path / "in" / "b" / "photo 1.png", red=50, size_hw=(30, 40))
    assert _statuses(_run_all(replace(job, run="third"), inputs)) == ["done", "skipped", "done", "done", "skipped"]
    assert _statuses(_run_all(replace(job, run="fourth"), inputs)) == ["skipped"] * 5
    assert _statuses(_run_all(replace(job, run="fifth", key="other settings"), inputs)) == ["done"] * 5


def test_an_output_that_is_asked_for_later_is_made(tmp_path: Path) -> None:
    job, inputs = job_for(write_picture(tmp_path / "a.png", red=1), tmp_path / "out")
    _run_all(job, inputs)
    more = replace(job, run="second", places=replace(job.places, overlay=str(tmp_path / "out" / "seen")))
    assert _statuses(_run_all(more, inputs)) == ["done"]
    assert (tmp_path / "out/seen/a.png").is_file()


def test_what_is_done_again_after_a_death_keeps_its_outcome(tmp_path: Path) -> None:
    job, inputs = job_for(write_tree(tmp_path / "in"), tmp_path / "out")
    outcomes = _run_all(job, inputs)
    assert _run_all(job, inputs) == outcomes


def test_every_broken_input_fails_with_its_reason_and_the_others_are_done(tmp_path: Path) -> None:
    write_broken(write_tree(tmp_path / "in") / "broken")
    job, inputs = job_for(tmp_path / "in", tmp_path / "out")
    outcomes = _run_all(job, inputs)
    failed = {Path(outcome.source).name: outcome for outcome in outcomes if outcome.status == "failed"}
    assert {name: outcome.exit_code for name, outcome in failed.items()} == dict.fromkeys(
        ["bomb.png", "cut.mp4", "empty.png", "text.mp4", "wrong.png"], 5
    )
    assert "is empty" in str(failed["empty.png"].error)
    assert "is 60000 x 60000 pixels" in str(failed["bomb.png"].error)
    assert _statuses(outcomes).count("done") == 5
    assert not [path for path in everything_below(tmp_path / "out") if "broken" in path and "." in Path(path).name]


def test_an_output_that_no_record_knows_is_not_replaced_without_force(tmp_path: Path) -> None:
    job, inputs = job_for(write_picture(tmp_path / "a.png"), tmp_path / "out")
    foreign = write_picture(tmp_path / "out" / "masks" / "a.png")
    before = foreign.read_bytes()
    (outcome,) = _run_all(job, inputs)
    assert (outcome.status, outcome.exit_code) == ("failed", 2)
    assert "exists already; choose another name or add --force" in str(outcome.error)
    assert foreign.read_bytes() == before
    forced = replace(job, run="second", outputs=replace(job.outputs, force=True))
    assert _statuses(_run_all(forced, inputs)) == ["done"]


def test_a_file_of_others_is_kept_in_every_run_without_force(tmp_path: Path) -> None:
    job, inputs = job_for(write_picture(tmp_path / "a.png"), tmp_path / "out")
    foreign = write_picture(tmp_path / "out" / "masks" / "a.png")
    before = foreign.read_bytes()
    for run in ("first", "second", "third"):
        assert _statuses(_run_all(replace(job, run=run), inputs)) == ["failed"]
    assert foreign.read_bytes() == before


def test_outputs_of_a_source_of_the_same_name_elsewhere_are_kept(tmp_path: Path) -> None:
    job, inputs = job_for(write_picture(tmp_path / "monday" / "a.png"), tmp_path / "out")
    _run_all(job, inputs)
    other, others = job_for(write_picture(tmp_path / "tuesday" / "a.png", size_hw=(30, 40)), tmp_path / "out")
    (outcome,) = _run_all(replace(other, run="second"), others)
    assert "exists already; choose another name or add --force" in str(outcome.error)
    assert _statuses(_run_all(replace(job, run="third"), inputs)) == ["skipped"]


def test_no_output_replaces_its_input_even_with_force(tmp_path: Path) -> None:
    picture = write_picture(tmp_path / "out" / "masks" / "a.png")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").symlink_to(picture)
    before = picture.read_bytes()
    job, inputs = job_for(tmp_path / "in", tmp_path / "out")
    (outcome,) = _run_all(replace(job, outputs=replace(job.outputs, force=True)), inputs)
    assert "is the source itself" in str(outcome.error)
    assert picture.read_bytes() == before


def test_an_input_that_ended_its_worker_twice_is_not_tried_again_in_that_run(tmp_path: Path) -> None:
    job, inputs = job_for(write_picture(tmp_path / "a.png"), tmp_path / "out")
    records = Records(job.places)
    for starts, status in ((1, "done"), (2, "failed")):
        records.begin(inputs[0], _begun(job, inputs[0], starts))
        (outcome,) = _run_all(job, inputs)
        assert outcome.status == status
    assert (outcome.exit_code, outcome.killed) == (8, True)
    assert "ended its worker process twice" in str(outcome.error)
    assert _statuses(_run_all(replace(job, run="second"), inputs)) == ["done"], "another run tries again"


def test_what_a_dead_worker_left_is_swept_before_its_input_is_done_again(tmp_path: Path) -> None:
    job, inputs = job_for(write_picture(tmp_path / "a.png"), tmp_path / "out")
    Records(job.places).begin(inputs[0], _begun(job, inputs[0]))
    left = tmp_path / "out" / "lines" / ".a.abcd_123.tmp.jsonl"
    left.parent.mkdir()
    left.write_text("half a li")
    assert _statuses(_run_all(job, inputs)) == ["done"]
    assert not left.exists()


def test_a_segmenter_that_cannot_be_opened_ends_the_job_with_its_code(tmp_path: Path) -> None:
    def refuse() -> DoubleSegmenter:
        raise BundleError("the manifest is missing")

    job, inputs = job_for(write_picture(tmp_path / "a.png"), tmp_path / "out", refuse)
    (outcome,) = _run_all(job, inputs)
    assert (outcome.fatal, outcome.exit_code, outcome.error) == (True, 3, "the manifest is missing")


@pytest.mark.parametrize(("faults", "code", "error"), [
    ({"fail_at": 0, "failure": "NumericError"}, 7, "failed on purpose"),
    ({"bug_at": 0}, 1, "unexpected: ValueError: a bug at frame 0"),
    ({"not_ready_from": 0}, 7, "scores that are not finite"),
])  # fmt: skip
def test_an_input_that_cannot_be_segmented_fails_alone(
    tmp_path: Path, faults: dict[str, object], code: int, error: str
) -> None:
    segmenters: Iterator[DoubleSegmenter] = iter([DoubleSegmenter(**faults), DoubleSegmenter()])  # type: ignore[arg-type]
    write_picture(tmp_path / "in" / "a.png")
    write_picture(tmp_path / "in" / "b.png")
    job, inputs = job_for(tmp_path / "in", tmp_path / "out", lambda: next(segmenters))
    worker = JobWorker(job)
    outcome = worker.run(inputs[0])
    worker.close()
    assert (outcome.status, outcome.exit_code) == ("failed", code)
    assert error in str(outcome.error)
    assert worker.run(inputs[1]).status == "done"
    worker.close()


def test_row_29_a_decoder_that_hangs_ends_its_process_and_the_input_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    died = threading.Event()
    codes: list[int] = []

    def die(code: int) -> None:
        codes.append(code)
        died.set()

    def hang(*_args: object, **_named: object) -> None:
        died.wait(30)
        raise ResourceError("the process would have ended")

    monkeypatch.setattr("nerve_stream.scaleout.worker.OpenSource", hang)
    job, inputs = job_for(write_picture(tmp_path / "slow.png"), tmp_path / "out", open_limit_s=0.05)
    JobWorker(job, die=die).run(inputs[0])
    assert codes == [8]
    monkeypatch.undo()


def test_a_bug_that_ends_the_segmenters_threads_costs_one_input_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_picture(tmp_path / "in" / "a.png")
    write_picture(tmp_path / "in" / "b.png")
    job, inputs = job_for(tmp_path / "in", tmp_path / "out")
    add, bugs = HangLimit.add, [ZeroDivisionError("a bug")]

    def add_or_fail(self: HangLimit, seconds: float, *, keyframe: bool) -> None:
        if bugs:
            raise bugs.pop()
        add(self, seconds, keyframe=keyframe)

    monkeypatch.setattr(HangLimit, "add", add_or_fail)
    failed, done = _run_all(job, inputs)
    assert (failed.status, failed.error, done.status) == ("failed", "unexpected: ZeroDivisionError: a bug", "done")


def test_a_graph_that_hangs_ends_its_process_and_the_input_by_name(tmp_path: Path) -> None:
    job, inputs = job_for(write_picture(tmp_path / "a.png"), tmp_path / "out", hangs_for_ever, hang_timeout_s=0.2)
    codes: list[int] = []
    outcome = JobWorker(job, die=codes.append).run(inputs[0])
    assert codes == [8]
    assert (outcome.status, outcome.exit_code) == ("failed", 8)
    assert _run_all(job, inputs)[0].exit_code == 8, "the worker that follows finds it recorded"


def test_an_input_that_is_stopped_leaves_nothing_and_is_no_failure(tmp_path: Path) -> None:
    stop = threading.Event()
    job, inputs = job_for(
        write_tree(tmp_path / "in") / "a" / "clip.mp4", tmp_path / "out", partial(DoubleSegmenter, encode_s=0.3)
    )
    timer = threading.Timer(0.2, stop.set)
    timer.start()
    outcome = JobWorker(job, stop).run(inputs[0])
    timer.join()
    assert outcome.status == "stopped"
    assert not [path for path in everything_below(tmp_path / "out") if path.endswith((".png", ".jsonl", ".tmp"))]


@pytest.mark.parametrize("scheme", ["memory://", "file://"])
def test_inputs_and_outputs_of_fsspec_are_those_of_local_files(tmp_path: Path, scheme: str) -> None:
    root = f"{scheme}{tmp_path}/remote"
    tree = write_tree(tmp_path / "in")
    local, inputs = job_for(tree, tmp_path / "out")
    expected = _run_all(local, inputs)
    if scheme == "memory://":
        memory.put(f"{tree}/", f"{tmp_path}/remote/in", recursive=True)
    else:
        (tmp_path / "remote").mkdir()
        tree.rename(tmp_path / "remote" / "in")
    job, remote_inputs = job_for(f"{root}/in", f"{root}/out")
    assert [item.name for item in remote_inputs] == [item.name for item in inputs]
    outcomes = _run_all(job, remote_inputs)
    assert [outcome.frames for outcome in outcomes] == [outcome.frames for outcome in expected]
    assert _statuses(_run_all(replace(job, run="second"), remote_inputs)) == ["skipped"] * 5
    copy = tmp_path / "copy"
    if scheme == "memory://":
        memory.get(f"{tmp_path}/remote/out/", str(copy), recursive=True)
        memory.rm(str(tmp_path), recursive=True)
    else:
        (tmp_path / "remote" / "out").rename(copy)
    assert _contents(copy) == _contents(tmp_path / "out")


def test_inputs_are_fetched_over_http(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp", reason="not installed: aiohttp, which fsspec needs for http")
    write_clip(tmp_path / "clip.mp4", 3)

    def handler(*args: Any) -> SimpleHTTPRequestHandler:
        return SimpleHTTPRequestHandler(*args, directory=str(tmp_path))

    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        job, inputs = job_for(f"{url}/clip.mp4", tmp_path / "out")
        (outcome,) = _run_all(job, inputs)
        _, missing = job_for(f"{url}/none.mp4", tmp_path / "out")
        (failed,) = _run_all(job, missing)
        server.shutdown()
    assert (outcome.status, outcome.frames, inputs[0].name) == ("done", 3, "clip")
    assert (failed.status, failed.exit_code) == ("failed", 5)
    assert "none.mp4 cannot be read: " in str(failed.error)


def _contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and ".nerve-job" not in path.parts]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_url_keeps_its_slashes_as_a_path_of_the_command_line() -> None:
    urls = ["s3://bucket/out", "memory://out/a", "file:///tmp/out", "simplecache::s3://bucket/out"]
    assert [url_of_path(Path(url)) for url in urls] == urls


def test_a_record_that_is_damaged_counts_as_none(tmp_path: Path) -> None:
    job, inputs = job_for(write_picture(tmp_path / "a.png"), tmp_path / "out")
    _run_all(job, inputs)
    (record,) = (tmp_path / "out" / "masks" / ".nerve-job").glob("*.json")
    record.write_bytes(record.read_bytes()[:50])
    assert Records(job.places).read(inputs[0]) is None
    assert LocalFolder(tmp_path).read("none.json") is None


def test_a_report_adds_up_whatever_comes_back() -> None:
    inputs = [JobInput(name, name, picture=False, size_bytes=1) for name in "abcd"]
    report = JobReport(inputs)
    assert report.add(Outcome("a", "done", frames=3))
    assert not report.add(Outcome("a", "failed", exit_code=5)), "a chunk that was done twice counts once"
    report.add(Outcome("b", "skipped", frames=7))
    report.finish(stopped=False)
    summary = report.summary(2.0)
    assert {name: summary[name] for name in ("inputs", "done", "skipped", "failed", "stopped", "frames")} == {
        "inputs": 4, "done": 1, "skipped": 1, "failed": 2, "stopped": 0, "frames": 3,
    }  # fmt: skip
    assert [outcome.source for outcome in report.failures] == ["c", "d"]
    assert "no worker reported on it" in str(report.failures[0].error)


def test_a_result_that_never_came_back_is_found_in_its_record(tmp_path: Path) -> None:
    job, inputs = job_for(write_tree(tmp_path / "in"), tmp_path / "out")
    (done,) = _run_all(job, inputs[:1])
    report = JobReport(inputs)
    report.finish(stopped=True, recorded=lambda item: Records(job.places).outcome_of_run(item, job.run))
    assert _statuses(report.outcomes) == ["done", *["stopped"] * 4]
    assert report.outcomes[0] == done
    assert Records(job.places).outcome_of_run(inputs[0], "another run") is None


def test_a_job_whose_workers_die_whatever_they_do_is_hopeless() -> None:
    report = JobReport([])
    for source in "abc":
        assert not report.hopeless
        report.add(Outcome(source, "failed", exit_code=8, killed=True))
    assert report.hopeless
    report.add(Outcome("d", "done"))
    assert not report.hopeless


def test_credentials_of_an_input_stand_in_no_record_and_no_report(tmp_path: Path) -> None:
    job, _ = job_for(write_picture(tmp_path / "a.png"), tmp_path / "out")
    item = JobInput("http://me:secret@door/a.png?token=secret", "a", True, 0)
    records = Records(job.places)
    begun = InputRecord(job.key, job.run, "begun", 1, {}, source="http://***@door/a.png?token=***")
    records.end(item, begun, Outcome(item.source, "failed", exit_code=5), {})
    outcome = records.outcome_of_run(item, job.run)
    assert outcome is not None
    assert outcome.source == item.source
    report = JobReport([item])
    report.add(outcome)
    files = [path.read_text() for path in (tmp_path / "out").rglob("*.json")]
    assert files
    assert not [text for text in (*files, json.dumps(report.record(1.0))) if "secret" in text]
