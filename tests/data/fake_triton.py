"""A Triton server in this process: `pb_utils` whose requests run the fake back end, and a connection to model `nerve`."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nerve_export.triton.repository import write_repository
from nerve_export.triton.settings import Settings, nerve_config
from nerve_runtime.backends.fake import FakeBackend
from nerve_runtime.bundle.manifest import load_manifest
from nerve_runtime.errors import NerveError
from nerve_stream.triton import messages
from nerve_stream.triton.model import TritonPythonModel
from nerve_stream.triton.transport import Connection


class FakeTensor:
    """A `pb_utils.Tensor`; `on_gpu` ones cannot be read here, as in a server."""

    def __init__(self, name: str, array: np.ndarray[Any, Any], *, on_gpu: bool = False) -> None:
        self._name, self.array, self.on_gpu = name, array, on_gpu

    def name(self) -> str:
        return self._name

    def is_cpu(self) -> bool:
        return not self.on_gpu

    def shape(self) -> list[int]:
        return list(self.array.shape)

    def as_numpy(self) -> np.ndarray[Any, Any]:
        assert not self.on_gpu, "a tensor on the GPU is read"
        return self.array

    def to_dlpack(self) -> "FakeTensor":
        return self

    @staticmethod
    def from_dlpack(name: str, capsule: "FakeTensor") -> "FakeTensor":
        return FakeTensor(name, capsule.array, on_gpu=capsule.on_gpu)


class FakeError(Exception):
    """A `pb_utils.TritonError`."""

    INVALID_ARG, UNAVAILABLE, INTERNAL = "INVALID_ARGUMENT", "UNAVAILABLE", "INTERNAL"

    def __init__(self, message: str, code: str = INTERNAL) -> None:
        super().__init__(message)
        self.code = code

    def message(self) -> str:
        return str(self)


class FakeResponse:
    """A `pb_utils.InferenceResponse`."""

    def __init__(self, output_tensors: list[FakeTensor], error: FakeError | None = None) -> None:
        self.tensors = {tensor.name(): tensor for tensor in output_tensors}
        self._error = error

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> FakeError | None:
        return self._error


class FakeRequest:
    """What a model's `execute` gets, and what it sends to another model."""

    def __init__(self, tensors: Mapping[str, np.ndarray[Any, Any]]) -> None:
        self.tensors = {name: FakeTensor(name, array) for name, array in tensors.items()}


def _by_name(holder: Any, name: str) -> FakeTensor | None:
    return holder.tensors.get(name)


class FakeUtilities(SimpleNamespace):
    """`triton_python_backend_utils` of a server whose stages are the fake back end's.

    Attributes:
        asked: the stages that were asked, in order.
        failing: by stage, the message of the error that it answers with.
    """

    Tensor, InferenceResponse, TritonError = FakeTensor, FakeResponse, FakeError
    TRITONSERVER_MEMORY_CPU, TRITONSERVER_MEMORY_GPU = "cpu", "gpu"
    get_input_tensor_by_name = staticmethod(_by_name)
    get_output_tensor_by_name = staticmethod(_by_name)

    def __init__(self, bundle: Path, backend: FakeBackend | None = None) -> None:
        super().__init__()
        manifest = load_manifest(bundle)
        self.backend = backend or FakeBackend(manifest)
        self.asked: list[str] = []
        self.failing: dict[str, str] = {}
        utilities = self

        class StageRequest:
            def __init__(
                self,
                model_name: Any,
                requested_output_names: list[str],
                inputs: list[FakeTensor],
                preferred_memory: str,
            ) -> None:
                self._stage, self._wanted, self._inputs, self._memory = (
                    model_name,
                    requested_output_names,
                    inputs,
                    preferred_memory,
                )

            def exec(self) -> FakeResponse:
                stage: Any = self._stage
                utilities.asked.append(stage)
                if stage in utilities.failing:
                    return FakeResponse([], FakeError(utilities.failing[stage]))
                batched, spec = manifest.geometry.batches(stage), manifest.stages[stage].spec
                axes = {tensor.name: tensor.axes for tensor in spec.inputs}
                tensors = {}
                for tensor in self._inputs:
                    expected = axes[tensor.name()]
                    more = len(expected) < (2 if batched else 1)
                    assert tensor.array.ndim == len(expected) + more, (stage, tensor.name(), tensor.array.shape)
                    tensors[tensor.name()] = tensor.array[..., 0] if more else tensor.array
                outputs = utilities.backend.compute(stage, tensors)
                on_gpu = self._memory == "gpu"
                return FakeResponse(
                    [FakeTensor(name, np.atleast_1d(outputs[name]), on_gpu=on_gpu) for name in self._wanted]
                )

        self.InferenceRequest = StageRequest

    @staticmethod
    def PreferredMemory(memory: str, device: int) -> str:  # noqa: N802  # as Triton spells it
        return memory


class FakeServer:
    """The model `nerve` as a server would load it from a repository; Triton's own rule for sequences included.

    Attributes:
        utilities: its `pb_utils`.
        model: the model.
    """

    def __init__(
        self, bundle: Path, folder: Path, patch: pytest.MonkeyPatch, settings: Settings | None = None, **changes: str
    ) -> None:
        settings = settings or Settings(processes=1)
        write_repository(bundle, folder / "models", settings)
        manifest = load_manifest(bundle)
        facts = nerve_config(manifest, settings, {})
        parameters = {
            "most_sequences": str(facts["sequences"]), "stages_on_gpu": str(facts["on_gpu"]).lower(),
            "class_slots": str(facts["class_slots"]), "readout_limit_px": str(facts["readout_limit_px"]), **changes,
        }  # fmt: skip
        config = {
            "max_batch_size": 2 * facts["sequences"],
            "sequence_batching": {"max_sequence_idle_microseconds": str(facts["idle_us"])},
            "output": [{"name": "labels", "data_type": facts["labels_type"]}],
            "parameters": {name: {"string_value": value} for name, value in parameters.items()},
        }
        self.utilities = FakeUtilities(bundle)
        patch.setitem(sys.modules, "triton_python_backend_utils", self.utilities)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        self.model = TritonPythonModel()
        self.model.initialize(
            {
                "model_config": json.dumps(config),
                "model_repository": str(folder / "models" / "nerve"),
                "model_version": "1",
            }
        )
        self._known: set[int] = set()

    def infer(
        self, tensors: Mapping[str, np.ndarray[Any, Any]], sequence: int, *, start: bool = False, end: bool = False
    ) -> FakeResponse:
        """A request of a client, with the inputs that Triton adds."""
        if start:
            self._known.add(sequence)
        if sequence not in self._known:
            return FakeResponse(
                [], FakeError(f"sequence {sequence} {messages.START_IS_MISSING}", FakeError.INVALID_ARG)
            )
        flags = {messages.START: start, messages.END: end, messages.READY: True}
        controls: dict[str, Any] = {name: np.array([[value]]) for name, value in flags.items()}
        controls[messages.SEQUENCE] = np.array([[sequence]], dtype=np.uint64)
        response: FakeResponse = self.model.execute([FakeRequest({**tensors, **controls})])[0]
        if end:
            self._known.discard(sequence)
        return response

    def forget(self) -> None:
        """Forget all sequences, as a server that was restarted."""
        self._known.clear()

    def close(self) -> None:
        """Unload the model."""
        self.model.finalize()


class FakeConnection(Connection):
    """A connection to a `FakeServer`, in place of gRPC or HTTP.

    Attributes:
        sent: names of the tensors of each request, and its flags.
        failures: raised by the next requests, one each.
    """

    def __init__(self, server: FakeServer, *, ready: bool = True, known: bool = True) -> None:
        super().__init__("fake://server", messages.MODEL, 1.0)
        self._server, self._ready, self._known = server, ready, known
        self.sent: list[tuple[set[str], bool, bool]] = []
        self.failures: list[Exception] = []
        self.closed = False

    def close(self) -> None:
        self.closed = True

    def _is_ready(self) -> bool:
        return self._ready

    def _is_known(self) -> bool:
        return self._known

    def _infer(self, tensors: Mapping[str, Any], sequence: int, *, start: bool, end: bool) -> dict[str, Any]:
        self.sent.append((set(tensors), start, end))
        if self.failures:
            raise self.failures.pop(0)
        response = self._server.infer(tensors, sequence, start=start, end=end)
        error = response.error()
        if error is not None:
            raise self._translated(f"in ensemble 'x', {error.message()}", error.code)
        return {name: tensor.array for name, tensor in response.tensors.items()}

    def _errors(self) -> Any:
        from contextlib import nullcontext

        return nullcontext()


def error_of(response: FakeResponse) -> NerveError | None:
    """Our error in a response."""
    error = response.error()
    return None if error is None else messages.error_of(error.message())
