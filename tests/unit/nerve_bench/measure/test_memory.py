"""Memory is that of the runner alone, in its own process."""

import mmap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nerve_bench.measure import memory
from nerve_bench.measure.memory import measure_memory, peak_bytes, resident_bytes
from nerve_runtime.errors import CompatibilityError, UsageError

BALLAST_BYTES = 400_000_000
FRAMES = [np.full((128, 128, 3), level, np.uint8) for level in (40, 120, 200, 90)]


def unseen(items: Iterable[Any], _description: str, total: float | None = None) -> Iterable[Any]:
    return items


@pytest.mark.onnx
def test_a_runner_is_measured_without_the_memory_of_its_parent(bundle: Path) -> None:
    ballast = np.ones(BALLAST_BYTES, np.uint8)
    (record,) = measure_memory(bundle, ["ort"], "grass; zebra", FRAMES, 1, unseen)
    assert resident_bytes() > ballast.nbytes
    assert 0 < record["start_bytes"] < record["opened_bytes"] <= record["peak_bytes"]
    assert record["steady_bytes"] <= record["peak_bytes"] < BALLAST_BYTES
    assert record["backend"].startswith("ort: onnxruntime")
    assert record["n"] == len(FRAMES)
    assert record["bundle_bytes"] == sum(path.stat().st_size for path in bundle.iterdir())


def test_the_peak_keeps_what_was_given_back() -> None:
    with mmap.mmap(-1, peak_bytes()) as block:
        size = len(block)
        block.write(b"1" * size)
        while_held = resident_bytes()
    assert while_held > size
    assert peak_bytes() >= while_held
    assert resident_bytes() < while_held - size // 2


def test_a_runner_that_cannot_work_says_why_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(CompatibilityError, match=r"runner ort cannot run here: .*is not a bundle"):
        list(measure_memory(tmp_path, ["ort"], "grass; zebra", FRAMES, 1, unseen))


def test_a_runner_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--runners names tpu, expected of: reference, ort, openvino"):
        list(measure_memory(tmp_path, ["ort", "tpu"], "grass; zebra", FRAMES, 1, unseen))


def test_a_system_that_does_not_tell_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "STATUS", tmp_path / "status")
    with pytest.raises(CompatibilityError, match="which tells a process's peak memory; measure on Linux"):
        list(measure_memory(tmp_path, ["ort"], "grass; zebra", FRAMES, 1, unseen))
