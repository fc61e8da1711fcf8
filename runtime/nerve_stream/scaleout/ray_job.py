"""`--ray`: the chunks of a job by the actors of Ray Data, on this machine or on a cluster.

Ray schedules, retries and holds back; nothing of that is ours. Each actor is a JobWorker, which writes outputs itself, and
rows of a few hundred bytes come back.
"""

import json
import logging
import os
import socket
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nerve_runtime import CompatibilityError, ResourceError
from nerve_stream.scaleout.job import Job, JobInput, Outcome, decode_chunk, encode_chunk
from nerve_stream.scaleout.worker import JobWorker

MISSING_EXTRA = '--ray needs the extra "ray", {} not installed; run: pip install "nerve-deploy[stream,ray]"'
OBJECT_STORE_BYTES = 150_000_000
"""Of a cluster that is started here: chunks and outcomes are kilobytes, and Ray would take 30 % of the memory."""
ANSWER_TIMEOUT_S = 5.0
Rows = Mapping[str, NDArray[np.object_]]


@dataclass(frozen=True, slots=True)
class RayOptions:
    """Where and how large.

    Attributes:
        address: of a cluster, None to start one on this machine or to take the one of RAY_ADDRESS.
        workers: actors at most; None for as many as there are processors or GPUs for.
        cpus_per_worker: processors that each actor is given.
        gpus_per_worker: GPUs, or parts of one, that each actor is given.
    """

    address: str | None = None
    workers: int | None = None
    cpus_per_worker: int = 1
    gpus_per_worker: float = 0.0


class RayWorker:
    """A JobWorker as Ray Data calls it: a batch of one chunk in, a row for each of its inputs out.

    Args:
        job: what to do.
    """

    def __init__(self, job: Job) -> None:
        self._worker = JobWorker(job)

    def __call__(self, batch: Rows) -> dict[str, list[str]]:
        """Do the chunks of a batch."""
        inputs = [item for chunk in batch["chunk"] for item in decode_chunk(str(chunk))]
        return {"outcome": [json.dumps(self._worker.run(item).record()) for item in inputs]}


def refuse_without_ray() -> None:
    """Refuse `--ray` where its packages are not installed.

    Raises:
        CompatibilityError: they are not.
    """
    missing = [package for package in ("fsspec", "pandas", "pyarrow", "ray") if find_spec(package) is None]
    if missing:
        raise CompatibilityError(MISSING_EXTRA.format(f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'}"))


def refuse_silent_address(address: str) -> None:
    """Refuse a cluster at whose address nobody answers; Ray itself tries for minutes.

    Args:
        address: as Ray takes it; without a port it is not looked at.

    Raises:
        CompatibilityError: nobody answers within 5 s.
    """
    host, _, port = address.rpartition("//")[2].rpartition(":")
    if not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        raise CompatibilityError(f"no Ray cluster answers at {address}: {error}; check --ray-address") from error


class RayCluster:
    """A connection to a cluster, or one that is started here; a context manager that ends what it started.

    Args:
        options: where and how large.

    Attributes:
        workers: actors at most.

    Raises:
        CompatibilityError: Ray is not installed, or the cluster does not answer.
        ResourceError: the cluster has no room for one worker.
    """

    def __init__(self, options: RayOptions) -> None:
        refuse_without_ray()
        refuse_silent_address(options.address or os.environ.get("RAY_ADDRESS", ""))
        # Read when ray is imported.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray

        self._ray: Any = ray
        self._options = options
        try:
            ray.init(**_init_options(options))
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            raise CompatibilityError(
                f"Ray at {options.address or 'this machine'} cannot be used: {error}; check --ray-address"
            ) from error
        try:
            self.workers = self._room()
        except BaseException:
            ray.shutdown()
            raise

    def _room(self) -> int:
        resources = self._ray.cluster_resources()
        room = int(resources.get("CPU", 0) // self._options.cpus_per_worker)
        if self._options.gpus_per_worker:
            room = min(room, int(resources.get("GPU", 0) / self._options.gpus_per_worker))
        if room < 1:
            raise ResourceError(
                f"the cluster has {resources.get('CPU', 0):g} processors and {resources.get('GPU', 0):g} GPUs, a worker "
                f"asks for {self._options.cpus_per_worker} and {self._options.gpus_per_worker:g}; "
                "lower --threads or --gpus-per-worker"
            )
        return min(room, self._options.workers or room)

    def run(self, job: Job, chunks: Sequence[Sequence[JobInput]]) -> Generator[Outcome, None, None]:
        """Do the chunks and give each input's outcome as it comes.

        Raises:
            ResourceError: Ray gave up; what was done is recorded.
        """
        import ray.data
        import ray.exceptions

        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        # One chunk a task and few at a time in each actor's queue: a chunk takes seconds to hours.
        rows = [{"chunk": encode_chunk(chunk)} for chunk in chunks]
        outcomes = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            RayWorker,
            batch_size=None,
            batch_format="numpy",
            fn_constructor_args=(job,),
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=self.workers, max_tasks_in_flight_per_actor=2),
            num_cpus=self._options.cpus_per_worker,
            num_gpus=self._options.gpus_per_worker or None,
        )
        try:
            for row in outcomes.iter_rows():
                yield Outcome.from_record(json.loads(row["outcome"]))
        except ray.exceptions.RayError as error:
            reason = " ".join(str(error).split())[-500:]
            raise ResourceError(f"Ray ended the job: {reason}; what is done is recorded, run it again") from error

    def __enter__(self) -> "RayCluster":
        """Return the cluster itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the cluster; one that was started here ends."""
        self._ray.shutdown()


def _init_options(options: RayOptions) -> dict[str, Any]:
    quiet = {"log_to_driver": False, "logging_level": "ERROR", "include_dashboard": False}
    if options.address is not None or os.environ.get("RAY_ADDRESS"):
        return {"address": options.address or "auto", **quiet}
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # The workers that are asked for are not refused because the processors are fewer: they share them.
    wanted = (options.workers or 1) * options.cpus_per_worker
    return {
        "address": "local",
        "num_cpus": max(processors, wanted),
        "object_store_memory": OBJECT_STORE_BYTES,
        **quiet,
    }
