"""Engines of the imitated TensorRT, as `nerve-build engines` would leave them, and the back end `fake_cuda` on them.

`fake_cuda` is the runtime's own TensorRT back end: its streams, events, memory and copies are real calls of an imitation
that checks and counts them, and what an engine computes is left to ONNX Runtime on the bundle's graphs.
"""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from nerve_bench.doubles.cuda_runtime import FakeCudart
from nerve_bench.doubles.tensorrt import FakeTrt
from nerve_export.engines.compile import CLASS_SLOTS, builder_options, engine_key, profile_of
from nerve_export.engines.ledger import note_engine
from nerve_runtime.backends import BackendOptions, Session, register_backend
from nerve_runtime.backends.ort import OrtBackend
from nerve_runtime.backends.tensorrt.backend import TrtBackend
from nerve_runtime.backends.tensorrt.engine_records import graph_sha256, this_os_arch
from nerve_runtime.backends.tensorrt.library import Library
from nerve_runtime.bundle.ledger import Ledger
from nerve_runtime.bundle.manifest import EngineRecord, FileRecord, Manifest, file_sha256
from nerve_runtime.bundle.spec import Array, StageName, StageSpec

RTX_VERSION = "1.7.1.116"
TENSORRT_VERSION = "10.16.1.11"
FAKE_CUDA = "fake_cuda"
"""Name of the back end, which importing this module registers."""
IMITATED_SLOTS = 64
"""Class slots of the engines of `fake_cuda`: enough for the classes of the tiny world."""


def with_engines(
    folder: Path,
    manifest: Manifest,
    ledger: Ledger | None = None,
    *,
    rtx: bool = True,
    class_slots: int = CLASS_SLOTS,
    **changes: Any,
) -> Manifest:
    """Write an engine per stage into a folder and return the manifest that lists them, parity passed.

    Args:
        folder: where the engines go, under `engines/`.
        manifest: of the bundle.
        ledger: notes all as built here.
        rtx: engines of TensorRT-RTX, else of TensorRT.
        class_slots: their class axis.
        changes: replace fields of each record.
    """
    version = RTX_VERSION if rtx else TENSORRT_VERSION
    trt = FakeTrt(manifest, version=version, rtx=rtx)
    library = Library("tensorrt_rtx" if rtx else "tensorrt", trt)
    records = [_written(folder, manifest, trt, library, stage, class_slots, changes) for stage in manifest.stages]
    files = dict(manifest.files)
    for record in records:
        path = folder / record.path
        files[record.path] = FileRecord(bytes=path.stat().st_size, sha256=file_sha256(path))
        if ledger is not None:
            note_engine(ledger, files[record.path].sha256, f"{record.stage} by an imitation")
    kept = tuple(record for record in manifest.engines if record.path not in {new.path for new in records})
    return manifest.model_copy(update={"engines": (*kept, *records), "files": files})


def _written(
    folder: Path,
    manifest: Manifest,
    trt: FakeTrt,
    library: Library,
    stage: StageName,
    class_slots: int,
    changes: dict[str, Any],
) -> EngineRecord:
    spec = manifest.stages[stage].spec
    target = library.target(changes.get("gpu", "sm89"))
    graph = graph_sha256(manifest.files, manifest.stages[stage])
    max_batch = manifest.geometry.max_batch
    options, profile = builder_options(spec, max_batch), _profile(spec, class_slots, max_batch)
    key = engine_key(
        graph,
        precision="fp32",
        profile=profile,
        options=options,
        backend_version=library.backend_version,
        target=target,
    )
    path = folder / "engines" / target / f"{stage}-{key[:16]}.engine"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(trt.plan(stage, profile))
    fields = {
        "stage": stage,
        "target": target,
        "path": path.relative_to(folder).as_posix(),
        "key": key,
        "onnx_sha256": graph,
        "backend_version": library.backend_version,
        "gpu": "sm89",
        "os_arch": this_os_arch(),
        "precision": manifest.precision,
        "profile": profile,
        "builder_options": options,
        "parity": "passed",
    }
    return EngineRecord(**{**fields, **changes})


def _profile(spec: StageSpec, class_slots: int, max_batch: int) -> dict[str, list[list[int]]]:
    """That of the compiler, with another number of class slots."""
    profile = profile_of(spec, max_batch)
    for tensor in spec.inputs:
        for index, axis in enumerate(tensor.axes):
            if axis == "c":
                for sizes in profile[tensor.name]:
                    sizes[index] = class_slots
    return profile


class FakeCudaBackend(TrtBackend):
    """The back end for TensorRT-RTX on the imitation, which computes with ONNX Runtime on the processor.

    Args:
        bundle: the bundle's folder; its own engines are left alone.
        manifest: its manifest.
        options: `threads` and `spinning` are those of ONNX Runtime.

    Attributes:
        cudart: the imitation, with its counts.
    """

    def __init__(self, bundle: Path, manifest: Manifest, options: BackendOptions | None = None) -> None:
        self._folder = TemporaryDirectory(prefix="nerve-fake-cuda-")
        self._processor = OrtBackend(bundle, manifest, options)
        self._sessions: dict[StageName, Session] = {}
        self.cudart = FakeCudart()
        engines = Path(self._folder.name)
        own = manifest.model_copy(update={"engines": ()})
        listed = with_engines(engines, own, class_slots=IMITATED_SLOTS)
        trt = FakeTrt(listed, self.cudart, version=RTX_VERSION, compute=self._compute)
        super().__init__(
            engines, listed, BackendOptions(trust_engines=True), library="tensorrt_rtx", trt=trt, cudart=self.cudart
        )
        self.name = FAKE_CUDA

    def describe(self) -> str:
        """What is imitated and what computes."""
        return f"{self.name}: an imitation of CUDA, computed by {self._processor.describe()}"

    def _compute(self, stage: StageName, tensors: Mapping[str, Array]) -> Mapping[str, Array]:
        if stage not in self._sessions:
            self._sessions[stage] = self._processor.open_session(stage)
        return self._sessions[stage].run(tensors)

    def close(self) -> None:
        """End the imitation and ONNX Runtime; closing twice is fine."""
        super().close()
        self._sessions.clear()
        self._processor.close()
        self._folder.cleanup()


register_backend(FAKE_CUDA, FakeCudaBackend)
