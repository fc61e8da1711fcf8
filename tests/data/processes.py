"""Processes that tests look after."""

import threading
from contextlib import suppress
from pathlib import Path

import psutil

MULTIPROCESSING = ("multiprocessing.forkserver", "multiprocessing.resource_tracker")


def own_children() -> list[psutil.Process]:
    """Processes that this one started, but for two that multiprocessing keeps once anybody has used it."""
    children = psutil.Process().children()
    return [child for child in children if not any(name in command_of(child) for name in MULTIPROCESSING)]


def threads_and_files() -> set[object]:
    """What this process holds: its threads, and its descriptors with what each leads to.

    A count would also fall when a thread or a file of an earlier test ends meanwhile; `threads_and_files() <= before` holds
    exactly when nothing was added.
    """
    held: set[object] = set(threading.enumerate())
    for descriptor in list(Path("/proc/self/fd").iterdir()):
        with suppress(FileNotFoundError):  # the folder's own, which is closed by now
            held.add(f"{descriptor.name} -> {descriptor.readlink()}")
    return held


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
