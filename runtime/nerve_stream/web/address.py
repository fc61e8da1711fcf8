"""Where the page listens: the value of `--web`."""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

from nerve_runtime import UsageError

OPTION = "--web"
DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8080
PORT_LIMIT = 65535
CAMERAS = 256
"""Linux numbers so many video devices; a greater number after `--web` is a port."""
ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]*):(?P<port>\d{1,5})")


@dataclass(frozen=True, slots=True)
class PageAddress:
    """A host and a port.

    Attributes:
        host: a name or an address, IPv6 without brackets.
        port: 0 for any free one.
        or_free: take a free port where this one is in use.
    """

    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    or_free: bool = True

    @property
    def is_local(self) -> bool:
        """Whether only this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_page_address(text: str) -> PageAddress:
    """Read HOST:PORT, or :PORT of this machine; an empty text is port 8080 of this machine, or a free one.

    Raises:
        UsageError: it is neither.

    >>> parse_page_address("0.0.0.0:80")
    PageAddress(host='0.0.0.0', port=80, or_free=False)
    """
    if not text:
        return PageAddress()
    found = ADDRESS.fullmatch(text)
    if found is None or int(found["port"]) > PORT_LIMIT:
        raise UsageError(f"{OPTION} is {text!r}, expected HOST:PORT, such as {DEFAULT_HOST}:{DEFAULT_PORT}")
    return PageAddress(found["host"].strip("[]") or DEFAULT_HOST, int(found["port"]), or_free=False)


def with_page_address(words: Sequence[str]) -> list[str]:
    """The words of a command line in which a `--web` without an address has an empty one; typer has no optional values.

    A number beyond those of cameras stays its value, which is then refused as no HOST:PORT.

    >>> with_page_address(["--web", "clip.mp4"]), with_page_address(["--web", ":80"])
    (['--web=', 'clip.mp4'], ['--web=:80'])
    """
    found: list[str] = []
    for word in words:
        if found and found[-1] == OPTION:
            is_value = ADDRESS.fullmatch(word) or (word.isdecimal() and int(word) >= CAMERAS)
            found[-1] = f"{OPTION}={word}" if is_value else f"{OPTION}="
            if found[-1] != f"{OPTION}=":
                continue
        found.append(word)
    if found and found[-1] == OPTION:
        found[-1] = f"{OPTION}="
    return found
