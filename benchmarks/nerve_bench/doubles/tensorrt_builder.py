"""The builder of the stand-in for TensorRT and TensorRT-RTX: from a graph's name to the bytes of a fake engine."""

# ruff: noqa: A002 - the arguments' names are the library's own

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from nerve_bench.doubles.ordering import MisuseError
from nerve_bench.doubles.tensorrt_types import (
    ComputeCapability,
    ILogger,
    IProgressMonitor,
    MemoryPoolType,
    checked_logger,
)
from nerve_runtime.backends.tensorrt.library import SHAPE_INPUT
from nerve_runtime.bundle.spec import StageName


@dataclass
class FakeNetwork:
    """A parsed graph."""

    stage: StageName | None = None
    num_layers: int = 0


class FakeOnnxParser:
    """Knows graphs by their files' names."""

    def __init__(self, trt: Any, network: FakeNetwork, logger: ILogger) -> None:
        self._trt, self._network = trt, network
        checked_logger(logger)

    @property
    def num_errors(self) -> int:
        """How many errors there were."""
        return len(self._trt.faults.parse_errors)

    def get_error(self, index: int) -> str:
        """An error."""
        return self._trt.faults.parse_errors[index]

    def parse_from_file(self, model: str) -> bool:
        """By path, so that external data are found."""
        if not isinstance(model, str):
            raise MisuseError("the path is no string")
        if self.num_errors:
            return False
        stages = {stage: record.onnx for stage, record in self._trt.manifest.stages.items()}
        self._network.stage = next(stage for stage, onnx in stages.items() if onnx == Path(model).name)
        return True


@dataclass
class FakeOptimizationProfile:
    """Ranges of sizes."""

    ranges: dict[str, list[list[int]]] = field(default_factory=dict)

    def set_shape(self, input: str, min: Sequence[int], opt: Sequence[int], max: Sequence[int]) -> None:
        """Of a tensor's shape."""
        self.ranges[input] = [list(min), list(opt), list(max)]

    def set_shape_input(self, input: str, min: Sequence[int], opt: Sequence[int], max: Sequence[int]) -> None:
        """Of a tensor's values."""
        if input != SHAPE_INPUT:
            raise MisuseError(f"{input!r} is no input for shapes")
        self.ranges[input] = [list(min), list(opt), list(max)]


@dataclass
class FakeTimingCache:
    """Bytes."""

    content: bytes

    def serialize(self) -> bytes:
        """The bytes."""
        return self.content


@dataclass
class FakeBuilderConfig:
    """Settings of a build."""

    HEADER: ClassVar[bytes] = b"fake timings "
    progress_monitor: Any = None
    num_compute_capabilities: int = 0
    profile: FakeOptimizationProfile | None = None
    cache: FakeTimingCache | None = None
    capability: ComputeCapability | None = None
    workspace_bytes: int = 0

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
        """Bound the workspace."""
        self.workspace_bytes = pool_size

    def set_compute_capability(self, compute_capability: ComputeCapability, index: int) -> bool:
        """Name the GPU to compile for."""
        if index >= self.num_compute_capabilities:
            raise MisuseError("num_compute_capabilities was not set first")
        self.capability = compute_capability
        return True

    def add_optimization_profile(self, profile: FakeOptimizationProfile) -> int:
        """The only profile."""
        self.profile = profile
        return 0

    def create_timing_cache(self, serialized_timing_cache: bytes) -> FakeTimingCache:
        """From an earlier build, or empty."""
        return FakeTimingCache(serialized_timing_cache or self.HEADER)

    def set_timing_cache(self, cache: FakeTimingCache, ignore_mismatch: bool) -> bool:
        """Refused when it is of another version."""
        if not cache.content.startswith(self.HEADER):
            return False
        self.cache = cache
        return True

    def get_timing_cache(self) -> FakeTimingCache | None:
        """As it is after the build."""
        return self.cache


class FakeBuilder:
    """Makes engines."""

    PHASE, STEPS = "Building engine", 4

    def __init__(self, trt: Any, logger: ILogger) -> None:
        self._trt = trt
        self._logger = checked_logger(logger)

    def create_network(self, flags: int = 0) -> FakeNetwork:
        """An empty graph."""
        self._trt.networks.append(flags)
        return FakeNetwork()

    def create_builder_config(self) -> FakeBuilderConfig:
        """Settings."""
        return FakeBuilderConfig()

    def create_optimization_profile(self) -> FakeOptimizationProfile:
        """Ranges of sizes."""
        return FakeOptimizationProfile()

    def build_serialized_network(self, network: FakeNetwork, config: FakeBuilderConfig) -> bytes | None:
        """An engine's bytes, or None with a reason in the log."""
        if network.stage is None or not config.workspace_bytes:
            raise MisuseError("an engine was asked for before a graph was parsed, or without a bound of its workspace")
        if self._trt.rtx and config.capability is None:
            raise MisuseError("no GPU was named")
        ranges = config.profile.ranges if config.profile else {}
        inputs = self._trt.manifest.stages[network.stage].spec.inputs
        free = {tensor.name for tensor in inputs if any(isinstance(axis, str) for axis in tensor.axes)}
        if free - set(ranges):
            raise MisuseError(f"inputs {sorted(free - set(ranges))} have free axes and no profile")
        if self._trt.faults.build_error:
            self._logger.log(self._logger.ERROR, self._trt.faults.build_error)
            return None
        if config.cache is not None:
            config.cache.content += network.stage.encode()
        if config.progress_monitor is not None and not self._progressed(config.progress_monitor):
            return None
        return self._trt.plan(network.stage, ranges)

    def _progressed(self, monitor: IProgressMonitor) -> bool:
        monitor.phase_start(self.PHASE, None, self.STEPS)
        wanted = all(monitor.step_complete(self.PHASE, step) for step in range(self.STEPS))
        monitor.phase_finish(self.PHASE)
        return wanted
