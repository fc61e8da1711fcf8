"""Enumerations and base classes of the imitated TensorRT, by the library's own names."""

from enum import Enum, IntEnum
from typing import Any

from nerve_bench.doubles.ordering import MisuseError

DataType = Enum("DataType", ["FLOAT", "HALF", "INT32", "UINT8", "BOOL", "INT64"])
TensorIOMode = Enum("TensorIOMode", ["NONE", "INPUT", "OUTPUT"])
TensorLocation = Enum("TensorLocation", ["DEVICE", "HOST"])
LayerType = Enum("LayerType", ["IDENTITY", "ATTENTION_INPUT"])
MemoryPoolType = Enum("MemoryPoolType", ["WORKSPACE"])
ComputeCapability = Enum("ComputeCapability", ["SM75", "SM80", "SM86", "SM89", "SM120", "SM121"])
StronglyTyped = IntEnum("StronglyTyped", ["STRONGLY_TYPED"])
NoTypingFlag = IntEnum("NoTypingFlag", ["EXPLICIT_BATCH"])


class ILogger:
    """Base of loggers."""

    Severity = Enum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"])
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = Severity

    def __init__(self) -> None:
        self.is_initialised = True

    def log(self, severity: Any, msg: str) -> None:
        """To be overridden."""
        raise MisuseError("log() is not overridden")


class IProgressMonitor:
    """Base of progress monitors."""

    def __init__(self) -> None:
        self.is_initialised = True

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        """To be overridden."""
        raise MisuseError("phase_start() is not overridden")

    def step_complete(self, phase_name: str, step: int) -> bool:
        """To be overridden."""
        raise MisuseError("step_complete() is not overridden")

    def phase_finish(self, phase_name: str) -> None:
        """To be overridden."""
        raise MisuseError("phase_finish() is not overridden")


def checked_logger(logger: Any) -> Any:
    """The logger, after making sure that its base class was initialised, as pybind demands."""
    if not getattr(logger, "is_initialised", False):
        raise MisuseError("the logger's base class was not initialised")
    return logger
