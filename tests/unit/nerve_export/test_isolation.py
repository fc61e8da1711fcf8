"""Functions in processes of their own: answers, errors, and what their ends by signals mean."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nerve_export.isolation import kill_running, run_isolated
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
    with pytest.raises(ResourceError, match=r"exporting x was killed, most likely for want of memory"):
        run_isolated("exporting x", end_by, signal.SIGKILL)


def test_a_crash_names_the_signal() -> None:
    with pytest.raises(CompatibilityError, match=r"exporting x crashed \(SIGSEGV\)"):
        run_isolated("exporting x", end_by, signal.SIGSEGV)


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
