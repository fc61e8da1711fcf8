"""A job of 205 inputs by a real Ray, two of whose workers are killed, beside the plain loop and two processes."""

import json
import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest

from nerve_runtime.errors import CompatibilityError
from nerve_stream.scaleout import ray_job
from tests.data.clips import write_clip
from tests.data.job_inputs import write_broken
from tests.data.running_command import RunningCommand, segment
from tests.data.tiny_bundle import tiny_bundle_folder

CLASSES = "ladybug; dog; grass; sand; sky"
CLIPS, PICTURES, BROKEN = 100, 100, 5
FRAMES_A_CLIP = 3
SIZE_HW = (64, 96)
needs_ray = pytest.mark.skipif(
    find_spec("ray") is None, reason="not installed: ray, of the extra ray (make .venv/.scale)"
)


def test_without_its_packages_ray_is_refused_with_the_extra_that_brings_them(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_job, "find_spec", lambda name: None if name == "ray" else object())
    ended = segment(bundle, tmp_path, "--masks", tmp_path / "m", "--ray")
    assert (ended.exit_code, CompatibilityError.exit_code) == (4, 4)
    assert (
        '--ray needs the extra "ray", ray is not installed; run: pip install "nerve-deploy[stream,ray]"' in ended.stderr
    )


def test_a_cluster_that_does_not_answer_is_refused_at_once() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        for written in (address, f"ray://{address}"):
            with pytest.raises(CompatibilityError, match=f"no Ray cluster answers at {written}: .*refused; check"):
                ray_job.refuse_silent_address(written)
    ray_job.refuse_silent_address("auto")


def _write_inputs(folder: Path) -> list[Path]:
    """The inputs; returns those that are broken."""
    random = np.random.default_rng(0)
    for number in range(PICTURES):
        place = folder / f"cam{number % 3}" / "stills"
        place.mkdir(parents=True, exist_ok=True)
        coarse = random.integers(0, 256, (8, 12, 3), dtype=np.uint8)
        cv2.imwrite(str(place / f"{number}.png"), cv2.resize(coarse, SIZE_HW[::-1], interpolation=cv2.INTER_CUBIC))
    for number in range(CLIPS):
        write_clip(folder / f"cam{number % 3}" / f"clip {number}.mp4", FRAMES_A_CLIP, SIZE_HW)
    return write_broken(folder / "cam0" / "broken")


def _words(source: object, out: Path, *more: object) -> list[str]:
    folders = [word for kind in ("masks", "overlay", "jsonl") for word in (f"--{kind}", out / kind)]
    return [str(word) for word in (source, "--bundle", tiny_bundle_folder(), "--classes", CLASSES, *folders, *more)]


def _run(
    folder: Path, words: list[str], watch: Callable[[RunningCommand], None] | None = None
) -> tuple[int, float, str]:
    with RunningCommand(folder, words) as command:
        if watch is not None:
            watch(command)
        code = command.end(300)
        return code, time.monotonic() - command.started_s, command.stderr()


def _kill_two_workers(out: Path, memory_bytes: list[int]) -> Callable[[RunningCommand], None]:
    def watch(command: RunningCommand) -> None:
        killed: set[int] = set()
        for outputs in (20, 90):
            command.wait_for(f"{outputs} outputs", lambda n=outputs: _outputs(out) >= n, 200)  # type: ignore[misc]
            memory_bytes.append(sum(_resident_bytes(child) for child in command.children()))
            workers = [child for child in command.children() if _is_actor(child) and child.pid not in killed]
            os.kill(workers[0].pid, signal.SIGKILL)
            killed.add(workers[0].pid)

    return watch


def _outputs(out: Path) -> int:
    return sum(1 for _ in (out / "jsonl").rglob("[!.]*.jsonl"))


def _is_actor(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return "ray::MapWorker" in " ".join(process.cmdline())
    return False


def _resident_bytes(process: psutil.Process) -> int:
    with suppress(psutil.NoSuchProcess):
        return int(process.memory_info().rss)
    return 0


def _contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and ".nerve-job" not in path.parts]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.slow
@pytest.mark.onnx
@needs_ray
def test_a_job_by_ray_whose_workers_are_killed_is_that_of_the_plain_loop(tmp_path: Path) -> None:
    source = tmp_path / "in"
    broken = set(map(str, _write_inputs(source)))
    plain, processes, ray = (tmp_path / name for name in ("plain", "processes", "ray"))
    inputs, frames = CLIPS + PICTURES + BROKEN, CLIPS * FRAMES_A_CLIP + PICTURES
    memory_bytes: list[int] = []
    report = tmp_path / "report.json"
    job_words = ("--workers", 2, "--report", report, "--force")

    code, plain_s, _ = _run(tmp_path / "run plain", _words(source / "**" / "*", plain, "--reproducible"))
    assert code == 5
    code, processes_s, stderr = _run(tmp_path / "run processes", _words(source, processes, *job_words))
    assert (code, f"{inputs} inputs: 200 done, 0 skipped, 5 failed" in stderr) == (5, True), stderr
    code, ray_s, stderr = _run(
        tmp_path / "run ray", _words(source, ray, "--ray", *job_words), _kill_two_workers(ray, memory_bytes)
    )
    assert (code, f"{inputs} inputs: 200 done, 0 skipped, 5 failed" in stderr) == (5, True), stderr
    told = json.loads(report.read_text())
    assert {result["source"] for result in told["results"] if result["status"] == "failed"} == broken
    assert (told["inputs"], told["frames"], len(told["results"])) == (inputs, frames, inputs)
    expected = _contents(plain)
    assert len(expected) > 3 * (CLIPS + PICTURES)
    for job in (processes, ray):
        found = _contents(job)
        assert found.keys() == expected.keys()
        assert [name for name in expected if found[name] != expected[name]] == []

    lost = [
        ray / "jsonl/cam1/clip 1.jsonl",
        ray / "overlay/cam0/stills/0.png",
        ray / "masks/cam2/clip 2/frame_000001.png",
    ]
    for path in lost:
        path.unlink()
    code, again_s, stderr = _run(tmp_path / "run again", _words(source, ray, "--ray", *job_words))
    assert (code, f"{inputs} inputs: 3 done, 197 skipped, 5 failed" in stderr) == (5, True), stderr
    assert _contents(ray) == expected
    for name, seconds in (
        ("plain loop", plain_s), ("--workers 2", processes_s), ("--ray --workers 2, two killed", ray_s), ("again", again_s),
    ):  # fmt: skip
        print(f"{name}: {seconds:.1f} s, {inputs / seconds:.1f} inputs/s, {frames / seconds:.1f} frames/s")  # noqa: T201
    print(f"memory of the processes of Ray: {max(memory_bytes) / 1e9:.2f} GB")  # noqa: T201
