"""The process that encodes and sends an outgoing stream; run by `OutgoingStream`, one process a connection.

FFmpeg cannot be interrupted while it waits for a receiver, and PyAV holds Python's lock while it connects. In a process
of its own neither can hold up the segmentation, and whatever hangs can be killed. It imports no more than it needs,
because it starts anew with every connection.

What it reads on stdin: one line of JSON, {"url", "format", "options", "size_hw", "fps"}, so that no password shows in a
list of processes; then, for each picture, its time in ticks of 1/90000 s and its pixels, I420. What it says on stdout:
`{"ready": true}` or `{"error": "..."}` and a newline; then one byte for each picture that was handed to the receiver.
It ends at the end of stdin. When nothing moves for `HUNG_S` an alarm ends it, also if its parent was killed.
"""

import json
import os
import signal
import struct
import sys
from contextlib import suppress
from fractions import Fraction
from typing import Any, BinaryIO

import av
import av.error
import av.logging
import numpy as np

CLOCK_HZ = 90_000
HEADER = struct.Struct(">q")
READY = b'{"ready": true}\n'
SENT = b"."
HUNG_S = 10
KEYFRAME_TICKS = CLOCK_HZ  # one keyframe a second: a viewer who joins waits no longer
# Measured at 720p on one core: 6 ms a picture. `forced-idr` makes each keyframe one at which a decoder can begin.
ENCODER_OPTIONS = {"preset": "ultrafast", "tune": "zerolatency", "crf": "23", "forced-idr": "1"}


def main() -> int:
    """Send pictures from stdin until it ends; 0, or 1 when the receiver refused or went away."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, who then closes stdin
    av.logging.set_level(None)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    order = json.loads(sys.stdin.buffer.readline())
    try:
        _send(order, sys.stdin.buffer, answers)
    except (OSError, av.error.FFmpegError, ValueError) as error:
        # A message to a parent that is gone has no reader.
        with suppress(OSError):
            answers.write(json.dumps({"error": f"{getattr(error, 'strerror', None) or error}"}).encode() + b"\n")
        return 1
    return 0


def _send(order: dict[str, Any], pictures: BinaryIO, answers: Any) -> None:
    height, width = order["size_hw"]
    picture_bytes = height * width * 3 // 2
    signal.alarm(HUNG_S)
    container: Any = av.open(order["url"], "w", format=order["format"], options=order["options"])
    stream = container.add_stream("libx264", rate=Fraction(order["fps"]), options=dict(ENCODER_OPTIONS))
    stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
    stream.codec_context.time_base = Fraction(1, CLOCK_HZ)
    container.start_encoding()
    answers.write(READY)
    next_keyframe = 0
    while True:
        signal.alarm(0)  # waiting for the next picture may take as long as it likes
        content = pictures.read(HEADER.size + picture_bytes)
        signal.alarm(HUNG_S)
        if len(content) < HEADER.size + picture_bytes:
            break
        (tick,) = HEADER.unpack_from(content)
        planes = np.frombuffer(content, dtype=np.uint8, offset=HEADER.size).reshape(height * 3 // 2, width)
        frame = av.VideoFrame.from_ndarray(planes, "yuv420p")
        frame.pts, frame.time_base = tick, Fraction(1, CLOCK_HZ)
        if tick >= next_keyframe:
            frame.pict_type = av.video.frame.PictureType.I
            next_keyframe = tick + KEYFRAME_TICKS
        container.mux(stream.encode(frame))
        answers.write(SENT)
    container.mux(stream.encode())
    container.close()
