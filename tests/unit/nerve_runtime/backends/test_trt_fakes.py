"""The shipped stand-ins are true to what they stand for: names, argument names and order; and they bite."""

import inspect
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nerve_bench.doubles import tensorrt as fake_trt
from nerve_bench.doubles import tensorrt_builder as fake_builder
from nerve_bench.doubles import tensorrt_types
from nerve_bench.doubles.cuda_runtime import FakeCudart
from nerve_bench.doubles.ordering import MisuseError
from nerve_bench.doubles.tensorrt import FakeTrt
from nerve_runtime.bundle.manifest import Manifest

REAL_NAMES = {
    "ILogger": tensorrt_types.ILogger,
    "IProgressMonitor": tensorrt_types.IProgressMonitor,
    "Runtime": fake_trt.FakeRuntime,
    "ICudaEngine": fake_trt.FakeCudaEngine,
    "IExecutionContext": fake_trt.FakeRtxExecutionContext,
    "Builder": fake_builder.FakeBuilder,
    "OnnxParser": fake_builder.FakeOnnxParser,
    "IOptimizationProfile": fake_builder.FakeOptimizationProfile,
    "ITimingCache": fake_builder.FakeTimingCache,
    "IBuilderConfig": fake_builder.FakeBuilderConfig,
    "INetworkDefinition": fake_builder.FakeNetwork,
}
ENUMS = ("DataType", "TensorIOMode", "TensorLocation", "LayerType", "MemoryPoolType", "ComputeCapability")
OWN_ATTRIBUTES = {"trt", "logger", "stage", "profile", "spec", "tensors", "is_initialised", "HEADER", "PHASE", "STEPS"}
OWN_ATTRIBUTES |= {"ranges", "content", "cache", "capability", "workspace_bytes"}


def public_methods(kind: type) -> dict[str, Any]:
    found = {name: member for base in reversed(kind.__mro__[:-1]) for name, member in vars(base).items()}
    return {name: member for name, member in found.items() if inspect.isfunction(member) and name[0] != "_"}


def properties(kind: type) -> set[str]:
    found = {name: member for base in kind.__mro__[:-1] for name, member in vars(base).items()}
    fields = set(getattr(kind, "__dataclass_fields__", {}))
    return {name for name, member in found.items() if isinstance(member, property)} | fields - OWN_ATTRIBUTES


def real_signatures(method: Any) -> list[list[str]]:
    """Argument names of every overload, from the text that pybind writes."""
    lines = [line for line in method.__doc__.splitlines() if re.match(rf"(\d+\. )?{method.__name__}\(self", line)]
    return [re.findall(r"[(,] ?(\w+): ", line)[1:] for line in lines]


@pytest.mark.parametrize("name", REAL_NAMES)
def test_every_method_of_the_fake_library_is_the_real_ones(name: str) -> None:
    library = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    real = getattr(library, name)
    for method, function in public_methods(REAL_NAMES[name]).items():
        arguments = list(inspect.signature(function).parameters)[1:]
        signatures = real_signatures(getattr(real, method))
        assert any(signature[: len(arguments)] == arguments for signature in signatures), (method, signatures)
    assert properties(REAL_NAMES[name]) - {"stage"} <= set(dir(real))


def test_a_wrong_argument_name_would_be_noticed() -> None:
    library = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    assert real_signatures(library.IExecutionContext.set_input_shape) == [["name", "shape"]] * 3
    assert real_signatures(library.ICudaEngine.get_tensor_profile_shape) == [["name", "profile_index"]]
    assert real_signatures(library.Builder.create_builder_config) == [[]]


@pytest.mark.parametrize("name", ENUMS)
def test_every_member_of_a_fake_enum_is_a_real_one(name: str) -> None:
    library = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    assert set(getattr(FakeTrt, name).__members__) <= set(getattr(library, name).__members__)


def test_the_calls_that_leave_arguments_out_may_do_so() -> None:
    library = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    assert "strategy: " in library.ICudaEngine.create_execution_context.__doc__
    assert re.search(r"runtime_config: \S+ = None\)", library.ICudaEngine.create_execution_context.__doc__)
    assert set(library.ILogger.Severity.__members__) == set(tensorrt_types.ILogger.Severity.__members__)


def test_every_function_of_the_fake_cuda_runtime_is_the_real_ones() -> None:
    real = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    functions = {name: member for name, member in public_methods(FakeCudart).items() if name.startswith("cuda")}
    assert len(functions) > 12
    for name, function in functions.items():
        arguments = list(inspect.signature(function).parameters)[1:]
        assert list(inspect.signature(getattr(real, name)).parameters) == arguments, name
    assert real.cudaStreamNonBlocking == FakeCudart.cudaStreamNonBlocking


@pytest.mark.parametrize("name", ["cudaError_t", "cudaMemcpyKind", "cudaStreamCaptureMode", "cudaDeviceAttr"])
def test_every_code_of_the_fake_cuda_runtime_has_its_real_number(name: str) -> None:
    real = getattr(pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed"), name)
    for member in getattr(FakeCudart, name):
        assert int(getattr(real, member.name)) == member.value


def test_the_real_cuda_runtime_answers_as_ours_expects() -> None:
    real = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    code, text = real.cudaGetErrorString(real.cudaError_t.cudaErrorMemoryAllocation)
    assert (code, text) == (real.cudaError_t.cudaSuccess, b"out of memory")
    assert len(real.cudaGetDevice()) == 2


# The fake bites.


@pytest.fixture
def cudart() -> FakeCudart:
    return FakeCudart()


def taken(result: tuple[Any, ...]) -> Any:
    assert result[0] == 0
    return result[1]


def wait_for(cudart: FakeCudart, stream: Any) -> None:
    event = taken(cudart.cudaEventCreateWithFlags(2))
    cudart.cudaEventRecord(event, stream)
    cudart.cudaEventSynchronize(event)
    cudart.cudaEventDestroy(event)


def test_memory_is_freed_once_and_missed_if_not(cudart: FakeCudart) -> None:
    address = taken(cudart.cudaMalloc(16))
    assert cudart.leaks() == ["1 pieces of device memory"]
    cudart.cudaFree(address)
    assert cudart.leaks() == []
    with pytest.raises(MisuseError, match="freed twice, or never allocated"):
        cudart.cudaFree(address)
    with pytest.raises(MisuseError, match="0 bytes"):
        cudart.cudaMallocHost(0)


def test_a_copy_beyond_its_memory_is_noticed(cudart: FakeCudart) -> None:
    stream = taken(cudart.cudaStreamCreateWithFlags(1))
    device, host = taken(cudart.cudaMalloc(16)), taken(cudart.cudaMallocHost(32))
    to_device = cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
    with pytest.raises(MisuseError, match=r"17 bytes at .* are not within device memory"):
        cudart.cudaMemcpyAsync(device, host, 17, to_device, stream)
    with pytest.raises(MisuseError, match="are not within pinned memory"):
        cudart.cudaMemcpyAsync(device, np.zeros(16, np.uint8).ctypes.data, 16, to_device, stream)


def test_a_copy_is_done_when_its_stream_was_waited_for_and_not_before(cudart: FakeCudart) -> None:
    stream = taken(cudart.cudaStreamCreateWithFlags(1))
    device, host = taken(cudart.cudaMalloc(4)), taken(cudart.cudaMallocHost(4))
    cudart.view("pinned", host, 4)[:] = [1, 2, 3, 4]
    cudart.cudaMemcpyAsync(device, host, 4, cudart.cudaMemcpyKind.cudaMemcpyHostToDevice, stream)
    assert cudart.view("device", device, 4).tolist() == [0xA5] * 4
    wait_for(cudart, stream)
    assert cudart.view("device", device, 4).tolist() == [1, 2, 3, 4]


def test_streams_and_graphs_are_held_or_refused(cudart: FakeCudart) -> None:
    with pytest.raises(MisuseError, match="would wait for the default stream"):
        cudart.cudaStreamCreateWithFlags(0)
    stream = taken(cudart.cudaStreamCreateWithFlags(1))
    with pytest.raises(MisuseError, match="no capture of this stream is under way"):
        cudart.cudaStreamEndCapture(stream)
    mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    cudart.cudaStreamBeginCapture(stream, mode)
    with pytest.raises(MisuseError, match="under way already"):
        cudart.cudaStreamBeginCapture(stream, mode)
    with pytest.raises(MisuseError, match="recorded in a capture"):
        cudart.cudaEventRecord(taken(cudart.cudaEventCreateWithFlags(2)), stream)
    graph = taken(cudart.cudaStreamEndCapture(stream))
    cudart.cudaGraphDestroy(graph)
    with pytest.raises(MisuseError, match="is not held"):
        cudart.cudaGraphInstantiate(graph, 0)
    cudart.cudaStreamDestroy(stream)
    with pytest.raises(MisuseError, match="destroyed, or never created"):
        cudart.cudaStreamDestroy(stream)
    with pytest.raises(MisuseError, match="device 1 does not exist"):
        cudart.cudaDeviceGetAttribute(cudart.cudaDeviceAttr.cudaDevAttrComputeCapabilityMajor, 1)


class Quiet(tensorrt_types.ILogger):
    def log(self, severity: Any, msg: str) -> None:
        return


class Uninitialised(tensorrt_types.ILogger):
    def __init__(self) -> None:
        return


def test_calls_out_of_order_are_noticed(manifest: Manifest, cudart: FakeCudart) -> None:
    trt = FakeTrt(manifest, cudart)
    stream = taken(cudart.cudaStreamCreateWithFlags(1))
    with pytest.raises(MisuseError, match="base class was not initialised"):
        trt.Runtime(Uninitialised())
    runtime = trt.Runtime(Quiet())
    with pytest.raises(MisuseError, match="may not carry code for the processor"):
        runtime.engine_host_code_allowed = True
    ranges = {"token_ids": [[1, 12], [2, 12], [4, 12]]}
    engine = runtime.deserialize_cuda_engine(trt.plan("text", ranges))
    assert engine is not None
    context = engine.create_execution_context()
    with pytest.raises(MisuseError, match="before the shapes were inferred"):
        context.execute_async_v3(int(stream))
    assert context.infer_shapes() == ["token_ids"]
    assert not context.set_input_shape("token_ids", (5, 12))  # outside its profile
    assert context.set_input_shape("token_ids", (2, 12))
    assert context.infer_shapes() == []
    with pytest.raises(MisuseError, match=r"before the addresses of \['token_ids', 'text_embeddings'\] were set"):
        context.execute_async_v3(int(stream))
    with pytest.raises(MisuseError, match="put at address 0"):
        context.set_tensor_address("token_ids", 0)
    with pytest.raises(MisuseError, match="the engine has no tensor 'frame'"):
        context.set_tensor_address("frame", 1)
    small = taken(cudart.cudaMalloc(8))
    for name in ("token_ids", "text_embeddings"):
        context.set_tensor_address(name, small)
    with pytest.raises(MisuseError, match=r"192 bytes at .* are not within device memory"):
        context.execute_async_v3(int(stream))


def test_the_fake_builder_wants_all_that_the_real_one_wants(manifest: Manifest, tmp_path: Path) -> None:
    trt = FakeTrt(manifest)
    builder = trt.Builder(Quiet())
    network, config = builder.create_network(), builder.create_builder_config()
    with pytest.raises(MisuseError, match="before a graph was parsed"):
        builder.build_serialized_network(network, config)
    with pytest.raises(MisuseError, match="num_compute_capabilities was not set"):
        config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    assert trt.OnnxParser(network, Quiet()).parse_from_file(str(tmp_path / "text.onnx"))
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 1)
    with pytest.raises(MisuseError, match="no GPU was named"):
        builder.build_serialized_network(network, config)
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    with pytest.raises(MisuseError, match=r"inputs \['token_ids'\] have free axes and no profile"):
        builder.build_serialized_network(network, config)
