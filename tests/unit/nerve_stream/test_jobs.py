import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nerve_runtime.errors import ResourceError, UsageError
from nerve_stream.jobs import JobKey, open_job, record_beside
from tests.contracts.checkout import rooms_environment

KEY = JobKey("ab" * 32, ("car", "road"), ("wall",), "imagenet", {"alpha": 0.9, "threshold": None}, {"rle": False}, "1")


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return tmp_path / "out" / ".nerve-job.jsonl"


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"pictures")
    return path


def output_of(record: Path, content: bytes = b"mask") -> Path:
    record.parent.mkdir(exist_ok=True)
    path = record.parent / "lines.jsonl"
    path.write_bytes(content)
    return path


def run_once(record: Path, clip: Path) -> None:
    with open_job(record, KEY, resume=False) as job:
        job.finish(clip, 7, [output_of(record), record.parent / "never-written.mp4"])


def test_what_is_finished_is_skipped_by_the_next_run_and_nothing_else_is(record: Path, clip: Path) -> None:
    run_once(record, clip)
    with open_job(record, KEY, resume=True) as job:
        assert job.resumed
        assert job.finished(clip)
        assert not job.finished(clip.parent / "another.mp4")
        job.finish("rtsp://camera/live", 5, [])
        assert not job.finished("rtsp://camera/live")
    header, line, _ = (json.loads(text) for text in record.read_text().splitlines())
    assert header["classes"] == ["car", "road"]
    assert (line["source"], line["frames"], line["size_bytes"]) == (str(clip), 7, 8)
    assert line["outputs"] == {str(record.parent / "lines.jsonl"): 4}


def test_a_first_run_may_be_told_to_resume(record: Path, clip: Path) -> None:
    with open_job(record, KEY, resume=True) as job:
        assert not job.resumed
        assert not job.finished(clip)


@pytest.mark.parametrize("damage", ["source changed", "source touched", "output gone", "output cut"])
def test_a_source_is_done_again_when_it_or_its_output_is_not_what_it_was(record: Path, clip: Path, damage: str) -> None:
    run_once(record, clip)
    if damage == "source changed":
        clip.write_bytes(b"other pictures")
    elif damage == "source touched":
        os.utime(clip, ns=(1, 1))
    elif damage == "output gone":
        (record.parent / "lines.jsonl").unlink()
    else:
        (record.parent / "lines.jsonl").write_bytes(b"m")
    with open_job(record, KEY, resume=True) as job:
        assert not job.finished(clip)


def test_a_folder_is_another_source_once_a_picture_in_it_changes(record: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"a")
    with open_job(record, KEY, resume=True) as job:
        job.finish(folder, 1, [output_of(record)])
        assert job.finished(folder)
        (folder / "b.png").write_bytes(b"b")
        assert not job.finished(folder)


def test_other_settings_are_refused_by_name_and_force_starts_over(record: Path, clip: Path) -> None:
    run_once(record, clip)
    other = replace(KEY, classes=("car", "sky"), manifest_sha256="cd" * 32)
    expected = r'other settings \(classes: then \["car", "road"\], now \["car", "sky"\]; another bundle\).*--force to start over'
    with pytest.raises(UsageError, match=expected), open_job(record, other, resume=True):
        pass
    with open_job(record, other, resume=True, force=True) as job:
        assert not job.finished(clip)
    with pytest.raises(UsageError, match="another bundle"), open_job(record, KEY, resume=True):
        pass


def test_a_job_that_was_begun_is_neither_resumed_nor_forgotten_unasked(record: Path, clip: Path) -> None:
    run_once(record, clip)
    with pytest.raises(UsageError, match="add --resume to go on or --force to start over"):
        run_once(record, clip)
    with open_job(record, KEY, resume=False, force=True) as job:
        assert not job.finished(clip)


def test_a_line_torn_by_a_kill_is_ignored_and_cut_off(record: Path, clip: Path) -> None:
    run_once(record, clip)
    whole = record.read_bytes()
    for torn in (b'{"source": "x"', b'{"source": "x", "outputs": {}}'):
        record.write_bytes(whole + torn)
        with open_job(record, KEY, resume=True) as job:
            assert job.finished(clip)
            assert not job.finished("x")
            job.finish("y", 1, [])
        lines = record.read_bytes().splitlines()
        assert [json.loads(line).get("source") for line in lines] == [None, str(clip), "y"]


@pytest.mark.parametrize("content", [b"not json\n", b"[1]\n", b'{}\n{"a": 1}\n', b"\xff\n"])
def test_a_record_that_is_none_is_refused_until_forced(record: Path, clip: Path, content: bytes) -> None:
    record.parent.mkdir()
    record.write_bytes(content)
    with pytest.raises(UsageError, match="--force to start over"), open_job(record, KEY, resume=True):
        pass
    with open_job(record, KEY, resume=True, force=True) as job:
        assert not job.finished(clip)


def test_two_runs_at_once_are_not_let_in(record: Path) -> None:
    with (
        open_job(record, KEY, resume=True),
        pytest.raises(UsageError, match="another run is writing"),
        open_job(record, KEY, resume=True),
    ):
        pass
    with open_job(record, KEY, resume=True) as job:
        assert job.resumed is False


def pictures_in(folder: Path, names: str) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{name}.png" for name in names]
    for path in paths:
        if not path.exists():
            path.write_bytes(path.name.encode())
            os.utime(path, ns=(10**18, 10**18))
    return paths


def mask_of(masks: Path, index: int) -> Path:
    masks.mkdir(exist_ok=True)
    path = masks / f"frame_{index:06d}.png"
    path.write_bytes(b"mask")
    return path


def test_finished_masks_of_a_folder_are_known_by_picture_and_number(record: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    pictures = pictures_in(tmp_path / "pictures", "bcd")
    with open_job(record, KEY, resume=True) as job:
        assert job.finished_pictures("pictures", pictures, masks) == frozenset()
        for index in (0, 1):
            job.finish_picture("pictures", index, pictures[index], mask_of(masks, index))
    with open_job(record, KEY, resume=True) as job:
        assert job.finished_pictures("pictures", pictures, masks) == {0, 1}
        assert job.finished_pictures("elsewhere", pictures, masks) == frozenset()
        assert job.finished_pictures("pictures", pictures_in(tmp_path / "pictures", "abcd"), masks) == frozenset()
        assert job.finished_pictures("pictures", pictures_in(tmp_path / "pictures", "bbb"), masks) == {0}
        mask_of(masks, 1).write_bytes(b"")
        pictures[0].write_bytes(b"another picture")
        assert job.finished_pictures("pictures", pictures, masks) == frozenset()


DIES_IN_THE_MIDDLE = """
import os, sys
from pathlib import Path
from tests.unit.nerve_stream.test_jobs import KEY, open_job, output_of

record, clip = map(Path, sys.argv[1:])
with open_job(record, KEY, resume=True) as job:
    job.finish(clip, 7, [output_of(record)])
    os._exit(9)
"""


def test_a_run_that_was_killed_leaves_its_finished_sources_and_no_lock(record: Path, clip: Path) -> None:
    environment = rooms_environment()
    command = [sys.executable, "-c", DIES_IN_THE_MIDDLE, str(record), str(clip)]
    killed = subprocess.run(command, env=environment, timeout=60, check=False)
    assert killed.returncode == 9
    with open_job(record, KEY, resume=True) as job:
        assert job.finished(clip)


def test_a_record_that_cannot_be_written_is_a_lack_of_resources(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with (
        pytest.raises(ResourceError, match="cannot write"),
        open_job(tmp_path / "file" / ".nerve-job.jsonl", KEY, resume=True),
    ):
        pass


def test_the_key_is_the_same_for_the_same_settings_only() -> None:
    digests = {
        key.record()["job_key"]
        for key in (KEY, replace(KEY, version="2"), replace(KEY, constants={"alpha": 0.8, "threshold": None}))
    }
    assert len(digests) == 3
    reordered: dict[str, Any] = {"threshold": None, "alpha": 0.9}
    assert replace(KEY, constants=reordered).record() == KEY.record()
    assert record_beside(Path("masks"), folder=True) == Path("masks/.nerve-job.jsonl")
