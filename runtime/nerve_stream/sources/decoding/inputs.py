"""What a decoder process opens: plain values that go to it as JSON."""

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class StreamInput:
    """How to open a stream with FFmpeg.

    Attributes:
        url: with its credentials; never to be printed.
        name: the same without them.
        options: for FFmpeg.
        open_timeout_s: how long connecting, and after it finding the frames, may take each.
        read_timeout_s: how long nothing may arrive.
    """

    url: str
    name: str
    options: dict[str, str]
    open_timeout_s: float
    read_timeout_s: float

    def __repr__(self) -> str:
        """Name the stream without its credentials."""
        return f"StreamInput({self.name})"


@dataclass(frozen=True, slots=True)
class CameraInput:
    """How to open a camera of this machine; times as in StreamInput."""

    number: int
    open_timeout_s: float
    read_timeout_s: float

    @property
    def name(self) -> str:
        """The camera in words."""
        return f"camera {self.number}"


LiveInput = StreamInput | CameraInput


def encode_input(live_input: LiveInput, every: int) -> bytes:
    """The input, and the step from one wanted frame to the next, as JSON."""
    kind = "camera" if isinstance(live_input, CameraInput) else "stream"
    return json.dumps({"kind": kind, "every": every, "input": asdict(live_input)}).encode()


def decode_input(text: bytes) -> tuple[LiveInput, int]:
    """The input and the step from what `encode_input` wrote."""
    fields = json.loads(text)
    kind = CameraInput if fields["kind"] == "camera" else StreamInput
    return kind(**fields["input"]), fields["every"]
