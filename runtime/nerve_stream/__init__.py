"""The application around the thin runtime: sources, pipeline, sinks, monitoring, command line.

>>> from nerve_runtime import Segmenter
>>> from nerve_stream import open_frames
>>> with Segmenter.open("bundles/tiny", classes=["ladybug", "grass"]) as segmenter:     # doctest: +SKIP
...     for result in segmenter.stream(open_frames("clip.mp4")):
...         use(result.labels)

Needs the extra `stream`: pip install "nerve-deploy[stream]". `TritonSegmenter` needs the extra `triton` alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nerve_runtime.images import read_image
    from nerve_stream.sources.base import FrameSource
    from nerve_stream.sources.expanding import expand_sources
    from nerve_stream.sources.opening import open_frames
    from nerve_stream.sources.options import LiveOptions
    from nerve_stream.sources.registry import register_source
    from nerve_stream.triton.client import TritonSegmenter

_HOMES = {
    "FrameSource": "sources.base",
    "LiveOptions": "sources.options",
    "TritonSegmenter": "triton.client",
    "expand_sources": "sources.expanding",
    "open_frames": "sources.opening",
    "read_image": "sources.images",
    "register_source": "sources.registry",
}

__all__ = [
    "FrameSource", "LiveOptions", "TritonSegmenter", "expand_sources", "open_frames", "read_image", "register_source",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name from the module it lives in."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """The public names and nothing else."""
    return sorted(__all__)
