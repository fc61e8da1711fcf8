"""Image files: what their headers say, and their pixels."""

from nerve_runtime.images.header import IMAGE_KINDS, image_size_hw, is_animated_png, looks_like_image, picture_count
from nerve_runtime.images.reading import decode_image, read_image, refuse_too_large

__all__ = [
    "IMAGE_KINDS", "decode_image", "image_size_hw", "is_animated_png", "looks_like_image", "picture_count", "read_image",
    "refuse_too_large",
]  # fmt: skip
