"""What a decoder process is told to open: plain values that go to it as one line of JSON."""

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class StreamRecipe:
    """How to open a stream with FFmpeg.

    Attributes:
        url: with its credentials; never to be printed.
        name: the same without them.
        options: for FFmpeg.
        open_timeout_s: how long connecting, and after it finding the pictures, may take each.
        read_timeout_s: how long nothing may arrive.
    """

    url: str
    name: str
    options: dict[str, str]
    open_timeout_s: float
    read_timeout_s: float

    def __repr__(self) -> str:
        """Name the stream without its credentials."""
        return f"StreamRecipe({self.name})"


@dataclass(frozen=True, slots=True)
class CameraRecipe:
    """How to open a camera of this machine; times as in StreamRecipe."""

    number: int
    open_timeout_s: float
    read_timeout_s: float

    @property
    def name(self) -> str:
        """The camera in words."""
        return f"camera {self.number}"


Recipe = StreamRecipe | CameraRecipe


def encode_recipe(recipe: Recipe, every: int) -> bytes:
    """The recipe, and which frames are wanted, as a line of JSON."""
    kind = "camera" if isinstance(recipe, CameraRecipe) else "stream"
    return json.dumps({"kind": kind, "every": every, "recipe": asdict(recipe)}).encode() + b"\n"


def decode_recipe(line: bytes) -> tuple[Recipe, int]:
    """The recipe and the number of frames of which one is wanted, from what `encode_recipe` wrote."""
    fields = json.loads(line)
    kind = CameraRecipe if fields["kind"] == "camera" else StreamRecipe
    return kind(**fields["recipe"]), fields["every"]
