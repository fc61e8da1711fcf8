"""TensorRT 10, 11 and TensorRT-RTX: runs the bundle's compiled engines on an NVIDIA GPU.

An engine is executable code that its library does not check. So it is looked up by what it is bound to, then in the
list of engines built here, then compared with the manifest's hash, and only then given to the library.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from nerve_runtime.backends.base import Backend, BackendOptions, Session, Tensor
from nerve_runtime.backends.tensorrt.device import STREAMS, Device
from nerve_runtime.backends.tensorrt.engine_records import Machine, fitting_engine, this_os_arch
from nerve_runtime.backends.tensorrt.library import (
    BACKENDS,
    LibraryName,
    error_logger,
    import_library,
)
from nerve_runtime.backends.tensorrt.memory import Cuda, DeviceMemoryError, import_cudart
from nerve_runtime.backends.tensorrt.session import TrtSession
from nerve_runtime.bundle.ledger import Ledger
from nerve_runtime.bundle.manifest import REQUIRED_STAGES, EngineRecord, Manifest, verify_file
from nerve_runtime.bundle.spec import Array, StageName
from nerve_runtime.errors import BundleError, CompatibilityError, UsageError, is_out_of_memory


class TrtBackend(Backend):
    """Opens stages as engines of the TensorRT family.

    Args:
        bundle: the bundle's folder.
        manifest: its manifest; every engine is verified against it before the library sees it.
        options: `trust_engines` runs engines that are not in the ledger, `allow_unchecked` those that were never compared
            with the reference; engines that failed the comparison are always refused.
        library: "tensorrt_rtx" or "tensorrt" (10 or 11).
        trt: used instead of importing `library`, for tests.
        cudart: used instead of cuda-python's runtime module, for tests.
        ledger: list of engines built here; the user's own by default.
        chosen_by_auto: part of what `describe` says.

    Raises:
        CompatibilityError: the library, cuda-python, or a GPU is missing.
    """

    def __init__(
        self,
        bundle: Path,
        manifest: Manifest,
        options: BackendOptions | None = None,
        *,
        library: LibraryName = "tensorrt_rtx",
        trt: Any = None,
        cudart: Any = None,
        ledger: Ledger | None = None,
        chosen_by_auto: bool = False,
    ) -> None:
        self.name = BACKENDS[library]
        self._bundle = bundle
        self._manifest = manifest
        self._library = import_library(library, trt)
        cuda = Cuda(import_cudart() if cudart is None else cudart)
        self._machine = Machine(self._library, cuda.compute_capability(), this_os_arch())
        self._device = Device(self._library.module, cuda, error_logger(self._library.module))
        self._options = options or BackendOptions()
        self._ledger = ledger or Ledger()
        self._chosen_by_auto = chosen_by_auto
        self._runtime: Any = None
        self._undo = ExitStack()  # frees in reverse order
        self._undo.callback(self._device.close)
        self._closed = False
        slots, sides_px = self._greatest("scores", "class_mask"), self._greatest("readout", "size_hw")
        self.class_slots = None if slots is None else slots[-1]  # where several frames share a run, they come first
        self.readout_limit_px = None if sides_px is None else min(sides_px)

    def _greatest(self, stage: StageName, tensor: str) -> list[int] | None:
        """The greatest sizes that a stage's engine takes for a tensor; None where no engine of it fits."""
        try:
            record = fitting_engine(self._bundle, self._manifest, stage, self._machine)
        except CompatibilityError:
            return None  # an error when the stage is opened
        if tensor not in record.profile:
            raise BundleError(f"engine {record.path} has no profile of {tensor!r}; build it again")
        return record.profile[tensor][2]

    def describe(self) -> str:
        """Library, version, GPU, and which checks are off."""
        chosen = "auto chose " if self._chosen_by_auto else ""
        trusted = ", engines from elsewhere trusted" if self._options.trust_engines else ""
        unchecked = ", unchecked engines allowed" if self._options.allow_unchecked else ""
        library = self._library
        return f"{chosen}{self.name}: {library.label} {library.version}, {self._machine.gpu}{trusted}{unchecked}"

    def approved_engine(self, stage: StageName) -> EngineRecord:
        """The engine of a stage that fits this machine, was built here and agreed with the reference, unless options say otherwise.

        Decided from the manifest and the ledger; the engine's file is not read.

        Raises:
            CompatibilityError: there is none; says why, and the command that helps.
            ResourceError: the ledger is damaged.
        """
        record = fitting_engine(self._bundle, self._manifest, stage, self._machine)
        build = f"nerve-build engines {self._bundle} --target {self._library.target_option(self._machine.gpu)} --force"
        if not self._options.trust_engines and not self._ledger.knows(self._manifest.files[record.path].sha256):
            raise CompatibilityError(
                f"engine {record.path} was not built here by this user, and an engine is executable code; build it from "
                f"the bundle's graphs with: {build}, or trust whoever built it with trust_engines=True"
            )
        if record.parity == "failed":
            raise CompatibilityError(
                f'engine {record.path} did not agree with the reference; build it again with: {build}, or use backend="ort"'
            )
        if record.parity == "not run" and not self._options.allow_unchecked:
            raise CompatibilityError(
                f"engine {record.path} was never compared with the reference; do it with: nerve-build parity "
                f"{self._bundle} --backend {self.name}, or run it as it is with allow_unchecked=True"
            )
        return record

    def open_session(self, stage: StageName) -> Session:
        """Verify the engine of a stage, then load it."""
        if self._closed:
            raise UsageError("this back end was closed; open it again")
        record = self.approved_engine(stage)
        path = verify_file(self._bundle, self._manifest, record.path)
        session = self._device.with_memory_retry(lambda: self._loaded(stage, record, path))
        self._device.on_memory_short.append(session.release_memory)
        self._undo.callback(session.close)
        return session

    def _loaded(self, stage: StageName, record: EngineRecord, path: Path) -> TrtSession:
        self._device.logger.clear()
        if self._runtime is None:
            # `engine_host_code_allowed` is left as it is, False: version-compatible engines carry code for the processor.
            self._runtime = self._device.module.Runtime(self._device.logger)
        stream = self._device.stream(STREAMS.get(stage, "walk"))
        engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            raise self._load_error(f"{self._library.label} {self._library.version} cannot load {record.path}")
        context = engine.create_execution_context()
        if context is None:
            raise self._load_error(f"{self._library.label} {self._library.version} cannot prepare {record.path}")
        return TrtSession(stage, self._manifest.stages[stage].spec, record, engine, context, stream, self._device)

    def _load_error(self, what: str) -> CompatibilityError | DeviceMemoryError:
        message = self._device.logger.last_errors()
        if is_out_of_memory(message):
            return DeviceMemoryError(f"{what}: {message}")
        return CompatibilityError(
            f"{what}: {message}; build it again with: nerve-build engines {self._bundle} --target "
            f"{self._library.target_option(self._machine.gpu)} --force"
        )

    def upload(self, array: Array) -> Tensor:
        """Copy an array to the device; the host does not wait.

        Raises:
            UsageError: the back end was closed.
            ResourceError: there is no room.
        """
        return self._device.upload(array)

    def release_unused(self) -> None:
        """Give back the memory that no tensor holds."""
        self._device.free_spare()

    def stop(self) -> None:
        """Make later runs fail; the run in flight ends by itself within milliseconds."""
        self._device.stopped = True

    def close(self) -> None:
        """Free sessions, then streams, then the library's runtime; closing twice is fine."""
        self._closed = True
        self._device.on_memory_short.clear()
        self._undo.close()
        self._runtime = None


def automatic_engines(bundle: Path, manifest: Manifest, options: BackendOptions) -> tuple[TrtBackend | None, str]:
    """A back end for this bundle's engines if all that a segmenter needs fit this machine and are approved.

    Returns:
        The back end, or None and the reason in words; "" where the bundle has no engines.

    Raises:
        ResourceError: the ledger is damaged.
    """
    reasons = []
    for name, backend_name in BACKENDS.items():
        if not any(record.backend_version.startswith(f"{name.replace('_', '-')} ") for record in manifest.engines):
            continue
        try:
            backend = TrtBackend(bundle, manifest, options, library=name, chosen_by_auto=True)
            for stage in sorted(REQUIRED_STAGES):
                backend.approved_engine(stage)
        except CompatibilityError as error:
            reasons.append(f"not {backend_name}: {error}")
        else:
            return backend, ""
    return None, "; ".join(reasons)
