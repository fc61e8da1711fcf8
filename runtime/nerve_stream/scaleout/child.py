"""What a worker process of `--workers N` runs: it takes chunks until the connection ends."""

import signal
import threading
from dataclasses import dataclass

from nerve_stream.child import Connection
from nerve_stream.pipeline.messages import receive_message, send_message
from nerve_stream.scaleout.job import Job, JobInput, Outcome
from nerve_stream.scaleout.worker import JobWorker


@dataclass(frozen=True, slots=True)
class Chunk:
    """Inputs to do, one outcome each."""

    inputs: tuple[JobInput, ...]


def main(connection: Connection) -> None:
    """Do chunk after chunk; SIGTERM ends the input under way, whose outputs are not kept."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: stop.set())
    try:
        job: Job = receive_message(connection)
        worker = JobWorker(job, stop)
        while not stop.is_set():
            chunk: Chunk = receive_message(connection)
            for item in chunk.inputs:
                outcome = worker.run(item) if not stop.is_set() else Outcome(item.source, "stopped")
                send_message(connection, outcome)
        worker.close()
    except OSError:
        return  # nobody is left to work for
