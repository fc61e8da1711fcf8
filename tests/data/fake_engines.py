"""Engines of the fake library in the fake bundle: as `nerve-build engines` would leave them, without compiling."""

from pathlib import Path
from typing import Any

from nerve_bench.doubles.engines import with_engines
from nerve_runtime.bundle.ledger import Ledger
from nerve_runtime.bundle.manifest import Manifest, load_manifest, manifest_bytes


def add_engines(bundle: Path, ledger: Ledger | None = None, *, rtx: bool = True, **changes: Any) -> Manifest:
    """Write an engine per stage and list them in the manifest, parity passed; `changes` replace fields of each record.

    With a ledger, all are noted as built here.
    """
    manifest = with_engines(bundle, load_manifest(bundle), ledger, rtx=rtx, **changes)
    (bundle / "manifest.json").write_bytes(manifest_bytes(manifest))
    return load_manifest(bundle)
