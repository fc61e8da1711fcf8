"""What holds for every test: fixed seeds, one thread, no process left, and honest skips where something is missing."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import settings

from tests.data.processes import command_of, end, own_children

# These run in an environment of their own, with the libraries that they import.
collect_ignore = ["data/read_exports.py", "data/read_detections.py"]

# Derandomised: a red test stays red until somebody mends it. No deadline: the first call of a model is slow.
settings.register_profile("nerve", deadline=None, derandomize=True, max_examples=25, print_blob=True)


def pytest_configure(config: pytest.Config) -> None:
    settings.load_profile("nerve")
    if find_spec("torch") is None:
        return
    import torch

    # The tensors are small: a second thread gains nothing, and waits for seconds where other work shares the cores.
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = {
        "gpu": None if Path("/dev/nvidiactl").exists() else "no NVIDIA GPU: /dev/nvidiactl does not exist",
        "onnx": _absent("onnx", "onnxruntime"),
    }
    for item in items:
        for marker, reason in missing.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True, scope="module")
def no_process_is_left() -> Iterator[None]:
    """Tests of a file that leave a process behind fail there: others would count it, and pytest wait for it for ever."""
    before = set(own_children())
    yield
    left = [process for process in own_children() if process not in before]
    commands = [command_of(process)[:300] or str(process) for process in left]
    end(left)
    assert not left, f"the tests of this file left processes behind: {commands}"


def _absent(*modules: str) -> str | None:
    absent = [module for module in modules if find_spec(module) is None]
    return f"not installed: {', '.join(absent)}" if absent else None
