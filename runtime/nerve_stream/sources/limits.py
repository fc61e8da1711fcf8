"""What no picture may exceed, whatever a header says."""

from nerve_runtime import SourceError
from nerve_runtime.opencv import IMAGE_PIXELS_LIMIT


def refuse_too_large(where: str, size_hw: tuple[int, int]) -> None:
    """Refuse a picture of more than 50 megapixels before memory is taken for it.

    Args:
        where: the picture in words, for the message.
        size_hw: its height and width in pixels.

    Raises:
        SourceError: it is larger.
    """
    if size_hw[0] * size_hw[1] > IMAGE_PIXELS_LIMIT:
        raise SourceError(
            f"{where} is {size_hw[1]} x {size_hw[0]} pixels, expected at most {IMAGE_PIXELS_LIMIT} in all; make it smaller"
        )
