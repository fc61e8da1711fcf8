"""The stages of a bundle as models of the same Triton server: a back end of the thin runtime."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nerve_runtime import BundleError, NerveError, ResourceError
from nerve_runtime.backends import Backend, DeviceTensor, Session, Tensor
from nerve_runtime.bundle import Manifest

Array = NDArray[Any]
OVERLOAD_PHRASES = ("Exceeds maximum queue size", "Request timeout expired", "out of memory", "failed to allocate")


class StageTensor(DeviceTensor):
    """A tensor as Triton gave it, in host memory or on a GPU, or one entry of it.

    Args:
        value: a `pb_utils.Tensor`.
        dtype: its element type.
        shape: its sizes as the manifest counts them.
        memory: its values where they are in host memory, not a copy.
    """

    def __init__(self, value: Any, dtype: np.dtype[Any], shape: tuple[int, ...], memory: Array | None) -> None:
        super().__init__(dtype, shape)
        self.value = value
        self._memory = memory

    @property
    def host_view(self) -> Array | None:
        """The values where they are in host memory, not a copy."""
        return self._memory

    def item(self, index: int, *, keep_axis: bool = False) -> "StageTensor":
        """One entry of the first axis, in the memory of this tensor."""
        if self._memory is None:
            raise BundleError(
                "a tensor of several frames was left on the GPU, where nothing takes them apart; generate the repository anew"
            )
        entry = self._memory[index : index + 1] if keep_axis else self._memory[index]
        return StageTensor(self.value, self.dtype, entry.shape, entry)


class StageBackend(Backend):
    """Runs each stage as a request to the model of that name in the same server.

    Sessions are no connections, so opening one costs nothing, and several threads may run the same stage at once: that
    is what Triton's dynamic batching makes one run of.

    Args:
        manifest: of the bundle that the models were made from.
        pb_utils: `triton_python_backend_utils`, which exists in a server only.
        on_gpu: leave tensors that are not wanted on the host on the GPU.
        class_slots: the class axis that the engines fix; None for ONNX graphs.
        readout_limit_px: the longest side that the engines read out; None for ONNX graphs.
    """

    name = "triton"
    waits_for_each_run = True

    def __init__(
        self,
        manifest: Manifest,
        pb_utils: Any,
        *,
        on_gpu: bool = False,
        class_slots: int | None = None,
        readout_limit_px: int | None = None,
    ) -> None:
        self.class_slots = class_slots
        self.readout_limit_px = readout_limit_px
        self._manifest = manifest
        self._pb_utils = pb_utils
        self._on_gpu = on_gpu

    def describe(self) -> str:
        """That Triton runs the stages, and where."""
        return f"triton: stages of preset {self._manifest.preset} on {'a GPU' if self._on_gpu else 'the processor'}"

    def open_session(self, stage: str) -> Session:
        """A session that sends its tensors to the model of the stage."""
        if stage not in self._manifest.stages:
            raise BundleError(f"the bundle has no stage {stage!r}, only {', '.join(self._manifest.stages)}")
        return _StageSession(stage, self._manifest, self._pb_utils, on_gpu=self._on_gpu)

    def stop(self) -> None:
        """Nothing: a run ends when its model answers, which the server's own time limits see to."""

    def close(self) -> None:
        """Nothing to release."""


class _StageSession(Session):
    def __init__(self, stage: Any, manifest: Manifest, pb_utils: Any, *, on_gpu: bool) -> None:
        super().__init__(stage, manifest.stages[stage].spec)
        self._fewest_axes = 2 if manifest.geometry.batches(stage) else 1
        self._pb_utils = pb_utils
        self._on_gpu = on_gpu

    def compute(self, tensors: Mapping[str, Any], sizes: Mapping[str, int], host: Collection[str]) -> dict[str, Tensor]:
        kept_on_gpu = self._on_gpu and not host
        memory = self._pb_utils.TRITONSERVER_MEMORY_GPU if kept_on_gpu else self._pb_utils.TRITONSERVER_MEMORY_CPU
        request = self._pb_utils.InferenceRequest(
            model_name=self.stage,
            requested_output_names=[spec.name for spec in self.spec.outputs],
            inputs=[self._input(spec, tensors[spec.name]) for spec in self.spec.inputs],
            preferred_memory=self._pb_utils.PreferredMemory(memory, 0),
        )
        response = request.exec()
        if response.has_error():
            raise self._error(response.error().message())
        outputs = {spec.name: self._output(spec, response) for spec in self.spec.outputs}
        return {name: self._array(tensor) if name in host else tensor for name, tensor in outputs.items()}

    def _input(self, spec: Any, tensor: Any) -> Any:
        """A tensor under the name that the model takes it by; what is one number has an axis more in Triton."""
        if isinstance(tensor, StageTensor):
            if tensor.host_view is None:
                return self._pb_utils.Tensor.from_dlpack(spec.name, tensor.value.to_dlpack())
            if tensor.value.name() == spec.name and tuple(tensor.value.as_numpy().shape) == tensor.shape:
                return tensor.value
            tensor = tensor.host_view
        array = np.ascontiguousarray(tensor).reshape(tensor.shape)
        return self._pb_utils.Tensor(spec.name, array if array.ndim >= self._fewest_axes else array[..., None])

    def _output(self, spec: Any, response: Any) -> StageTensor:
        value = self._pb_utils.get_output_tensor_by_name(response, spec.name)
        if value is None:
            raise BundleError(f"model {self.stage!r} of the server gave no {spec.name!r}; generate the repository anew")
        memory = value.as_numpy() if value.is_cpu() else None
        shape = tuple(value.shape() if memory is None else memory.shape)
        shape = shape[: len(spec.axes)]  # without the axis more of what is one number
        if memory is None:
            return StageTensor(value, np.dtype(spec.dtype), shape, None)
        return StageTensor(value, memory.dtype, shape, memory.reshape(shape))

    def _array(self, tensor: StageTensor) -> Tensor:
        if tensor.host_view is None:
            raise BundleError(
                f"model {self.stage!r} of the server left an output on the GPU that is wanted on the host"
            )
        return tensor.host_view.copy()

    def _error(self, message: str) -> NerveError:
        sentence = " ".join(message.split())
        if any(phrase in sentence for phrase in OVERLOAD_PHRASES):
            return ResourceError(
                f"model {self.stage!r} of the server has no room: {sentence}; send fewer frames at once"
            )
        return BundleError(f"model {self.stage!r} of the server failed: {sentence}; look into the server's log")
