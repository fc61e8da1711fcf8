"""TensorRT's stand-in: builds it and the library against it, writes engines for it, and reads its counts."""

import ctypes
from collections.abc import Callable
from ctypes import Structure, byref, c_char_p, c_int32, c_long
from pathlib import Path
from typing import Any

import pytest

from nerve_bench.doubles.engines import TENSORRT_VERSION, with_engines
from nerve_export.engines.ledger import note_engine
from nerve_runtime import NerveError
from nerve_runtime.bundle.ledger import Ledger
from nerve_runtime.bundle.manifest import EngineRecord, FileRecord, Manifest, file_sha256, load_manifest, manifest_bytes
from nerve_runtime.bundle.spec import TensorSpec
from tests.native.building import BUILD, HEADERS, STRICT, build, run

SOURCES = Path(__file__).with_name("tensorrt_standin")
DATA_TYPES = {"float32": 0, "bool": 4, "uint8": 5, "int64": 8}
"""Numbers of nvinfer1::DataType."""
CLASS_SLOTS = 32
TENSORRT_NATIVE = 3
"""NERVE_TENSORRT_NATIVE of nerve.h."""
FAULTS = (
    "device", "pinned", "stream", "copy", "runtime", "load", "load memory", "context", "shape", "address", "infer",
    "enqueue", "enqueue memory", "kernel",
)  # fmt: skip
"""What can fail, each a call of CUDA or TensorRT; "kernel" fails while somebody waits for it."""


class Counts(Structure):
    """standin::Counts."""

    _fields_ = [
        (name, c_long)
        for name in (
            "device_allocations", "pinned_allocations", "device_blocks", "pinned_blocks", "uploads", "upload_bytes",
            "downloads", "download_bytes", "waits", "enqueues", "misuses", "engines", "contexts", "streams",
        )
    ]  # fmt: skip


class Standin:
    """The stand-ins for libcudart.so and libnvinfer.so that the library was linked with, once that is loaded."""

    def __init__(self, folder: Path) -> None:
        self._cuda = ctypes.CDLL(str(folder / "libcudart.so"))
        self._cuda.standin_misuse.restype = c_char_p
        self._cuda.standin_fail.argtypes = [c_char_p, c_long]
        self._version = (c_int32 * 4).in_dll(ctypes.CDLL(str(folder / "libnvinfer.so")), "standin_version")
        self._gpu: bytes | None = None

    def counts(self) -> dict[str, int]:
        """All counts so far."""
        counts = Counts()
        self._cuda.standin_counts(byref(counts))
        return {name: int(getattr(counts, name)) for name, _ in counts._fields_}  # type: ignore[misc]

    def misuse(self) -> str:
        """What was last done wrong."""
        text: bytes = self._cuda.standin_misuse()
        return text.decode()

    def fail(self, kind: str, passed: int = 0) -> None:
        """Let the chance for a fault after so many more come true; -1: none."""
        self._cuda.standin_fail(kind.encode(), passed)

    def no_faults(self) -> None:
        """Take all faults back."""
        for kind in FAULTS:
            self.fail(kind, -1)

    def become(self, version: str = TENSORRT_VERSION, capability: str = "89") -> "Standin":
        """Be of another version, on another GPU."""
        self._version[:] = [int(part) for part in version.split(".")]
        self._gpu = capability.encode()
        self._cuda.standin_capability(c_char_p(self._gpu))
        return self


def build_standins(folder: Path, *flags: str) -> Path:
    """Compile libcudart.so and libnvinfer.so into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    common: list[str | Path] = [
        "g++",
        "-std=c++17",
        "-O1",
        "-g",
        "-fPIC",
        "-shared",
        *STRICT,
        *flags,
        f"-I{SOURCES}",
        "-isystem",
        HEADERS,
    ]
    run(*common, SOURCES / "standin_cuda.cc", "-Wl,-soname,libcudart.so", "-o", folder / "libcudart.so")
    run(*common, SOURCES / "standin.cc", f"-L{folder}", "-lcudart", "-ldl", f"-Wl,-rpath,{folder}",
        "-Wl,-soname,libnvinfer.so", "-o", folder / "libnvinfer.so")  # fmt: skip
    return folder


def build_against_standins(preset: str, *flags: str) -> Path:
    """Build the stand-ins, and libnerve.so against them; hand back its folder, in which `standins` has them."""
    folder = BUILD / f"native-standin-{preset}"
    standins = build_standins(folder / "standins", *flags)
    return build(
        preset, folder, f"-DNVINFER_INCLUDE_DIR={SOURCES}", f"-DNERVE_NVINFER_LIBRARY={standins / 'libnvinfer.so'}",
        f"-DNERVE_CUDART_LIBRARY={standins / 'libcudart.so'}",
    )  # fmt: skip


def add_engines(
    bundle: Path, ledger: Ledger | None = None, *, class_slots: int = CLASS_SLOTS, spoil: dict[str, bytes] | None = None,
    rtx: bool = False, **changes: Any,
) -> Manifest:  # fmt: skip
    """Write an engine of the stand-in for each stage of a bundle, and list them in its manifest, parity passed.

    Args:
        bundle: a copy that may be changed.
        ledger: notes all as built here.
        class_slots: their class axis.
        spoil: what to write instead, by stage.
        rtx: list them as engines of TensorRT-RTX.
        changes: replace fields of each record.
    """
    manifest = with_engines(bundle, load_manifest(bundle), rtx=rtx, class_slots=class_slots, **changes)
    files = dict(manifest.files)
    for record in manifest.engines:
        path = bundle / record.path
        path.write_bytes((spoil or {}).get(record.stage) or engine_bytes(bundle, manifest, record))
        files[record.path] = FileRecord(bytes=path.stat().st_size, sha256=file_sha256(path))
        if ledger is not None:
            note_engine(ledger, files[record.path].sha256, f"{record.stage} for a stand-in")
    (bundle / "manifest.json").write_bytes(manifest_bytes(manifest.model_copy(update={"files": files})))
    return load_manifest(bundle)


def engine_bytes(bundle: Path, manifest: Manifest, record: EngineRecord) -> bytes:
    """The engine of a stage: what standin.cc reads."""
    stage = manifest.stages[record.stage]
    lines = [_line("input", tensor, record) for tensor in stage.spec.inputs]
    lines += [_line("output", tensor, record) for tensor in stage.spec.outputs]
    return "\n".join(["standin engine", *lines, "graph\n"]).encode() + (bundle / stage.onnx).read_bytes()


def _line(role: str, tensor: TensorSpec, record: EngineRecord) -> str:
    sizes = [-1 if isinstance(axis, str) else axis for axis in tensor.axes]
    words = [
        role,
        tensor.name,
        DATA_TYPES[tensor.dtype],
        "host" if tensor.name == "size_hw" else "device",
        len(sizes),
        *sizes,
    ]
    if role == "input" and -1 in sizes:
        words += [size for shape in record.profile[tensor.name] for size in shape]
    return " ".join(map(str, words))


def refusal(call: Callable[[], object]) -> tuple[int, str]:
    """Code and message of what a call raises."""
    with pytest.raises(NerveError) as caught:
        call()
    return caught.value.exit_code, str(caught.value)
