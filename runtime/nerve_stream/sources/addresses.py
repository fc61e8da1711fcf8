"""Which URLs are opened, and what FFmpeg is allowed to do with each."""

import re
from pathlib import Path

from nerve_runtime import SourceError
from nerve_stream.redaction import redacted
from nerve_stream.sources.decoding.inputs import StreamInput
from nerve_stream.sources.options import LiveOptions

# What a server may make FFmpeg open besides: a redirect or a list in the stream that names file:, concat: or subfile:
# finds that protocol forbidden. A redirect from https may not go down to http, which would tell the token to everybody.
ALLOWED_PROTOCOLS = {
    "rtsp": "tcp,udp,rtp",
    "rtsps": "tcp,tls,udp,rtp,srtp",
    "rtmp": "rtmp,tcp",
    "http": "http,https,tcp,tls",
    "https": "https,tcp,tls",
    "udp": "udp",
    "tcp": "tcp",
    "srt": "srt",
}
STREAMED_FORMATS = "mpegts,mpjpeg,matroska,webm,flv,nut,h264,hevc,mpegvideo,m4v,mjpeg,ogg,avi,ivf,obu,yuv4mpegpipe"
ALLOWED_FORMATS = {
    "rtsp": "rtsp",
    "rtsps": "rtsp",
    "rtmp": "flv,live_flv",
    "http": f"{STREAMED_FORMATS},mov,mp4,mpeg,asf",
    "https": f"{STREAMED_FORMATS},mov,mp4,mpeg,asf",
    "udp": STREAMED_FORMATS,
    "tcp": STREAMED_FORMATS,
    "srt": STREAMED_FORMATS,
}
# Enough for 20 frames at 25 a second, from which FFmpeg tells the rate; the default of 5 s is felt at each reconnection.
# Not `fflags nobuffer`: it throws away what was looked at, with the first keyframe, and waits for the next.
PROBED_US = 1_000_000
CAMERA_DEVICE = "/dev/video"
CONTROL_CHARACTERS = re.compile(r"[\x00-\x20\x7f]")
_ADDRESS_OF_PATH = re.compile(rf"(?P<scheme>{'|'.join(ALLOWED_PROTOCOLS)}):/(?!/)", re.IGNORECASE)


def is_address(text: str) -> bool:
    """Whether a source is a URL rather than a path; also one that went through pathlib, which leaves one slash."""
    return "://" in text or _ADDRESS_OF_PATH.match(text) is not None


def is_live(source: str) -> bool:
    """Whether a source is a camera or an address."""
    camera = source.isdecimal() and not Path(source).exists()
    return is_address(source) or camera or source.startswith(CAMERA_DEVICE)


def parse_address(text: str, live: LiveOptions) -> StreamInput:
    """Check a URL and say how it is to be opened.

    Raises:
        SourceError: its scheme is not one of those that are read, it names no host, or holds spaces.
    """
    url = _ADDRESS_OF_PATH.sub(r"\g<scheme>://", text, count=1)
    scheme, _, rest = url.partition("://")
    scheme = scheme.lower()
    name = redacted(f"{scheme}://{rest}")
    if scheme not in ALLOWED_PROTOCOLS:
        raise SourceError(
            f"source {name} has the scheme {redacted(scheme)!r}, expected one of {', '.join(ALLOWED_PROTOCOLS)}; "
            "give a file as a plain path"
        )
    if CONTROL_CHARACTERS.search(rest) or rest.startswith(("/", "?")) or not rest:
        raise SourceError(f"source {name} is no URL: it names no host, or holds spaces; expected {scheme}://host/path")
    options = {
        "protocol_whitelist": ALLOWED_PROTOCOLS[scheme],
        "format_whitelist": ALLOWED_FORMATS[scheme],
        "analyzeduration": str(PROBED_US),
    }
    if scheme in {"rtsp", "rtsps"}:
        options |= {"rtsp_transport": live.rtsp_transport, "allowed_media_types": "video"}
    if scheme == "udp":
        options["overrun_nonfatal"] = "1"  # a full buffer loses pictures, as live sources may, and not the stream
    return StreamInput(f"{scheme}://{rest}", name, options, live.open_timeout_s, live.read_timeout_s)
