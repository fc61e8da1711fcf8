"""Functions in child processes: results, errors, progress, and what an end by a signal means."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nerve_export.isolation import kill_running, peak_rss_mb, run_isolated
from nerve_runtime.errors import CompatibilityError, ResourceError, UsageError
from tests.contracts.checkout import rooms_environment


def process_and(value: int) -> tuple[int, int]:
    return os.getpid(), value


def refuse(message: str) -> None:
    raise UsageError(message)


def end_by(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(10)


def test_the_answer_comes_from_another_process() -> None:
    process, value = run_isolated("answering", process_and, 7)
    assert value == 7
    assert process != os.getpid()


def test_an_error_keeps_its_type_and_its_words() -> None:
    with pytest.raises(UsageError, match=r"^two apples, expected one$"):
        run_isolated("refusing", refuse, "two apples, expected one")


class UnpicklableError(Exception):
    """Its constructor wants two words, of which pickling keeps one."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


def fail_with(kind: str) -> None:
    if kind == "memory":
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 3 bytes")
    if kind == "module":
        raise ModuleNotFoundError("No module named 'torch'", name="torch")
    raise UnpicklableError("first", "second")


def test_a_function_may_be_given_by_its_name() -> None:
    assert run_isolated("answering", "tests.unit.nerve_export.test_isolation:process_and", 7)[1] == 7


@pytest.mark.parametrize(
    ("kind", "error", "expected"),
    [
        ("memory", ResourceError, r"memory ran out; close other programs"),
        ("module", CompatibilityError, r"torch is not installed; run: pip install 'nerve-deploy\[export\]'"),
        ("unpicklable", RuntimeError, r"UnpicklableError: first second"),
    ],
)
def test_errors_of_libraries_become_ours_or_keep_their_words(kind: str, error: type[Exception], expected: str) -> None:
    with pytest.raises(error, match=expected):
        run_isolated("failing", fail_with, kind)


def test_a_killed_process_is_said_to_have_run_out_of_memory() -> None:
    with pytest.raises(ResourceError, match=r"exporting x was killed, probably out of memory; close other programs"):
        run_isolated("exporting x", end_by, signal.SIGKILL)


def test_a_crash_names_the_signal() -> None:
    with pytest.raises(CompatibilityError, match=r"exporting x crashed \(SIGSEGV\)"):
        run_isolated("exporting x", end_by, signal.SIGSEGV)


def test_a_signal_that_is_no_crash_is_named() -> None:
    with pytest.raises(ResourceError, match=r"^exporting x was ended by SIGTERM$"):
        run_isolated("exporting x", end_by, signal.SIGTERM)


def fail_deep_inside() -> None:
    raise ZeroDivisionError("of the child")


@pytest.mark.parametrize("fresh", [False, True], ids=["forked", "fresh"])
def test_a_bug_of_ours_keeps_its_type_and_its_traceback(fresh: bool) -> None:
    with pytest.raises(ZeroDivisionError, match="of the child") as raised:
        run_isolated("failing", fail_deep_inside, fresh=fresh)
    assert "in fail_deep_inside" in str(raised.value.__cause__)


def count_to(last: int, *, progress: Callable[[str, int], None]) -> int:
    for number in range(last):
        progress("counted", number)
    return last


@pytest.mark.parametrize("fresh", [False, True], ids=["forked", "fresh"])
def test_progress_arrives_in_its_order_before_the_result(fresh: bool) -> None:
    reports: list[tuple[str, int]] = []
    last = run_isolated("counting", count_to, 3, progress=lambda *report: reports.append(report), fresh=fresh)
    assert (last, reports) == (3, [("counted", 0), ("counted", 1), ("counted", 2)])


def answer_at_length(*, progress: Callable[[], None]) -> bytes:
    progress()
    return bytes(10_000_000)


def test_a_process_killed_while_it_sends_its_result_is_said_to_be_killed() -> None:
    """The result is longer than a pipe holds, so the child waits in the middle of it."""

    def kill_it_soon() -> None:
        time.sleep(1)
        kill_running()

    with pytest.raises(ResourceError, match="answering was killed"):
        run_isolated("answering", answer_at_length, progress=kill_it_soon)


def print_a_line() -> None:
    print("printed by a library", flush=True)  # noqa: T201


PRINTING = """
from nerve_export.isolation import run_isolated
for fresh in (False, True):
    run_isolated("printing", "tests.unit.nerve_export.test_isolation:print_a_line", fresh=fresh)
"""


def test_what_a_child_prints_stays_out_of_standard_output() -> None:
    command, env = [sys.executable, "-c", PRINTING], rooms_environment()
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout == ""
    assert ended.stderr.count("printed by a library") == 2


def loaded_modules() -> set[str]:
    return set(sys.modules)


def test_a_fresh_process_has_no_torch() -> None:
    assert "torch" in run_isolated("listing", loaded_modules)
    assert not {"torch", "onnx"} & run_isolated("listing", loaded_modules, fresh=True)


def hold_memory(size: int) -> float:
    held = bytearray(size)
    held[::4096] = bytes([1]) * len(held[::4096])
    return peak_rss_mb()


def test_the_peak_of_memory_is_the_childs_own() -> None:
    small, large = (run_isolated("holding", hold_memory, size, fresh=True) for size in (1, 200 * 2**20))
    assert 190 < large - small < 230


def test_all_that_is_at_work_can_be_ended_at_once() -> None:
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(run_isolated, f"sleeping {number}", time.sleep, 60) for number in range(2)]
        started = time.monotonic()
        while not all(future.done() for future in waiting) and time.monotonic() - started < 30:
            time.sleep(0.2)
            kill_running()
        for future in waiting:
            with pytest.raises(ResourceError, match=r"sleeping \d was killed"):
                future.result(timeout=30)


ORPHAN = """
import sys, time
from pathlib import Path
from nerve_export.isolation import run_isolated
from tests.unit.nerve_export.test_isolation import write_slowly
if __name__ == "__main__":
    run_isolated("writing", write_slowly, Path(sys.argv[1]))
"""


def write_slowly(path: Path) -> None:
    path.with_suffix(".started").touch()
    time.sleep(3)
    path.touch()


def test_a_process_ends_with_its_parent(tmp_path: Path) -> None:
    """An orphan would write into a folder that belongs to the next builder by then."""
    script = tmp_path / "orphan.py"
    script.write_text(ORPHAN)
    env = rooms_environment()
    parent = subprocess.Popen([sys.executable, str(script), str(tmp_path / "late")], env=env)
    for _ in range(600):
        if (tmp_path / "late.started").exists():
            break
        time.sleep(0.1)
    assert (tmp_path / "late.started").exists()
    parent.kill()
    parent.wait()
    time.sleep(4)
    assert not (tmp_path / "late").exists()
