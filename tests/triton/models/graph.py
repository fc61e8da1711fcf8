"""Stands for Triton's ONNX Runtime back end, which the server of the tests does not have: the same graph in Python."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime


class TritonPythonModel:
    """One graph; requests of a batch are computed in one run."""

    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        path = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._batched = int(config["max_batch_size"]) > 0
        self._outputs = [output["name"] for output in config["output"]]
        self._runs = Path(args["model_repository"]) / "batches.txt"

    def execute(self, requests: list[Any]) -> list[Any]:
        if not self._batched:
            return [self._response(self._run(self._inputs(request))) for request in requests]
        inputs = [self._inputs(request) for request in requests]
        sizes = [len(next(iter(tensors.values()))) for tensors in inputs]
        with self._runs.open("a", encoding="ascii") as stream:
            stream.write(f"{sum(sizes)}\n")
        merged = {name: np.concatenate([tensors[name] for tensors in inputs]) for name in inputs[0]}
        outputs, ends = self._run(merged), np.cumsum(sizes)
        return [
            self._response({name: values[end - size : end] for name, values in outputs.items()})
            for size, end in zip(sizes, ends, strict=True)
        ]

    def _inputs(self, request: Any) -> dict[str, np.ndarray]:
        """As the graph takes them: of [1] a scalar, which is what Triton's own back end does."""
        tensors = {}
        for node in self._session.get_inputs():
            array = pb_utils.get_input_tensor_by_name(request, node.name).as_numpy()
            tensors[node.name] = array if node.shape else array.reshape(())
        return tensors

    def _run(self, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(self._outputs, self._session.run(self._outputs, tensors), strict=True))

    def _response(self, outputs: dict[str, np.ndarray]) -> Any:
        tensors = [pb_utils.Tensor(name, np.atleast_1d(np.ascontiguousarray(array))) for name, array in outputs.items()]
        return pb_utils.InferenceResponse(output_tensors=tensors)
