"""Writes a bundle as a model repository of Triton, whole: into a folder beside the final one, which is then renamed."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nerve_export.bundle import replaced_folder
from nerve_export.triton.settings import Settings, engines_of, graph_config, nerve_config
from nerve_runtime.bundle.manifest import MANIFEST_NAME, EngineRecord, Manifest, load_manifest, verify_file
from nerve_runtime.bundle.spec import StageName

if TYPE_CHECKING:
    import jinja2

NERVE = "nerve"
VERSION = "1"
MARK = ".nerve-triton"
"""A file that says that a folder is a repository of ours, which may be replaced."""
IMAGE = "nvcr.io/nvidia/tritonserver:26.04-py3"
"""The base of docker/triton.Dockerfile."""
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Written:
    """A finished repository: its models in order, and what it takes on disk, shared files counted once."""

    path: Path
    models: tuple[str, ...]
    bytes: int


def write_repository(
    bundle: Path, out: Path, settings: Settings, *, force: bool = False, progress: Progress = lambda _what: None
) -> Written:
    """Verify a bundle and write its models, the model `nerve` and a README.

    Args:
        bundle: folder of the bundle.
        out: the repository's folder; its parent is made.
        settings: as asked for.
        force: replace a repository that is there.
        progress: called with each model before it is written.

    Raises:
        BundleError: the bundle is not what its manifest says, or `out` is something else than a repository of ours.
        UsageError: `out` is there and `force` is not given, lies within the bundle, or the bundle within `out`.
        CompatibilityError: the bundle has no engines for the target.
        ResourceError: the disk is full or may not be written, or another nerve-build writes there.
    """
    manifest = load_manifest(bundle)
    engines = engines_of(manifest, settings.target) if settings.target is not None else {}
    with replaced_folder(out, MARK, "repository that nerve-build triton", bundle, force=force) as staged:
        writer = _Writer(bundle, staged, manifest, settings, engines)
        for model in writer.models:
            progress(model)
            writer.write(model)
        writer.write_readme(out.name)
        statuses = [path.stat() for path in staged.rglob("*") if path.is_file()]
        size = sum({status.st_ino: status.st_size for status in statuses}.values())
    return Written(out, writer.models, size)


class _Writer:
    """Writes the models of one repository into a staged folder."""

    def __init__(
        self, bundle: Path, staged: Path, manifest: Manifest, settings: Settings, engines: dict[StageName, EngineRecord]
    ) -> None:
        self._bundle, self._staged, self._manifest, self._settings = bundle, staged, manifest, settings
        self._engines = engines
        self._templates = templates()
        self._written: dict[str, Path] = {}
        self.models = (*manifest.stages, NERVE)

    def write(self, model: str) -> None:
        """Write one model: its config.pbtxt and version folder."""
        folder = self._staged / model / VERSION
        folder.mkdir(parents=True)
        if model == NERVE:
            for name in (MANIFEST_NAME, self._manifest.vocabulary.tokenizer):
                self._copy(name, folder / name, own=True)
            self._render("model.py", folder / "model.py", {})
            config = nerve_config(self._manifest, self._settings, self._engines)
            self._render("nerve.pbtxt", folder.parent / "config.pbtxt", config)
            return
        stage: Any = model
        engine = self._engines.get(stage)
        if engine is not None:
            self._copy(engine.path, folder / "model.plan")
        else:
            record = self._manifest.stages[stage]
            self._copy(record.onnx, folder / "model.onnx")
            for data in record.external_data:
                self._copy(data, folder / data)  # under the name that the graph looks for beside itself
        config = graph_config(stage, self._manifest, self._settings, engine)
        self._render("graph.pbtxt", folder.parent / "config.pbtxt", config)

    def write_readme(self, name: str) -> None:
        """Write how the repository is served and asked."""
        spec = self._manifest.stages["frame"].spec if "frame" in self._manifest.stages else None
        facts = {
            "name": name, "image": IMAGE, "settings": self._settings, "manifest": self._manifest, "models": self.models,
            "engines": self._engines, "frame": spec,
        }  # fmt: skip
        self._render("README.md", self._staged / "README.md", facts)
        (self._staged / MARK).write_text(f"{self._manifest.plan_key}\n", encoding="ascii")

    def _copy(self, relative: str, to: Path, *, own: bool = False) -> None:
        """Copy a verified file of the bundle; what several graphs share lies once on the disk, unless `own`."""
        to.parent.mkdir(parents=True, exist_ok=True)
        source = self._written.get(relative)
        if source is not None and not own:
            try:
                os.link(source, to)
            except OSError:  # a file system without hard links
                shutil.copyfile(source, to)
            return
        if relative == MANIFEST_NAME:
            shutil.copyfile(self._bundle / MANIFEST_NAME, to)
            return
        shutil.copyfile(verify_file(self._bundle, self._manifest, relative), to)
        if not own:
            self._written[relative] = to

    def _render(self, template: str, to: Path, facts: dict[str, Any]) -> None:
        to.write_text(self._templates.get_template(template).render(facts), encoding="utf-8")


def templates() -> "jinja2.Environment":
    """The templates of this package; none of them is HTML."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader(__package__),
        autoescape=False,  # protobuf text and Markdown, filled from a verified manifest
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
