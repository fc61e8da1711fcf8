"""Engines of the fake library for the fake bundle: as `nerve-build engines` would leave them, without compiling."""

from pathlib import Path
from typing import Any

from nerve_export.engines.compile import builder_options, engine_key, profile_of
from nerve_export.engines.ledger import note_engine
from nerve_runtime.backends.tensorrt.engine_records import graph_sha256, this_os_arch
from nerve_runtime.backends.tensorrt.library import Library
from nerve_runtime.bundle.ledger import Ledger
from nerve_runtime.bundle.manifest import EngineRecord, FileRecord, Manifest, file_sha256, load_manifest, manifest_bytes
from nerve_runtime.bundle.spec import StageName
from tests.doubles.tensorrt import FakeTrt

RTX_VERSION = "1.7.1.116"
TENSORRT_VERSION = "10.16.1.11"


def add_engines(bundle: Path, ledger: Ledger | None = None, *, rtx: bool = True, **changes: Any) -> Manifest:
    """Write an engine per stage and list them in the manifest, parity passed; `changes` replace fields of each record.

    With a ledger, all are noted as built here.
    """
    manifest = load_manifest(bundle)
    version = RTX_VERSION if rtx else TENSORRT_VERSION
    trt = FakeTrt(manifest, version=version, rtx=rtx)
    library = Library("tensorrt_rtx" if rtx else "tensorrt", trt)
    records = [_written(bundle, manifest, trt, library, stage, changes) for stage in manifest.stages]
    files = dict(manifest.files)
    for record in records:
        path = bundle / record.path
        files[record.path] = FileRecord(bytes=path.stat().st_size, sha256=file_sha256(path))
        if ledger is not None:
            note_engine(ledger, files[record.path].sha256, f"{record.stage} by a test")
    kept = tuple(record for record in manifest.engines if record.path not in {new.path for new in records})
    manifest = manifest.model_copy(update={"engines": (*kept, *records), "files": files})
    (bundle / "manifest.json").write_bytes(manifest_bytes(manifest))
    return load_manifest(bundle)


def _written(
    bundle: Path, manifest: Manifest, trt: FakeTrt, library: Library, stage: StageName, changes: dict[str, Any]
) -> EngineRecord:
    spec = manifest.stages[stage].spec
    target = library.target(changes.get("gpu", "sm89"))
    graph = graph_sha256(manifest.files, manifest.stages[stage])
    options, profile = builder_options(spec), profile_of(spec)
    key = engine_key(
        graph,
        precision="fp32",
        profile=profile,
        options=options,
        backend_version=library.backend_version,
        target=target,
    )
    path = bundle / "engines" / target / f"{stage}-{key[:16]}.engine"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(trt.plan(stage, profile))
    fields = {
        "stage": stage,
        "target": target,
        "path": path.relative_to(bundle).as_posix(),
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
