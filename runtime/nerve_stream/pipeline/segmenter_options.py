"""How a segmenter is opened, here or in another process."""

from dataclasses import dataclass, field, fields
from pathlib import Path

from nerve_runtime import EVERY_FRAME, Constants, Readout, Segmenter, Temporal
from nerve_runtime.backends import BackendOptions
from nerve_runtime.vocabulary import EmbeddingProgress


@dataclass(frozen=True, slots=True)
class SegmenterOptions:
    """The arguments of `Segmenter.open`, with the same names and defaults, as values that can be pickled."""

    bundle: str
    classes: tuple[str, ...] | str | Path
    background: tuple[str, ...] | str = ()
    backend: str = "auto"
    backend_options: BackendOptions = field(default_factory=BackendOptions)
    temporal: Temporal = EVERY_FRAME
    templates: tuple[str, ...] | str | None = None
    constants: Constants | None = None
    readout: Readout | None = None
    cache_dir: str | None = "default"
    strict: bool = False
    progress: EmbeddingProgress | None = None

    def open(self) -> Segmenter:
        """Open the segmenter; raises what `Segmenter.open` raises."""
        return Segmenter.open(**{argument.name: getattr(self, argument.name) for argument in fields(self)})
