"""Decoder processes that misbehave on purpose, in place of the real one.

Each is a script that speaks the real one's language; `fake_decoder` gives the command line that runs it.
"""

import json
import sys

PREAMBLE = """
import json, os, signal, sys, time
sys.path[:] = json.loads(sys.argv[1])
from fractions import Fraction
from nerve_stream.sources.decoding.messages import Header, Kind
heard = b""
while b"\\n" not in heard:
    heard += os.read(0, 4096)
def say(kind, payload=b"", **fields):
    os.write(1, Header(kind, payload_bytes=len(payload), **fields).packed() + payload)
def opened(recorded=False):
    say(Kind.STARTED)
    say(Kind.OPENED, json.dumps({"fps": [10, 1], "recorded": recorded}).encode())
def picture(index, time_s=None, value=0):
    if not os.read(0, 1):
        sys.exit(0)
    say(Kind.PICTURE, bytes([value]) * 12, size_hw=(2, 2), index=index, arrived_ns=time.monotonic_ns(), time_s=time_s)
def wait_for_the_end():
    while os.read(0, 4096):
        pass
"""

STUBBORN = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
opened()
for index in range(3):
    picture(index, Fraction(index, 10))
time.sleep(600)
"""
"""Gives three pictures, then hangs, deaf to the end of its input and to SIGTERM."""

CRASHING = """
opened()
picture(0)
os.kill(os.getpid(), signal.SIGSEGV)
"""
"""Gives a picture and dies of a signal."""

BREAKING_OFF = """
opened()
for index in range(3):
    picture(index, Fraction(index, 10) + 100)
say(Kind.LOST, b"the cable is out")
"""
"""Gives three pictures by a clock that begins at 100 s, then loses the source."""

REFUSING = """
say(Kind.STARTED)
say(Kind.REFUSED, b"nobody is there")
"""

SILENT = """
opened()
picture(0)
wait_for_the_end()
"""
"""Gives one picture and then nothing, but ends when it is asked to."""

ENDLESS = """
opened()
index = 0
while True:
    picture(index, Fraction(index, 10))
    index += 1
"""

BABBLING = """
os.write(1, b"x" * 4096)
wait_for_the_end()
"""
"""Says what is no message."""

RECORDING = """
opened(recorded=True)
for index in range(3):
    picture(index, Fraction(index, 10))
say(Kind.ENDED)
"""

GROWING = """
opened(recorded=True)
os.read(0, 1)
say(Kind.PICTURE, bytes(range(12)), size_hw=(2, 2))
os.read(0, 1)
say(Kind.PICTURE, bytes(range(36)), size_hw=(3, 4), index=1, arrived_ns=1)
say(Kind.ENDED)
"""
"""Changes the size of its pictures."""

BROKEN_RECORDING = """
opened(recorded=True)
picture(0)
say(Kind.LOST, b"the network is gone")
"""


def fake_decoder(script: str) -> list[str]:
    """The command line of a decoder process that runs this script."""
    return [sys.executable, "-c", PREAMBLE + script, json.dumps(sys.path)]
