"""The graphs of a bundle, checked before a library opens one."""

from pathlib import Path

from nerve_runtime.bundle.graph_check import check_graph
from nerve_runtime.bundle.manifest import Manifest, StageRecord, verify_bundle
from nerve_runtime.bundle.spec import StageName
from nerve_runtime.errors import BundleError


class BundleGraphs:
    """Hands out the stages of a bundle, none before the whole bundle was verified.

    Args:
        folder: the bundle's folder.
        manifest: its manifest; every file but engines is verified against it.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._folder, self._manifest = folder, manifest
        self._verified = False

    def checked(self, stage: StageName) -> StageRecord:
        """The record of a stage whose graph may be opened.

        Raises:
            BundleError: the bundle has no such stage, a file of it differs from its manifest, or the graph is refused.
        """
        record = self._manifest.stages.get(stage)
        if record is None:
            raise BundleError(f"the bundle has no stage {stage!r}, only {', '.join(self._manifest.stages)}; rebuild it")
        if not self._verified:
            verify_bundle(self._folder, self._manifest, engines=False)
            self._verified = True
        check_graph(self._folder, record.onnx, opset=self._manifest.opset, external_data=record.external_data)
        return record
