"""Starts the Triton server that make test-slow fetched, on a repository whose graphs run in Python."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import pytest

from tests.contracts.checkout import ROOT

UNPACKED = ROOT / "build" / "triton" / "nvidia_pytriton"
NUMPY_1 = ROOT / "build" / "triton" / "numpy"
"""For the server alone: its Python back end is built for NumPy 1, and reads arrays of NumPy 2 with strides of 0."""
MODELS = Path(__file__).with_name("models")
START_LIMIT_S = 60.0
GRACE_S = 3
"""Of the server after SIGTERM, --exit-timeout-secs."""
STUB = f"{sys.version_info.major}.{sys.version_info.minor}"


def require_server() -> None:
    """Skip where the server, or what its clients need, is not there."""
    if not (UNPACKED / "pytriton").is_dir():
        pytest.skip("no Triton server in build/triton; make test-slow fetches it")
    pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed; make .venv/.scale")
    if not (UNPACKED / "pytriton/tritonserver/python_backend_stubs" / STUB).is_dir():
        pytest.skip(f"the Triton server has no Python {STUB}")


def runnable_repository(repository: Path) -> None:
    """Let the graphs of a repository be run by ONNX Runtime in Python, which is all that the wheel's server can."""
    for config in repository.glob("*/config.pbtxt"):
        text = config.read_text(encoding="utf-8")
        swapped = re.sub(
            r'platform: "onnxruntime_onnx"\ndefault_model_filename: "model.onnx"', 'backend: "python"', text
        )
        if swapped != text:
            config.write_text(swapped, encoding="utf-8")
            shutil.copyfile(MODELS / "graph.py", config.parent / "1" / "model.py")


def add_model(repository: Path, name: str, config: str, model: str) -> None:
    """Put a model of the tests beside those of a bundle."""
    folder = repository / name / "1"
    folder.mkdir(parents=True)
    (folder.parent / "config.pbtxt").write_text(f'name: "{name}"\nbackend: "python"\n{config}\n', encoding="ascii")
    (folder / "model.py").write_text(model, encoding="ascii")


@dataclass(slots=True)
class Server:
    """A running server.

    Attributes:
        process: the server itself, head of a process group of its own.
        http_port: for HTTP.
        grpc_port: for gRPC.
        log: what it wrote.
    """

    process: subprocess.Popen[bytes]
    http_port: int
    grpc_port: int
    log: Path

    @property
    def addresses(self) -> dict[str, str]:
        """For `TritonSegmenter.open`, by protocol."""
        return {"grpc": f"grpc://127.0.0.1:{self.grpc_port}", "http": f"http://127.0.0.1:{self.http_port}"}

    def status(self, path: str, method: str = "GET", body: bytes = b"", timeout_s: float = 30.0) -> tuple[int, bytes]:
        """Code and body of an HTTP answer."""
        connection = HTTPConnection("127.0.0.1", self.http_port, timeout=timeout_s)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def group(self) -> list[int]:
        """The processes of its group that are left, zombies too."""
        left = []
        for status in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = status.read_text().rpartition(")")[2].split()
            except OSError:  # it ended meanwhile
                continue
            if int(fields[2]) == self.process.pid:
                left.append(int(status.parent.name))
        return left


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@contextmanager
def running_server(repository: Path, models: list[str], folder: Path, *words: str) -> Iterator[Server]:
    """Start a server, wait until these models are ready, and end its whole process group afterwards."""
    http_port, grpc_port = free_port(), free_port()
    server = UNPACKED / "pytriton" / "tritonserver"
    backends = folder / "backends"
    shutil.copytree(server / "backends", backends)
    stub = backends / "python" / "triton_python_backend_stub"
    shutil.copyfile(server / "python_backend_stubs" / STUB / stub.name, stub)
    binary = folder / "tritonserver"
    shutil.copyfile(server / "bin" / "tritonserver", binary)
    for program in (stub, binary):
        program.chmod(0o755)
    libraries = [str(sysconfig.get_config_var("LIBDIR")), str(UNPACKED / "nvidia_pytriton.libs")]
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": ":".join(libraries),
        "PATH": f"{_python_folder(folder)}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    shared = f"nerve_test_{http_port}_"
    log = folder / "server.log"
    command = [
        str(binary), f"--model-repository={repository}", f"--backend-directory={backends}",
        "--http-address=127.0.0.1", f"--http-port={http_port}", "--grpc-address=127.0.0.1", f"--grpc-port={grpc_port}",
        "--allow-metrics=false", "--strict-readiness=true", "--exit-on-error=false", f"--exit-timeout-secs={GRACE_S}",
        "--model-load-thread-count=8", f"--backend-config=python,shm-region-prefix-name={shared}", *words,
    ]  # fmt: skip
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    running = Server(process, http_port, grpc_port, log)
    try:
        _wait_until_ready(running, models)
        yield running
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            if process.poll() is None or running.group():
                os.killpg(process.pid, number)
                _wait_for_end(process, GRACE_S + 10)
        for region in Path("/dev/shm").glob(f"{shared}*"):  # of processes that were killed
            region.unlink()


def _python_folder(folder: Path) -> Path:
    """A Python for the server: what is installed here, this checkout, and NumPy 1.

    The server's Python is isolated, so that PYTHONPATH says nothing; its packages are those of the first python3 in PATH.
    """
    environment = folder / "python"
    venv.create(environment, symlinks=True)
    paths = [str(NUMPY_1), sysconfig.get_paths()["purelib"], str(ROOT / "runtime")]
    (environment / "lib" / f"python{STUB}" / "site-packages" / "nerve.pth").write_text(
        "\n".join(paths), encoding="utf-8"
    )
    return environment / "bin"


def _wait_for_end(process: subprocess.Popen[bytes], limit_s: float) -> None:
    try:
        process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return


def _wait_until_ready(server: Server, models: list[str]) -> None:
    ends_at = time.monotonic() + START_LIMIT_S
    waiting = list(models)
    while waiting:
        if server.process.poll() is not None or time.monotonic() > ends_at:
            raise AssertionError(
                f"models {waiting} did not get ready: {server.log.read_text(errors='replace')[-4000:]}"
            )
        with suppress(OSError, HTTPException):  # the port is not open yet
            waiting = [name for name in waiting if server.status(f"/v2/models/{name}/ready")[0] != 200]
        time.sleep(0.1)
