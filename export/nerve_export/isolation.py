"""Run a function in a process of its own, so that the peak of memory is that of one stage and a crash is one sentence.

Processes come from a fork server that has imported PyTorch once: a process starts in milliseconds, not in seconds.
"""

import importlib
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from nerve_runtime.errors import CompatibilityError, NerveError, ResourceError, is_out_of_memory

PRELOADED = ["nerve_export.stage_worker"]
_running: set[BaseProcess] = set()
"""Processes that are at work, so that one failure or Ctrl-C ends all of them."""


def run_isolated(what: str, function: Callable[..., Any] | str, *given: Any, **named: Any) -> Any:
    """Call a function in another process and return its answer, or raise its error here.

    Args:
        what: for messages, such as "exporting attention".
        function: importable by name, or the name, "module:function", so that this process need not import the module;
            arguments and answer can be pickled.
        given: its arguments.
        named: likewise.

    Raises:
        ResourceError: the process ran out of memory, or was killed, most often for that.
        CompatibilityError: the process crashed, or misses a library.
        Exception: whatever the function raised.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run_and_send, args=(sender, function, given, named), name=what, daemon=True)
    process.start()
    _running.add(process)
    sender.close()
    try:
        raised, answer = receiver.recv()
    except EOFError:
        process.join()
        raise _ended_early(what, process.exitcode) from None
    except BaseException:
        process.kill()
        raise
    finally:
        receiver.close()
        process.join()
        _running.discard(process)
    if raised:
        raise answer
    return answer


def kill_running() -> None:
    """End all processes that are at work; whoever waits for one gets the error of a killed process."""
    for process in list(_running):
        process.kill()


def _run_and_send(
    sender: Connection, function: Callable[..., Any] | str, given: tuple[Any, ...], named: dict[str, Any]
) -> None:
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent answers and ends us
    try:
        answer = (False, _resolve(function)(*given, **named))
    except Exception as error:  # noqa: BLE001 - raised again by the parent, with its type
        answer = (True, _portable_error(error))
    sender.send(answer)


def _resolve(function: Callable[..., Any] | str) -> Callable[..., Any]:
    if not isinstance(function, str):
        return function
    module, _, name = function.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


def _portable_error(error: Exception) -> Exception:
    """The error as the parent is to raise it: ours as they are, want of memory and of a library as ours."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    if isinstance(error, NerveError):
        return error
    if any(is_out_of_memory(one) for one in chain):
        return ResourceError("memory ran out; close other programs, add swap, or use a smaller preset or size")
    for one in chain:
        if isinstance(one, ModuleNotFoundError):
            return CompatibilityError(f"{one.name} is not installed; run: pip install 'nerve-deploy[export]'")
    try:
        pickle.loads(pickle.dumps(error))  # our own bytes, to see whether they survive the way
    except Exception:  # noqa: BLE001 - whatever pickling raises, the text survives
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _die_with_parent() -> None:
    """End at once when the parent is gone: nobody would take the answer, and its folder may be another's by then."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _ended_early(what: str, exit_code: int | None) -> ResourceError | CompatibilityError:
    if exit_code == -signal.SIGKILL:
        return ResourceError(
            f"{what} was killed, most likely for want of memory; close other programs, add swap, or use a smaller preset"
        )
    name = signal.Signals(-exit_code).name if exit_code is not None and exit_code < 0 else f"exit code {exit_code}"
    return CompatibilityError(f"{what} crashed ({name}); a library is broken or too old, run: nerve-build doctor")
