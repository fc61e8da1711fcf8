"""OpenVINO runs a bundle's graphs on the processor: a back end for measuring, handed to the runtime as it is.

The runtime itself does not ship it. `Segmenter.open` takes any `Backend`, so frames, vocabulary, walk and read-out are
those of every other run, and only what computes the graphs differs.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nerve_runtime import Segmenter
from nerve_runtime.backends import Backend, BackendOptions, Session, register_backend
from nerve_runtime.bundle.graph_check import BundleGraphs
from nerve_runtime.bundle.manifest import Manifest, load_manifest
from nerve_runtime.bundle.spec import Array, StageName, StageSpec
from nerve_runtime.errors import BundleError, CompatibilityError, UsageError

DEVICE = "CPU"
PRECISION = "f32"
"""Asked for by name: on processors with bf16 OpenVINO would otherwise compute in bf16 what the graph has in float32."""
AGREEMENT_FLOOR_PERCENT = 99.5
INSTALL = "install it with: pip install 'nerve-deploy[openvino]'"


class OpenVinoBackend(Backend):
    """Opens stages as compiled models of OpenVINO, in float32 on the processor.

    Args:
        bundle: the bundle's folder.
        manifest: its manifest; every file but engines is verified against it before OpenVINO sees one.
        options: `threads` counts.

    Raises:
        CompatibilityError: openvino is not installed, or has no processor to run on.
    """

    name = "openvino"

    def __init__(self, bundle: Path, manifest: Manifest, options: BackendOptions | None = None) -> None:
        self._core = _core(import_openvino())
        self._bundle, self._manifest, self._threads = bundle, manifest, (options or BackendOptions()).threads
        self._requests: list[Any] = []
        self._graphs = BundleGraphs(bundle, manifest)
        self._closed = False
        if DEVICE not in self._core.available_devices:
            raise CompatibilityError(
                f"openvino {openvino_version()} has no {DEVICE} here, only {', '.join(self._core.available_devices)}; "
                "install the build for this processor"
            )

    def describe(self) -> str:
        """Library, version, device, precision and threads."""
        threads = self._threads or "default"
        return f"openvino: openvino {openvino_version()}, {DEVICE}, {PRECISION}, threads {threads}"

    def open_session(self, stage: StageName) -> Session:
        """Verify the bundle's files and look the graph over, then compile it; another device or precision is refused."""
        if self._closed:
            raise UsageError("this back end was closed; open it again")
        record = self._graphs.checked(stage)
        compiled = self._compiled(self._bundle / record.onnx)
        used = list(compiled.get_property("EXECUTION_DEVICES")), compiled.get_property("INFERENCE_PRECISION_HINT")
        if used[0] != [DEVICE] or used[1].get_type_name() != PRECISION:
            raise CompatibilityError(
                f"stage {stage!r} would run on {', '.join(used[0])} in {used[1].get_type_name()}, asked for {DEVICE} in "
                f"{PRECISION}: refusing to report it"
            )
        request = compiled.create_infer_request()
        self._requests.append(request)
        return _OpenVinoSession(stage, record.spec, request)

    def _compiled(self, path: Path) -> Any:
        options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": PRECISION}
        if self._threads:
            options["INFERENCE_NUM_THREADS"] = self._threads
        try:
            return self._core.compile_model(str(path), DEVICE, options)
        except RuntimeError as error:  # the library's one error type
            raise CompatibilityError(
                f"openvino {openvino_version()} cannot run {path.name} (opset {self._manifest.opset}): {_said(error)}; "
                "build the bundle with --opset 20, or leave OpenVINO out"
            ) from error

    def stop(self) -> None:
        """Cancel the run in flight."""
        for request in self._requests:
            request.cancel()

    def close(self) -> None:
        """Refuse to open more, and let go of what was compiled."""
        self._closed = True
        self._requests.clear()


class _OpenVinoSession(Session):
    def __init__(self, stage: StageName, spec: StageSpec, request: Any) -> None:
        super().__init__(stage, spec)
        self._request = request

    def compute(
        self, tensors: Mapping[str, Array], sizes: Mapping[str, int], host: Collection[str]
    ) -> dict[str, Array]:
        given = {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in tensors.items()}
        try:
            self._request.infer(given, share_inputs=True)
        except RuntimeError as error:  # the library's one error type
            raise BundleError(f"stage {self.stage!r} failed in openvino: {_said(error)}; rebuild the bundle") from error
        # Copied: the request writes into the same memory on its next run.
        return {tensor.name: np.array(self._request.get_tensor(tensor.name).data) for tensor in self.spec.outputs}


register_backend(OpenVinoBackend.name, OpenVinoBackend)


def import_openvino() -> ModuleType:
    """Import openvino.

    Raises:
        CompatibilityError: it is not installed.
    """
    try:
        return import_module("openvino")
    except ImportError as error:
        raise CompatibilityError(f"openvino cannot be imported ({error}); {INSTALL}") from error


def openvino_version() -> str:
    """Version of the library, without its build number.

    Raises:
        CompatibilityError: it is not installed.
    """
    return str(import_openvino().__version__).partition("-")[0]


@cache
def _core(library: ModuleType) -> Any:
    """The one core of this process, which is never let go.

    A core gives its thread another stack for signals and puts the former one back when it goes. Of two that go in the
    order they came, the second puts back the first one's, which is freed by then: the next SIGTERM is a crash.
    """
    return library.Core()


def label_agreement(
    bundle: Path,
    classes: str | Sequence[str],
    frames: Sequence[NDArray[np.uint8]],
    progress: Callable[..., Any],
    threads: int = 0,
) -> dict[str, Any]:
    """Share of pixels on which OpenVINO and ONNX Runtime give the same label, each frame by itself, as one record.

    Raises:
        NerveError: a back end is missing or cannot run the bundle.
    """
    manifest = load_manifest(bundle)
    words = classes if isinstance(classes, str) else list(classes)
    options, shares = BackendOptions(threads=threads), []
    with (
        Segmenter.open(bundle, words, backend="ort", backend_options=options) as expected,
        Segmenter.open(bundle, words, backend="openvino", backend_options=options) as found,
    ):
        for frame in progress(frames, "comparing labels of ONNX Runtime and OpenVINO"):
            same = expected.segment(frame).labels == found.segment(frame).labels
            shares.append(100 * float(same.mean()))
        return {
            "bench": "backend_agreement",
            "runner": "bundle_openvino",
            "with": "bundle_ort",
            "backends": [expected.backend, found.backend],
            "opset": manifest.opset,
            "percent": round(float(np.mean(shares)), 4),
            "worst_frame_percent": round(min(shares), 4),
            "frames": len(shares),
        }


def _said(error: Exception) -> str:
    """The last telling line of the library's message, which begins with places in its own source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
