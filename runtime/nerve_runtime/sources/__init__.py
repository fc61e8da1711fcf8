"""Where frames come from: video files, images, folders of images, cameras and streams; always RGB uint8.

Names are imported when they are first used: the decoder process needs only some of them and has to start quickly.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nerve_runtime.sources.expanding import expand_sources
    from nerve_runtime.sources.images import read_image
    from nerve_runtime.sources.opening import open_frames
    from nerve_runtime.sources.options import LiveOptions

_HOMES = {
    "LiveOptions": "options",
    "expand_sources": "expanding",
    "open_frames": "opening",
    "read_image": "images",
}

__all__ = ["LiveOptions", "expand_sources", "open_frames", "read_image"]


def __getattr__(name: str) -> Any:
    """Import a public name from the module it lives in."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
