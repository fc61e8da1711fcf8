"""ONNX Runtime: runs the bundle's graphs on a processor or, where its CUDA build is installed, on a GPU."""

import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from nerve_runtime.backends.base import Backend, BackendOptions, Providers, Session
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
        return _OrtSession(stage, record.spec, session, self._run_options)

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

    def stop(self) -> None:
        """Ask the run in flight to end at its next node."""
        self._run_options.terminate = True

    def close(self) -> None:
        """Refuse to open more; sessions are freed with their last reference."""
        self._closed = True


class _OrtSession(Session):
    def __init__(self, stage: StageName, spec: StageSpec, session: Any, run_options: Any) -> None:
        super().__init__(stage, spec)
        self._session = session
        self._run_options = run_options
        names = {node.name for node in session.get_inputs()}, {node.name for node in session.get_outputs()}
        if names != spec.names:
            raise BundleError(
                f"stage {stage!r} has inputs {sorted(names[0])} and outputs {sorted(names[1])}, the manifest says "
                f"{sorted(spec.names[0])} and {sorted(spec.names[1])}; rebuild the bundle"
            )

    def compute(self, tensors: Mapping[str, Array], sizes: Mapping[str, int]) -> dict[str, Array]:
        binding = self._session.io_binding()
        # Bound memory is read and written in place, so the arrays must live until the run has ended.
        inputs = {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in tensors.items()}
        for name, array in inputs.items():
            binding.bind_cpu_input(name, array)
        outputs: dict[str, Array] = {}
        for tensor in self.spec.outputs:
            shape = [sizes.get(axis, -1) if isinstance(axis, str) else axis for axis in tensor.axes]
            if -1 in shape:  # a size that follows from values, as the read-out's: the library allocates
                binding.bind_output(tensor.name, "cpu")
                continue
            outputs[tensor.name] = array = np.empty(shape, dtype=tensor.dtype)
            binding.bind_output(tensor.name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        try:
            self._session.run_with_iobinding(binding, self._run_options)
        except Exception as error:  # the library's errors share no base
            raise self._run_error(error) from error
        for tensor, value in zip(self.spec.outputs, binding.get_outputs(), strict=True):
            if tensor.name not in outputs:
                outputs[tensor.name] = value.numpy()
        return outputs

    def _run_error(self, error: Exception) -> NerveError:
        if is_out_of_memory(error):
            return ResourceError(
                f"stage {self.stage!r} ran out of memory: {_message(error)}; use smaller frames or fewer classes"
            )
        return BundleError(
            f"stage {self.stage!r} failed: {_message(error)}; rebuild the bundle, or report it with this line"
        )


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
