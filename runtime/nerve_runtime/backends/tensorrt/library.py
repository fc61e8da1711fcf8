"""TensorRT 10, TensorRT 11 and TensorRT-RTX behind one interface, for builder and back end."""

import importlib
import re
from collections import deque
from dataclasses import dataclass
from typing import Any, Literal

from nerve_runtime.errors import CompatibilityError

LibraryName = Literal["tensorrt", "tensorrt_rtx"]
TENSORRT_MAJORS = (10, 11)
RTX_CAPABILITIES = {f"sm{number}": f"SM{number}" for number in (75, 80, 86, 89, 120, 121)}
"""Compute capabilities that TensorRT-RTX compiles for, and its names for them; not Orin (sm87), H100 (sm90), Thor (sm110)."""
LABELS: dict[LibraryName, str] = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
EXTRAS: dict[LibraryName, str] = {"tensorrt": "trt", "tensorrt_rtx": "rtx"}
BACKENDS: dict[LibraryName, str] = {"tensorrt": "tensorrt", "tensorrt_rtx": "rtx"}
KEPT_ERRORS = 3
SHAPE_INPUT = "size_hw"
"""The input whose values, not its shape, have a range in the profile; engines read it on the host."""


@dataclass(frozen=True, slots=True)
class Library:
    """An imported library of the family.

    Attributes:
        name: of its Python module.
        module: the module, or what stands in for it.
    """

    name: LibraryName
    module: Any

    @property
    def label(self) -> str:
        """Its name for people."""
        return LABELS[self.name]

    @property
    def version(self) -> str:
        """All parts of its version: engines are bound to them."""
        return str(self.module.__version__)

    @property
    def backend_version(self) -> str:
        """As engines record it, for example "tensorrt-rtx 1.7.1.116"."""
        return f"{self.name.replace('_', '-')} {self.version}"

    @property
    def compiles_for_absent_gpus(self) -> bool:
        """Whether a GPU is named when compiling, instead of being the one that is here."""
        return self.name == "tensorrt_rtx"

    def target(self, gpu: str) -> str:
        """Name of the folder of engines for this library and GPU, for example "rtx-sm89"."""
        return f"{BACKENDS[self.name]}-{gpu}"

    def target_option(self, gpu: str) -> str:
        """What `--target` is given to build for this library and GPU."""
        return f"rtx:{gpu}" if self.compiles_for_absent_gpus else "tensorrt"


def import_library(name: LibraryName, module: Any = None) -> Library:
    """Import a library of the family.

    Args:
        name: of the Python module.
        module: used instead of importing, for tests.

    Raises:
        CompatibilityError: it, or a shared library that it needs, is missing; or its version is not supported.
    """
    if module is None:
        try:
            module = importlib.import_module(name)
        except (ImportError, OSError) as error:  # OSError: a shared library of another major version, or none
            raise CompatibilityError(
                f"{LABELS[name]} cannot be imported ({error}); install it with: pip install 'nerve-deploy[{EXTRAS[name]}]'"
            ) from error
    major = re.match(r"\d+", str(module.__version__))
    if name == "tensorrt" and (major is None or int(major.group()) not in TENSORRT_MAJORS):
        raise CompatibilityError(
            f"TensorRT {module.__version__} is installed, expected version {' or '.join(map(str, TENSORRT_MAJORS))}; "
            f"install one with: pip install 'nerve-deploy[{EXTRAS[name]}]'"
        )
    return Library(name, module)


def error_logger(trt: Any) -> Any:
    """A logger of the library `trt` that prints nothing and keeps the last errors and warnings for our own messages.

    Its method `last_errors()` gives the last `KEPT_ERRORS` errors in one line (or warnings, where there was no error), and
    `clear()` drops them.
    """

    class Logger(trt.ILogger):  # type: ignore[misc]  # the library has no types
        """Called by the library from any thread."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.clear()

        def log(self, severity: Any, msg: str) -> None:
            """Keep a message."""
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(" ".join(msg.split()))
            elif severity == trt.ILogger.WARNING:
                self.warnings.append(" ".join(msg.split()))

        def last_errors(self) -> str:
            """The last errors, or else warnings, each once."""
            return "; ".join(dict.fromkeys(self.errors or self.warnings)) or "it gave no reason"

        def clear(self) -> None:
            """Start anew."""
            self.errors: deque[str] = deque(maxlen=KEPT_ERRORS)
            self.warnings: deque[str] = deque(maxlen=KEPT_ERRORS)

    return Logger()
