"""Image files: what their headers say, and their pixels, for which OpenCV is imported when they are first asked for."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nerve_runtime.images.header import (
    IMAGE_KINDS,
    image_size_hw,
    is_animated_png,
    looks_like_image,
    picture_count,
    refuse_too_large,
)

if TYPE_CHECKING:
    from nerve_runtime.images.reading import Picture, decode_image, read_image, read_pictures

__all__ = [
    "IMAGE_KINDS", "Picture", "decode_image", "image_size_hw", "is_animated_png", "looks_like_image", "picture_count",
    "read_image", "read_pictures", "refuse_too_large",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import what reads pixels; a decoder process needs the headers alone."""
    if name not in ("Picture", "decode_image", "read_image", "read_pictures"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.reading"), name)
