"""How a segmenter is opened, as plain values that another process can be told."""

import importlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nerve_runtime.backends import BackendOptions
from nerve_stream.pipeline.worker import VideoSegmenter

if TYPE_CHECKING:
    from nerve_runtime import Constants

OPENER = "nerve_stream.pipeline.segmenter_options:open_segmenter"


@dataclass(frozen=True, slots=True)
class SegmenterOptions:
    """The arguments of `Segmenter.open` that are plain values; the names and defaults are the same.

    Attributes:
        classes: names, one string a class; or one string for all; or the Path of a vocabulary file.
        cache_dir: folder for text embeddings, "default" for the user's, None for none.
        temporal: the fields of a Temporal by name, None for the default.
    """

    bundle: str
    classes: tuple[str, ...] | str | Path
    background: tuple[str, ...] | str = ()
    backend: str = "auto"
    backend_options: BackendOptions = field(default_factory=BackendOptions)
    templates: tuple[str, ...] | str | None = None
    constants: "Constants | None" = None
    cache_dir: str | None = "default"
    strict: bool = False
    temporal: dict[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values by name."""
        record = asdict(self)
        if isinstance(self.classes, Path):
            record["classes"] = {"vocabulary": str(self.classes)}
        return record

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "SegmenterOptions":
        """The options that `as_json` gave."""
        given: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in record.items()
        }
        classes, constants = record["classes"], record["constants"]
        given["backend_options"] = BackendOptions(**record["backend_options"])
        if isinstance(classes, dict):
            given["classes"] = Path(classes["vocabulary"])
        if constants is not None:
            from nerve_runtime import Constants

            given["constants"] = Constants(**constants)
        return cls(**given)


def open_segmenter(options: SegmenterOptions) -> VideoSegmenter:
    """Open the segmenter; raises what `Segmenter.open` raises."""
    from nerve_runtime import Segmenter, Temporal

    given: dict[str, Any] = {field.name: getattr(options, field.name) for field in fields(options)}
    if options.cache_dir not in (None, "default"):
        given["cache_dir"] = Path(options.cache_dir)
    if options.temporal is None:
        del given["temporal"]
    else:
        given["temporal"] = Temporal(**options.temporal)
    return Segmenter.open(**given)


def opener_named(name: str) -> Callable[[SegmenterOptions], VideoSegmenter]:
    """The function called `module:function`."""
    module, _, function = name.partition(":")
    opener: Callable[[SegmenterOptions], VideoSegmenter] = getattr(importlib.import_module(module), function)
    return opener
