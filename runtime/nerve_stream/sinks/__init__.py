"""Where results go: overlay video or pictures, outgoing stream, PNG masks, JSON lines.

Files appear whole at the end, or not at all; what is live (a stream, lines that are followed) appears as it is made.
"""

from nerve_stream.sinks.base import FpsMeter, ReaderGoneError, Sink, safe_name
from nerve_stream.sinks.lines import STDOUT, JsonLines
from nerve_stream.sinks.masks import MaskFile, MaskFolder, MaskFormat, indexed_png, mask_name
from nerve_stream.sinks.outgoing import OUTGOING_SCHEMES, OutgoingStream
from nerve_stream.sinks.pictures import OverlayFolder, OverlayPicture
from nerve_stream.sinks.video import OverlayVideo, fit_to_canvas

__all__ = [
    "OUTGOING_SCHEMES",
    "STDOUT",
    "FpsMeter",
    "JsonLines",
    "MaskFile",
    "MaskFolder",
    "MaskFormat",
    "OutgoingStream",
    "OverlayFolder",
    "OverlayPicture",
    "OverlayVideo",
    "ReaderGoneError",
    "Sink",
    "fit_to_canvas",
    "indexed_png",
    "mask_name",
    "safe_name",
]
