"""The process that encodes and sends an outgoing stream; run by `OutgoingStream`, one process a connection.

FFmpeg cannot be interrupted while it waits for a receiver, and PyAV holds Python's lock while it connects. In a process
of its own neither can hold up the segmentation, and whatever hangs can be killed. It imports no more than it needs,
because it starts anew with every connection.

It receives one message of JSON, {"url", "format", "options", "size_hw", "fps"}, so that no password shows in a list of
processes; then, for each frame, its pts in 1/90000 s and its pixels, I420. It answers each message: with nothing once the
connection is made or the frame was handed to the receiver, or else with the error, and ends. When nothing moves for
`HUNG_S` an alarm ends it, also if its parent was killed.
"""

import json
import signal
import struct
from contextlib import suppress
from fractions import Fraction
from typing import Any

import av
import av.error
import av.logging

from nerve_stream.child import Connection

CLOCK_HZ = 90_000
PTS = struct.Struct("<q")
HUNG_S = 10
KEYFRAME_TICKS = CLOCK_HZ  # one keyframe a second: a viewer who joins waits no longer
# Measured at 720p on one core: 6 ms a picture. `forced-idr` makes each keyframe one at which a decoder can begin.
ENCODER_OPTIONS = {"preset": "ultrafast", "tune": "zerolatency", "crf": "23", "forced-idr": "1"}


def main(connection: Connection) -> None:
    """Send frames until the parent ends the connection or the receiver goes away."""
    av.logging.set_level(None)
    (settings,) = connection.receive()
    try:
        _send(json.loads(settings.tobytes()), connection)
    except (OSError, av.error.FFmpegError, ValueError) as error:
        with suppress(OSError):  # a parent that is gone reads nothing
            connection.send(f"{getattr(error, 'strerror', None) or error}".encode())


def _send(settings: dict[str, Any], connection: Connection) -> None:
    height, width = settings["size_hw"]
    signal.alarm(HUNG_S)
    container: Any = av.open(settings["url"], "w", format=settings["format"], options=settings["options"])
    stream = container.add_stream("libx264", rate=Fraction(settings["fps"]), options=dict(ENCODER_OPTIONS))
    stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
    stream.codec_context.time_base = Fraction(1, CLOCK_HZ)
    container.start_encoding()
    connection.send(b"")
    next_keyframe = 0
    while True:
        signal.alarm(0)  # waiting for the next frame may take as long as it likes
        try:
            pts_bytes, planes = connection.receive()
        except ConnectionError:
            break
        signal.alarm(HUNG_S)
        (pts,) = PTS.unpack(pts_bytes.tobytes())
        frame = av.VideoFrame.from_ndarray(planes.reshape(height * 3 // 2, width), "yuv420p")
        frame.pts, frame.time_base = pts, Fraction(1, CLOCK_HZ)
        if pts >= next_keyframe:
            frame.pict_type = av.video.frame.PictureType.I
            next_keyframe = pts + KEYFRAME_TICKS
        container.mux(stream.encode(frame))
        connection.send(b"")
    signal.alarm(HUNG_S)
    container.mux(stream.encode())
    container.close()
