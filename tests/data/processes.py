"""Processes that tests look after."""

from contextlib import suppress

import psutil

MULTIPROCESSING = ("multiprocessing.forkserver", "multiprocessing.resource_tracker")


def own_children() -> list[psutil.Process]:
    """Processes that this one started, but for two that multiprocessing keeps once anybody has used it."""
    children = psutil.Process().children()
    return [child for child in children if not any(name in command_of(child) for name in MULTIPROCESSING)]


def command_of(process: psutil.Process) -> str:
    """The words a process was started with; none of one that is gone."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def end(processes: list[psutil.Process]) -> None:
    """Kill processes and wait until they are gone."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=10)
