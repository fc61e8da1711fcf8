"""ONNX Runtime: runs the bundle's graphs on a processor or, where its CUDA build is installed, on a GPU."""

import math
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from nerve_runtime.backends.base import Backend, BackendOptions, DeviceTensor, Providers, Session, Tensor
from nerve_runtime.bundle.graph_check import BundleGraphs
from nerve_runtime.bundle.manifest import Manifest
from nerve_runtime.bundle.spec import Array, StageName, StageSpec
from nerve_runtime.errors import (
    BundleError,
    CompatibilityError,
    NerveError,
    ResourceError,
    UsageError,
    is_out_of_memory,
)

PROVIDER_NAMES: Mapping[Providers, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
LOG_ERRORS_ONLY = 3
FALLBACK_PHRASE = "fallback to CPU EP has been explicitly disabled"
NOT_SUPPORTED_PHRASES = ("NOT_IMPLEMENTED", "opset", "ir_version", "IR version", "is not a registered function/op")


class OrtTensor(DeviceTensor):
    """An `OrtValue`.

    Args:
        value: of ONNX Runtime.
        dtype: its element type.
        shape: its sizes.
        memory: the array that it is made of; None where ONNX Runtime has the memory.
        offset_bytes: where in the value it begins.
    """

    def __init__(
        self, value: Any, dtype: np.dtype[Any], shape: tuple[int, ...], memory: Array | None, offset_bytes: int = 0
    ) -> None:
        super().__init__(dtype, shape)
        self.value = value
        self._memory = memory
        self._offset_bytes = offset_bytes

    def bind_as_input(self, binding: Any, name: str) -> None:
        """Let a run read it where it is."""
        if self.shape == tuple(self.value.shape()):
            binding.bind_ortvalue_input(name, self.value)
            return
        address = self.value.data_ptr() + self._offset_bytes
        binding.bind_input(name, self.value.device_name(), 0, self.dtype, self.shape, address)

    def item(self, index: int, *, keep_axis: bool = False) -> "OrtTensor":
        """One entry of the first axis, in the memory of this tensor."""
        shape = (1, *self.shape[1:]) if keep_axis else self.shape[1:]
        memory = None if self._memory is None else self._memory[index].reshape(shape)
        offset_bytes = self._offset_bytes + index * math.prod(self.shape[1:]) * self.dtype.itemsize
        return OrtTensor(self.value, self.dtype, shape, memory, offset_bytes)

    @property
    def host_view(self) -> Array | None:
        """The array that it is made of, if it is."""
        return self._memory


class OrtBackend(Backend):
    """Opens stages as ONNX Runtime sessions.

    Args:
        bundle: the bundle's folder.
        manifest: its manifest; every file but engines is verified against it before ONNX Runtime sees one.
        options: `providers`, `threads` and `spinning` count.
        chosen_by_auto: part of what `describe` says.
        reason: of that choice, said too.

    Raises:
        CompatibilityError: onnxruntime is not installed, or was built without what `providers` needs.
    """

    name = "ort"

    def __init__(
        self,
        bundle: Path,
        manifest: Manifest,
        options: BackendOptions | None = None,
        *,
        chosen_by_auto: bool = False,
        reason: str = "",
    ) -> None:
        self._library = import_onnxruntime()
        self._bundle = bundle
        self._manifest = manifest
        self._options = options or BackendOptions()
        self._provider = PROVIDER_NAMES[self._options.providers]
        self._chosen_by_auto = chosen_by_auto
        self._reason = f" ({reason})" if reason else ""
        self._run_options = self._library.RunOptions()
        self._graphs = BundleGraphs(bundle, manifest)
        self._closed = False
        self.waits_for_each_run = self._options.providers != "cpu"  # the CUDA provider synchronises at a run's end
        available = self._library.get_available_providers()
        if self._provider not in available:
            raise CompatibilityError(
                f"onnxruntime {self._library.__version__} has no {self._provider}, only {', '.join(available)}; "
                'install it with: pip uninstall onnxruntime && pip install "nerve-deploy[ort-gpu]"'
            )

    def describe(self) -> str:
        """Library, version, provider and threads."""
        chosen = "auto chose " if self._chosen_by_auto else ""
        threads = self._options.threads or "default"
        return (
            f"{chosen}ort{self._reason}: onnxruntime {self._library.__version__}, {self._provider}, threads {threads}"
        )

    def open_session(self, stage: StageName) -> Session:
        """Verify the bundle's files and check the graph, then open it."""
        if self._closed:
            raise UsageError("this back end was closed; open it again")
        record = self._graphs.checked(stage)
        session = self._open(self._bundle / record.onnx)
        if session.get_providers()[0] != self._provider:
            raise CompatibilityError(
                f"stage {stage!r} would run on {session.get_providers()[0]}, not on {self._provider} as asked; "
                'check the driver and libraries of the GPU, or use providers="cpu"'
            )
        return _OrtSession(stage, record.spec, session, self._run_options, self._options.providers)

    def _open(self, path: Path) -> Any:
        try:
            name = os.fsencode(path).decode()  # UTF-8, whatever the locale takes the bytes of the name for
            # enable_fallback would print on stdout and try again on the processor.
            session = self._library.InferenceSession(
                name, self._session_options(), providers=[self._provider], enable_fallback=0
            )
        except Exception as error:  # the library's errors share no base; every one of them is about this file
            raise self._open_error(path, error) from error
        session.disable_fallback()  # else a failing run is silently repeated on the processor
        return session

    def _open_error(self, path: Path, error: Exception) -> NerveError:
        library = f"onnxruntime {self._library.__version__}"
        if isinstance(error, UnicodeDecodeError):
            return UsageError(
                f"{library} opens files by names in UTF-8 only, {path} is none; rename or move the bundle"
            )
        if is_out_of_memory(error):
            return ResourceError(f"not enough memory to open {path.name}: {_message(error)}")
        if FALLBACK_PHRASE in str(error):
            return CompatibilityError(
                f"{path.name} would not run on {self._provider} alone, as asked: {_message(error)}; "
                'check the driver and libraries of the GPU, or use providers="cpu"'
            )
        if not any(phrase in str(error) for phrase in NOT_SUPPORTED_PHRASES):
            return BundleError(f"{path.name} is not a graph that onnxruntime can open: {_message(error)}; rebuild it")
        if self._manifest.precision == "bf16":
            return CompatibilityError(
                f"{library} cannot run {path.name} in bf16 on {self._provider}; "
                "compile engines from this bundle, or build one with --precision fp16"
            )
        return CompatibilityError(
            f"{library} cannot run {path.name} (opset {self._manifest.opset}): {_message(error)}; update onnxruntime, "
            "or build the bundle with --opset 20"
        )

    def _session_options(self) -> Any:
        options = self._library.SessionOptions()
        options.log_severity_level = LOG_ERRORS_ONLY
        options.intra_op_num_threads = self._options.threads
        options.inter_op_num_threads = 1
        # Spinning threads take the cores that decoding and encoding need: with both on 2 cores a video of 512 px ran at
        # 11 frames a second instead of 21. On idle cores they make the same graphs a third faster.
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if self._options.spinning else "0")
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if self._provider != PROVIDER_NAMES["cpu"]:
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        return options

    def upload(self, array: Array) -> OrtTensor:
        """Make an `OrtValue` of an array: on the processor without a copy, so that the array must stay as it is.

        Raises:
            ResourceError: the device has no room.
        """
        array = _contiguous(array)
        device = self._options.providers
        try:
            value = self._library.OrtValue.ortvalue_from_numpy(array, device, 0)
        except Exception as error:  # the library's errors share no base
            if is_out_of_memory(error):
                raise ResourceError(f"no memory for {array.nbytes} bytes on {device}: {_message(error)}") from error
            raise
        return OrtTensor(value, array.dtype, array.shape, array if device == "cpu" else None)

    def stop(self) -> None:
        """Ask the run in flight to end at its next node."""
        self._run_options.terminate = True

    def close(self) -> None:
        """Refuse to open more; sessions are freed with their last reference."""
        self._closed = True


class _OrtSession(Session):
    def __init__(self, stage: StageName, spec: StageSpec, session: Any, run_options: Any, device: str) -> None:
        super().__init__(stage, spec)
        self._session = session
        self._run_options = run_options
        self._device = device
        names = {node.name for node in session.get_inputs()}, {node.name for node in session.get_outputs()}
        if names != spec.names:
            raise BundleError(
                f"stage {stage!r} has inputs {sorted(names[0])} and outputs {sorted(names[1])}, the manifest says "
                f"{sorted(spec.names[0])} and {sorted(spec.names[1])}; rebuild the bundle"
            )

    def compute(self, tensors: Mapping[str, Any], sizes: Mapping[str, int], host: Collection[str]) -> dict[str, Tensor]:
        binding = self._session.io_binding()
        # Bound memory is read and written in place, so the arrays must live until the run has ended.
        inputs = {name: _contiguous(tensor) for name, tensor in tensors.items()}
        for name, tensor in inputs.items():
            if isinstance(tensor, OrtTensor):
                tensor.bind_as_input(binding, name)
            else:
                binding.bind_cpu_input(name, tensor)
        outputs: dict[str, Array] = {}
        for spec in self.spec.outputs:
            shape = [sizes.get(axis, -1) if isinstance(axis, str) else axis for axis in spec.axes]
            device = "cpu" if spec.name in host else self._device
            if device != "cpu" or -1 in shape:  # -1: a size that follows from values, as the read-out's
                binding.bind_output(spec.name, device)
                continue
            outputs[spec.name] = array = np.empty(shape, dtype=spec.dtype)
            binding.bind_output(spec.name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        try:
            self._session.run_with_iobinding(binding, self._run_options)
        except Exception as error:  # the library's errors share no base
            raise self._run_error(error) from error
        values = zip(self.spec.outputs, binding.get_outputs(), strict=True)
        return {spec.name: self._output(value, outputs.get(spec.name), spec.name in host) for spec, value in values}

    def _output(self, value: Any, array: Array | None, wanted: bool) -> Tensor:
        if not wanted:
            return OrtTensor(value, _dtype(value), tuple(value.shape()), array)
        found: Array = value.numpy() if array is None else array
        return found

    def _run_error(self, error: Exception) -> NerveError:
        if is_out_of_memory(error):
            return ResourceError(
                f"stage {self.stage!r} ran out of memory: {_message(error)}; use smaller frames or fewer classes"
            )
        return BundleError(
            f"stage {self.stage!r} failed: {_message(error)}; rebuild the bundle, or report it with this line"
        )


def _dtype(value: Any) -> np.dtype[Any]:
    """Of an `OrtValue`, which calls it for example `tensor(float)`."""
    name = value.data_type().removeprefix("tensor(").removesuffix(")")
    return np.dtype({"float": "float32", "double": "float64"}.get(name, name))


def _contiguous(tensor: Any) -> Any:
    """An array in C order; NumPy's own function makes (1,) of ()."""
    return tensor if isinstance(tensor, DeviceTensor) else np.ascontiguousarray(tensor).reshape(tensor.shape)


def _message(error: Exception) -> str:
    """The library's message in one line, or the error's kind where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def import_onnxruntime() -> ModuleType:
    """Import ONNX Runtime with its reports to its vendor switched off.

    Raises:
        CompatibilityError: it is not installed, or its libraries are broken.
    """
    # Its telemetry is on by default and starts with the import; a device with a camera reports to nobody.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise CompatibilityError(
            f'onnxruntime cannot be imported ({error}); install it with: pip install "nerve-deploy[ort]"'
        ) from error
    module: ModuleType = onnxruntime
    return module
