"""A small RTSP server: `python -m tests.data.rtsp_server PORT WIDTH HEIGHT FPS` serves rtsp://127.0.0.1:PORT/live.

H.264 over TCP interleaved, any path, several clients, each with an encoder of its own. A process of its own, so that a
test can kill, freeze and restart it. The number of each frame is drawn as 16 bright or dark blocks; `number_of` reads it.
It prints `ready` once it listens. Sources: RFC 2326 (RTSP), RFC 3550 (RTP), RFC 6184 (H.264 over RTP).
"""

import base64
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

BITS = 16
RTP_CLOCK_HZ = 90_000
PAYLOAD_TYPE = 96
FRAGMENT_BYTES = 1400
MARKER = 0x80
FU_A = 28
SPS, PPS = 7, 8
WHITE, BLACK = 235, 16


def numbered(number: int, size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """RGB picture: the number's 16 bits as blocks across the upper half, a bar that moves in the lower half."""
    height, width = size_hw
    picture = np.full((height, width, 3), 90, dtype=np.uint8)
    block = width // BITS
    for bit in range(BITS):
        picture[: height // 2, bit * block : (bit + 1) * block] = WHITE if number >> bit & 1 else BLACK
    left = number * 4 % width
    picture[height // 2 :, left : left + 8] = (200, 60, 60)
    return picture


def number_of(rgb: NDArray[np.uint8]) -> int:
    """The number that `numbered` drew."""
    height, width = rgb.shape[:2]
    block = width // BITS
    middles = rgb[height // 4, block // 2 : BITS * block : block].mean(axis=1) > (WHITE + BLACK) / 2
    return sum(1 << bit for bit, bright in enumerate(middles) if bright)


class Encoder:
    """H.264 without delay, a keyframe each second."""

    def __init__(self, size_hw: tuple[int, int], fps: int) -> None:
        self._size_hw, self._fps = size_hw, fps
        codec: Any = av.CodecContext.create("libx264", "w")
        codec.height, codec.width = size_hw
        codec.pix_fmt, codec.time_base, codec.framerate = "yuv420p", Fraction(1, fps), Fraction(fps)
        codec.options = {"tune": "zerolatency", "preset": "ultrafast", "g": str(fps), "threads": "1"}
        self._codec = codec

    def units(self, number: int) -> list[bytes]:
        """The NAL units of one frame."""
        frame = av.VideoFrame.from_ndarray(numbered(number, self._size_hw), "rgb24")
        frame.pts = number
        stream = b"".join(bytes(packet) for packet in self._codec.encode(frame))
        return [unit.rstrip(b"\0") for unit in stream.replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1") if unit]


class Client(threading.Thread):
    """One connection: answers requests and, while playing, sends frames at their pace."""

    def __init__(self, connection: socket.socket, size_hw: tuple[int, int], fps: int) -> None:
        super().__init__(daemon=True)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket, self._size_hw, self._fps = connection, size_hw, fps
        self._received = b""
        self._sequence = 0
        self._playing = False

    def run(self) -> None:
        with suppress(OSError, EOFError), self._socket:
            while not self._playing:
                self._receive(None)
            self._play()

    def _play(self) -> None:
        encoder = Encoder(self._size_hw, self._fps)
        number, due_s = 0, time.monotonic()
        while self._playing:
            for packet in self._packets(encoder.units(number), number * RTP_CLOCK_HZ // self._fps):
                self._socket.sendall(packet)
            number += 1
            due_s = max(due_s + 1 / self._fps, time.monotonic() - 1 / self._fps)
            while (left_s := due_s - time.monotonic()) > 0:
                self._receive(left_s)

    def _packets(self, units: list[bytes], timestamp: int) -> Iterator[bytes]:
        for position, unit in enumerate(units):
            pieces = list(_fragments(unit))
            for piece_position, piece in enumerate(pieces):
                is_last = position == len(units) - 1 and piece_position == len(pieces) - 1
                kind = PAYLOAD_TYPE | (MARKER if is_last else 0)
                header = struct.pack(">BBHII", 0x80, kind, self._sequence & 0xFFFF, timestamp & 0xFFFFFFFF, 0x4E455256)
                self._sequence += 1
                yield struct.pack(">cBH", b"$", 0, len(header) + len(piece)) + header + piece

    def _receive(self, timeout_s: float | None) -> None:
        """Wait for bytes at most so long, and answer each complete request among them."""
        if not select.select([self._socket], [], [], timeout_s)[0]:
            return
        part = self._socket.recv(65536)
        if not part:
            raise EOFError
        self._received += part
        while self._received:
            if self._received[:1] == b"$":  # a receiver report
                length = 4 + int.from_bytes(self._received[2:4], "big")
                if len(self._received) < max(4, length):
                    return
                self._received = self._received[length:]
                continue
            request, found, rest = self._received.partition(b"\r\n\r\n")
            if not found:
                return
            self._received = rest
            self._answer(request.decode())

    def _answer(self, request: str) -> None:
        line, *fields = request.split("\r\n")
        method, address, _ = line.split(" ")
        sequence = next(field for field in fields if field.lower().startswith("cseq"))
        words, body = ["RTSP/1.0 200 OK", sequence, "Session: 1;timeout=60"], ""
        if method == "OPTIONS":
            words.append("Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN, GET_PARAMETER")
        elif method == "DESCRIBE":
            body = self._description()
            words += ["Content-Type: application/sdp", f"Content-Base: {address}/", f"Content-Length: {len(body)}"]
        elif method == "SETUP":
            over_tcp = any(field.lower().startswith("transport") and "/TCP" in field.upper() for field in fields)
            words.append("Transport: RTP/AVP/TCP;unicast;interleaved=0-1")
            words[0] = words[0] if over_tcp else "RTSP/1.0 461 Unsupported Transport"
        elif method == "PLAY":
            words.append("Range: npt=0.000-")
            self._playing = True
        self._socket.sendall(("\r\n".join(words) + "\r\n\r\n" + body).encode())
        if method == "TEARDOWN":
            raise EOFError

    def _description(self) -> str:
        units = Encoder(self._size_hw, self._fps).units(0)
        sets = [next(unit for unit in units if unit[0] & 31 == kind) for kind in (SPS, PPS)]
        sprop = ",".join(base64.b64encode(one).decode() for one in sets)
        lines = [
            "v=0", "o=- 0 0 IN IP4 127.0.0.1", "s=nerve", "c=IN IP4 127.0.0.1", "t=0 0",
            f"m=video 0 RTP/AVP {PAYLOAD_TYPE}", f"a=rtpmap:{PAYLOAD_TYPE} H264/{RTP_CLOCK_HZ}", f"a=framerate:{self._fps}",
            f"a=fmtp:{PAYLOAD_TYPE} packetization-mode=1;sprop-parameter-sets={sprop}", "a=control:track0",
        ]  # fmt: skip
        return "\r\n".join(lines) + "\r\n"


def _fragments(unit: bytes) -> Iterator[bytes]:
    """The unit itself, or as fragments that fit a packet (RFC 6184, section 5.8)."""
    if len(unit) <= FRAGMENT_BYTES:
        yield unit
        return
    indicator, kind, body = unit[0] & 0xE0 | FU_A, unit[0] & 0x1F, unit[1:]
    for start in range(0, len(body), FRAGMENT_BYTES):
        first, last = start == 0, start + FRAGMENT_BYTES >= len(body)
        yield bytes([indicator, first << 7 | last << 6 | kind]) + body[start : start + FRAGMENT_BYTES]


def serve(port: int, size_hw: tuple[int, int], fps: int) -> None:
    """Serve clients for ever."""
    with socket.create_server(("127.0.0.1", port)) as listening:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            Client(listening.accept()[0], size_hw, fps).start()


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:5]]
    serve(given[0], (given[2], given[1]), given[3])
