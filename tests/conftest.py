"""What holds for every test: fixed seeds, one thread, and honest skips where hardware or a library is missing."""

from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import settings

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


def _absent(*modules: str) -> str | None:
    absent = [module for module in modules if find_spec(module) is None]
    return f"not installed: {', '.join(absent)}" if absent else None
