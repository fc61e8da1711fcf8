"""Boxes of text on a picture, in pixels."""

from typing import NamedTuple


class Box(NamedTuple):
    """A rectangle of a picture, in pixels: its upper left corner and its size."""

    top: int
    left: int
    height: int
    width: int

    def overlaps(self, other: "Box") -> bool:
        """Whether the two have a pixel in common."""
        return (
            self.top < other.top + other.height
            and other.top < self.top + self.height
            and self.left < other.left + other.width
            and other.left < self.left + self.width
        )

    @property
    def pixels(self) -> tuple[slice, slice]:
        """Its rows and columns, to index a picture with; the box must not begin outside of it."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)
