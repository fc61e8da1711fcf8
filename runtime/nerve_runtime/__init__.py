"""NERVE's runtime: frames in, labels out, without torch.

>>> from nerve_runtime import Segmenter, open_frames
>>> with Segmenter.open("bundles/tiny", classes=["ladybug", "grass"]) as segmenter:     # doctest: +SKIP
...     for result in segmenter.stream(open_frames("clip.mp4")):
...         use(result.labels)

Names are imported when they are first used, so that importing the package is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nerve_runtime.errors import (
    BundleError,
    CompatibilityError,
    HungError,
    NerveError,
    NumericError,
    ResourceError,
    SourceError,
    UsageError,
)

if TYPE_CHECKING:
    from nerve_runtime.class_list import ClassList
    from nerve_runtime.frames import Frame, FrameSource
    from nerve_runtime.result import FrameResult
    from nerve_runtime.segmenter import Constants, Segmenter
    from nerve_runtime.sources import LiveOptions, expand_sources, open_frames
    from nerve_runtime.temporal import Temporal

_HOMES = {
    "ClassList": "class_list",
    "Constants": "segmenter",
    "Frame": "frames",
    "FrameResult": "result",
    "FrameSource": "frames",
    "LiveOptions": "sources",
    "Segmenter": "segmenter",
    "Temporal": "temporal",
    "expand_sources": "sources",
    "open_frames": "sources",
}

__all__ = [
    "BundleError",
    "ClassList",
    "CompatibilityError",
    "Constants",
    "Frame",
    "FrameResult",
    "FrameSource",
    "HungError",
    "LiveOptions",
    "NerveError",
    "NumericError",
    "ResourceError",
    "Segmenter",
    "SourceError",
    "Temporal",
    "UsageError",
    "expand_sources",
    "open_frames",
]


def __getattr__(name: str) -> Any:
    """Import a public name from the module it lives in."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
