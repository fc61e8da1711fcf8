"""What keeps a second job from the outputs of the first: locked folders, and settings that have to be the same."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from nerve_runtime import UsageError
from nerve_stream.jobs import JobKey, locked_outputs
from nerve_stream.scaleout.job import Places
from nerve_stream.scaleout.records import opened_records
from tests.data.job_inputs import job_for, write_picture

KEY = JobKey("sha", ("red",), (), "", {}, {}, "1")


def test_another_run_or_other_settings_are_refused(tmp_path: Path) -> None:
    job, _ = job_for(write_picture(tmp_path / "a.png"), tmp_path / "out")
    key = JobKey("sha", ("red",), (), "", {"alpha": 0.5}, {}, "1")
    other = replace(key, constants={"alpha": 0.6})

    def open_with(of_job: JobKey, *, force: bool = False) -> None:
        with opened_records(job.places, of_job, force=force):
            pass

    with (
        opened_records(job.places, key, force=False),
        pytest.raises(UsageError, match="another run is writing the outputs"),
    ):
        open_with(key)
    with pytest.raises(UsageError, match=r"other settings \(constants: then .*0\.5.*, now .*0\.6"):
        open_with(other)
    open_with(other, force=True)
    open_with(other)


@pytest.mark.parametrize("shared", [["masks"], ["overlay"], ["jsonl"], ["overlay", "jsonl"]])
def test_every_local_folder_of_outputs_is_locked(tmp_path: Path, shared: list[str]) -> None:
    first = Places(**{kind: str(tmp_path / kind) for kind in ("masks", "overlay", "jsonl")})
    others = {kind: str(tmp_path / "others" / kind) for kind in ("masks", "overlay", "jsonl")}
    second = Places(**others | {kind: first.named()[kind] for kind in shared})
    with (
        opened_records(first, KEY, force=True),
        pytest.raises(
            UsageError, match=rf"^another run is writing the outputs in {tmp_path}/{min(shared)}; wait for it to end"
        ),
        opened_records(second, KEY, force=True),
    ):
        pass
    with opened_records(second, KEY, force=True), pytest.raises(UsageError), opened_records(first, KEY, force=True):
        pass
    with opened_records(first, KEY, force=True), opened_records(Places(**others), KEY, force=True):
        pass


def test_a_folder_is_locked_under_any_name_and_beside_records_at_a_url(tmp_path: Path) -> None:
    memory = pytest.importorskip("fsspec", reason="not installed: fsspec, of the extra ray").filesystem("memory")
    (tmp_path / "lines").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "lines")
    first = Places(masks=f"memory://{tmp_path}/masks", jsonl=str(tmp_path / "lines"))
    second = Places(overlay=str(tmp_path / "overlay"), jsonl=str(tmp_path / "link"))
    with (
        opened_records(first, KEY, force=False),
        pytest.raises(UsageError, match=rf"another run is writing the outputs in {tmp_path}/link; wait"),
        opened_records(second, KEY, force=False),
    ):
        pass
    memory.rm(str(tmp_path), recursive=True)


def test_of_two_jobs_with_the_same_folders_in_another_order_one_gets_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def slowly_locked(lock_file: Path, outputs: str) -> Iterator[None]:
        with locked_outputs(lock_file, outputs):
            time.sleep(0.1)
            yield

    monkeypatch.setattr("nerve_stream.scaleout.records.locked_outputs", slowly_locked)
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    begin, end, outcomes = threading.Barrier(2), threading.Barrier(2), []

    def run(own: Places) -> None:
        begin.wait(10)
        try:
            with opened_records(own, KEY, force=True):
                outcomes.append("locked")
                end.wait(10)
        except UsageError:
            outcomes.append("refused")
            end.wait(10)

    threads = [
        threading.Thread(target=run, args=(own,)) for own in (Places(masks=a, jsonl=b), Places(masks=b, jsonl=a))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["locked", "refused"]
