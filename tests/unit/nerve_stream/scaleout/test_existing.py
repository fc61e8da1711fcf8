"""Files of others at the places of outputs: one rule for paths and for URLs."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nerve_stream.scaleout.job import Job, JobInput, Outcome
from nerve_stream.scaleout.worker import JobWorker
from tests.data.clips import write_clip
from tests.data.job_inputs import job_for, write_picture

memory = pytest.importorskip("fsspec", reason="not installed: fsspec, of the extra ray").filesystem("memory")
PLACES = ["", "memory://", "file://"]
"""How the folders of outputs are named: by a path, or by a URL."""


@pytest.fixture(autouse=True)
def _emptied(tmp_path: Path) -> Iterator[None]:
    yield
    if memory.exists(str(tmp_path)):
        memory.rm(str(tmp_path), recursive=True)


def _put(place: str, content: bytes) -> None:
    """Have somebody else write a file."""
    if place.startswith("memory://"):
        memory.pipe_file(place, content)
        return
    path = Path(place.removeprefix("file://"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _content(place: str) -> bytes:
    return (
        bytes(memory.cat_file(place))
        if place.startswith("memory://")
        else Path(place.removeprefix("file://")).read_bytes()
    )


def _run(job: Job, inputs: list[JobInput], run: str) -> list[Outcome]:
    worker = JobWorker(replace(job, run=run))
    outcomes = [worker.run(item) for item in inputs]
    worker.close()
    return outcomes


def _statuses(outcomes: list[Outcome]) -> list[str]:
    return [outcome.status for outcome in outcomes]


@pytest.mark.parametrize("output", ["masks/b/a.png", "lines/b/a.jsonl"])
@pytest.mark.parametrize("scheme", PLACES)
def test_a_file_of_others_is_kept_until_it_is_forced(tmp_path: Path, scheme: str, output: str) -> None:
    out = f"{scheme}{tmp_path}/out"
    write_picture(tmp_path / "in" / "b" / "a.png")
    write_picture(tmp_path / "in" / "c.png")
    job, inputs = job_for(tmp_path / "in", out)
    _put(f"{out}/{output}", b"of somebody else")
    outcomes = [outcome for run in ("first", "second", "third") for outcome in _run(job, inputs, run)]
    assert [(outcome.status, outcome.exit_code) for outcome in outcomes] == [
        ("done", 0), ("failed", 2), ("skipped", 0), ("failed", 2), ("skipped", 0), ("failed", 2),
    ]  # fmt: skip
    assert (
        outcomes[1].error == f"output {out}/{output} exists already; choose another name or add --force to replace it"
    )
    assert _content(f"{out}/{output}") == b"of somebody else"
    forced = replace(job, outputs=replace(job.outputs, force=True))
    assert _statuses(_run(forced, inputs, "fourth")) == ["skipped", "done"]
    assert _content(f"{out}/{output}") != b"of somebody else"


@pytest.mark.parametrize("foreign", ["frame_000000.png", "classes.json", "Their own.PNG"])
@pytest.mark.parametrize("scheme", PLACES)
def test_masks_of_others_in_the_folder_of_a_video_are_kept(tmp_path: Path, scheme: str, foreign: str) -> None:
    out = f"{scheme}{tmp_path}/out"
    (tmp_path / "in").mkdir()
    job, inputs = job_for(write_clip(tmp_path / "in" / "clip.mp4", 2), out)
    _put(f"{out}/masks/clip/{foreign}", b"of somebody else")
    (outcome,) = _run(job, inputs, "first")
    assert (outcome.status, outcome.exit_code) == ("failed", 2)
    assert f"{out}/masks/clip" in str(outcome.error)
    assert "already; choose another" in str(outcome.error)
    assert _content(f"{out}/masks/clip/{foreign}") == b"of somebody else"


@pytest.mark.parametrize("scheme", PLACES)
def test_a_folder_of_a_video_that_holds_no_masks_takes_them(tmp_path: Path, scheme: str) -> None:
    out = f"{scheme}{tmp_path}/out"
    (tmp_path / "in").mkdir()
    job, inputs = job_for(write_clip(tmp_path / "in" / "clip.mp4", 2), out)
    _put(f"{out}/masks/clip/notes.txt", b"of somebody else")
    assert _statuses(_run(job, inputs, "first")) == ["done"]


@pytest.mark.parametrize("scheme", PLACES)
def test_what_is_ours_is_done_again(tmp_path: Path, scheme: str) -> None:
    out = f"{scheme}{tmp_path}/out"
    job, inputs = job_for(write_picture(tmp_path / "in" / "a.png"), out)
    assert _statuses(_run(job, inputs, "first")) == ["done"]
    assert _statuses(_run(job, inputs, "second")) == ["skipped"]
    write_picture(tmp_path / "in" / "a.png", red=90, size_hw=(30, 40))
    assert _statuses(_run(job, inputs, "third")) == ["done"]


@pytest.mark.parametrize("scheme", PLACES)
def test_outputs_of_a_source_of_the_same_name_elsewhere_are_kept(tmp_path: Path, scheme: str) -> None:
    out = f"{scheme}{tmp_path}/out"
    job, inputs = job_for(write_picture(tmp_path / "monday" / "a.png"), out)
    _run(job, inputs, "first")
    _, others = job_for(write_picture(tmp_path / "tuesday" / "a.png", size_hw=(30, 40)), out)
    (outcome,) = _run(job, others, "second")
    assert "exists already; choose another name or add --force" in str(outcome.error)
    assert _statuses(_run(job, inputs, "third")) == ["skipped"]


@pytest.mark.parametrize("scheme", PLACES)
def test_a_file_of_others_is_kept_where_an_output_is_asked_for_later(tmp_path: Path, scheme: str) -> None:
    out = f"{scheme}{tmp_path}/out"
    job, inputs = job_for(write_picture(tmp_path / "in" / "a.png"), out)
    _run(job, inputs, "first")
    _put(f"{out}/seen/a.png", b"of somebody else")
    more = replace(job, places=replace(job.places, overlay=f"{out}/seen"))
    (outcome,) = _run(more, inputs, "second")
    assert outcome.error == f"output {out}/seen/a.png exists already; choose another name or add --force to replace it"
    elsewhere = replace(job, places=replace(job.places, jsonl=f"{out}/other"))
    _put(f"{out}/other/a.jsonl", b"of somebody else")
    assert _statuses(_run(elsewhere, inputs, "third")) == ["failed"]
    assert _content(f"{out}/seen/a.png") == _content(f"{out}/other/a.jsonl") == b"of somebody else"


def test_outputs_that_were_moved_with_their_records_stay_ours(tmp_path: Path) -> None:
    job, inputs = job_for(write_picture(tmp_path / "in" / "a.png"), tmp_path / "out")
    _run(job, inputs, "first")
    (tmp_path / "out").rename(tmp_path / "moved")
    write_picture(tmp_path / "in" / "a.png", red=90, size_hw=(30, 40))
    moved, _ = job_for(tmp_path / "in" / "a.png", tmp_path / "moved")
    assert _statuses(_run(moved, inputs, "second")) == ["done"]


def test_looking_for_files_of_others_costs_one_request_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[str] = []
    list_folder = memory.ls

    def ls(path: str, **named: Any) -> Any:
        listed.append(path.removeprefix(f"{tmp_path}/out/"))
        return list_folder(path, **named)

    for name in ("a", "b", "c", "deep/d", "deep/e", "new/er/f", "new/er/g"):
        write_picture(tmp_path / "in" / f"{name}.png")
    job, inputs = job_for(tmp_path / "in", f"memory://{tmp_path}/out")
    _put(f"memory://{tmp_path}/out/masks/deep/d.png", b"of somebody else")
    monkeypatch.setattr(JobWorker, "_segment", _fails)
    monkeypatch.setattr(memory, "ls", ls)
    assert _statuses(_run(job, inputs, "first")) == ["failed"] * 7
    assert sorted(listed) == ["lines", "masks", "masks/deep"], "folders that are not there are not asked for"


def _fails(*_: object, **__: object) -> None:
    raise OSError("no outputs, which would be looked at again")
