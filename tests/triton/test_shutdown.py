"""A server whose model hangs and ignores SIGTERM is gone within its grace, with every process and its port."""

import socket
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from nerve_runtime import HungError
from nerve_stream.triton.transport import connect
from tests.triton.server import GRACE_S, MODELS, add_model, require_server, running_server

pytestmark = pytest.mark.slow
SLOW = """
input [ { name: "seconds" data_type: TYPE_FP32 dims: [ 1 ] } ]
output [ { name: "slept" data_type: TYPE_FP32 dims: [ 1 ] } ]
"""


def test_row_29_a_hung_model_does_not_outlive_sigterm(tmp_path: Path) -> None:
    require_server()
    repository = tmp_path / "models"
    add_model(repository, "slow", SLOW, (MODELS / "slow.py").read_text(encoding="utf-8"))
    with running_server(repository, ["slow"], tmp_path) as server:
        connection = connect(server.addresses["grpc"], "slow", 1.0)
        assert connection.infer({"seconds": np.zeros(1, np.float32)}, 0)["slept"] == 0
        with pytest.raises(HungError, match="did not answer within 1 s"):
            connection.infer({"seconds": np.full(1, np.nan, np.float32)}, 0)
        connection.close()
        processes = [psutil.Process(pid) for pid in server.group()]
        assert len(processes) >= 2, "the server and the process of its model"
        started = time.monotonic()
        server.process.terminate()
        server.process.wait(GRACE_S + 30)
        ended_s = time.monotonic() - started
        _, left = psutil.wait_procs(processes, timeout=10)
        print(f"server gone {ended_s:.1f} s after SIGTERM, {len(left)} of {len(processes)} processes left after it")  # noqa: T201
        assert left == []
        with socket.socket() as port:
            assert port.connect_ex(("127.0.0.1", server.http_port)) != 0
