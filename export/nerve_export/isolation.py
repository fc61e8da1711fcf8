"""Run a function in a child process: its memory is freed at its end, and a crash becomes one sentence.

Results, errors and progress come back through one pipe. By default children are forked from a server that has imported
PyTorch once, so each starts in milliseconds; a `fresh` child is a new interpreter, which imports what it needs.
"""

import importlib
import multiprocessing
import os
import pickle
import resource
import signal
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from nerve_runtime.errors import CompatibilityError, NerveError, ResourceError, is_out_of_memory

PRELOADED = ["nerve_export.stage_worker"]
CRASHES = {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE}
IF_KILLED = "close other programs, add swap, or use a smaller preset"
IF_CRASHED = "a library is broken or too old, run: nerve-build doctor"
_running: set[BaseProcess] = set()
"""Children at work, so that one failure or Ctrl-C ends all of them."""


def run_isolated(
    what: str,
    function: Callable[..., Any] | str,
    *arguments: Any,
    progress: Callable[..., None] | None = None,
    fresh: bool = False,
    if_killed: str = IF_KILLED,
    if_crashed: str = IF_CRASHED,
) -> Any:
    """Call a function in a child process and return its result, or raise its error here.

    What the child prints to standard output goes to standard error.

    Args:
        what: for messages, such as "exporting attention".
        function: importable by name, or its name as "module:function", so that this process need not import the module.
        arguments: of the function; arguments and result are pickled.
        progress: called here with whatever the function passes to its own argument `progress`, which it then must have.
        fresh: start a new interpreter in place of a fork with PyTorch in it.
        if_killed: what to do when the child is killed, for the message.
        if_crashed: what to do when it crashes.

    Raises:
        ResourceError: the child ran out of memory or was ended by a signal.
        CompatibilityError: it crashed, or lacks a library.
        Exception: whatever the function raised, with the child's traceback as its cause.
    """
    context: Any = multiprocessing.get_context("spawn" if fresh else "forkserver")
    context.set_forkserver_preload(PRELOADED)
    receiver, sender = context.Pipe(duplex=False)
    with receiver:
        with sender:
            call = (sender, function, arguments, progress is not None)
            child: BaseProcess = context.Process(target=_call_and_send, args=call, name=what, daemon=True)
            child.start()
        _running.add(child)
        try:
            message = _receive(receiver, progress)
        except BaseException:
            child.kill()
            raise
        finally:
            child.join()
            _running.discard(child)
    if message is None:
        raise _early_end(what, child.exitcode, if_killed, if_crashed)
    kind, content = message
    if kind == "result":
        return content
    error, child_traceback = content
    raise error from RuntimeError(f"in the child process:\n{child_traceback}")


def kill_running() -> None:
    """Kill all children at work; who waits for one gets the error of a killed process."""
    for child in list(_running):
        child.kill()


def peak_rss_mb() -> float:
    """Most memory that this process has held, in MB of 2**20 bytes.

    Linux carries `ru_maxrss` over from the process that started this one, so VmHWM is read where there is one.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
    return round(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024, 1)


def _receive(receiver: Connection, progress: Callable[..., None] | None) -> tuple[str, Any] | None:
    """The last message of a child, None where it ended without one or within one."""
    while True:
        try:
            kind, content = receiver.recv()
        except (EOFError, OSError):
            return None
        if kind != "progress":
            return kind, content
        if progress is not None:
            progress(*content)


def _call_and_send(
    sender: Connection, function: Callable[..., Any] | str, arguments: tuple[Any, ...], reports_progress: bool
) -> None:
    _end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent kills its children
    os.dup2(2, 1)  # what libraries print must not get between the results of a command

    def report(*content: Any) -> None:
        sender.send(("progress", content))

    try:
        keywords = {"progress": report} if reports_progress else {}
        message = ("result", _resolve(function)(*arguments, **keywords))
    except Exception as error:  # noqa: BLE001 - raised again by the parent, with its type
        message = ("error", (_portable_error(error), traceback.format_exc()))
    sender.send(message)


def _resolve(function: Callable[..., Any] | str) -> Callable[..., Any]:
    if not isinstance(function, str):
        return function
    module, _, name = function.partition(":")
    resolved: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return resolved


def _portable_error(error: Exception) -> Exception:
    """The error for the parent to raise: memory and missing libraries as errors of ours, the rest as it is."""
    if isinstance(error, NerveError):
        return error
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    if any(is_out_of_memory(link) for link in chain):
        return ResourceError("memory ran out; close other programs, add swap, or use a smaller preset or size")
    for link in chain:
        if isinstance(link, ModuleNotFoundError):
            return CompatibilityError(f"{link.name} is not installed; run: pip install 'nerve-deploy[export]'")
    try:
        pickle.loads(pickle.dumps(error))  # our own bytes, to see whether the error can be sent
    except Exception:  # noqa: BLE001 - whatever pickling raises, the text is sent
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _end_with_parent() -> None:
    """End at once when the parent ends: nobody takes the result, and the output folder may be another builder's."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _early_end(what: str, exit_code: int | None, if_killed: str, if_crashed: str) -> NerveError:
    number = -(exit_code or 0)
    if number == signal.SIGKILL:
        return ResourceError(f"{what} was killed, probably out of memory; {if_killed}")
    name = signal.Signals(number).name if number > 0 else f"exit code {exit_code}"
    if number > 0 and number not in CRASHES:
        return ResourceError(f"{what} was ended by {name}")
    return CompatibilityError(f"{what} crashed ({name}); {if_crashed}")
