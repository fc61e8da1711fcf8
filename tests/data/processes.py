"""Processes that tests look after."""

import psutil

MULTIPROCESSING = ("multiprocessing.forkserver", "multiprocessing.resource_tracker")


def own_children() -> list[psutil.Process]:
    """Processes that this one started, but for two that multiprocessing keeps once anybody has used it."""
    return [child for child in psutil.Process().children() if not _of_multiprocessing(child)]


def _of_multiprocessing(process: psutil.Process) -> bool:
    try:
        words = " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False
    return any(name in words for name in MULTIPROCESSING)
