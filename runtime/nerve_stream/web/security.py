"""Who may ask the page for what: Host, Origin, token, headers, sizes and rates. docs/web.md lists the rules."""

import asyncio
import hmac
import ipaddress
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nerve_stream.web.address import PageAddress

TOKEN_BYTES = 24
READING_METHODS = ("GET", "HEAD")
BODY_TIMEOUT_S = 20.0
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
SECURITY_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-store",
}


@dataclass(frozen=True, slots=True)
class Access:
    """Who may come in.

    Attributes:
        address: where the page listens.
        port: the one that it got.
        token: what a viewer has to know; None where only this machine can connect.
    """

    address: PageAddress
    port: int
    token: str | None

    @classmethod
    def of(cls, address: PageAddress, port: int) -> "Access":
        """The rules for an address: any but this machine's own gets a new token."""
        return cls(address, port, None if address.is_local else secrets.token_urlsafe(TOKEN_BYTES))

    @property
    def cookie(self) -> str:
        """Name of the cookie; browsers share cookies between the ports of a host."""
        return f"nerve_{self.port}"

    @property
    def url(self) -> str:
        """The address to open, with the token where there is one."""
        host = self.address.host
        if host in ("0.0.0.0", "::"):
            host = socket.gethostname()
        host = f"[{host}]" if ":" in host else host
        return f"http://{host}:{self.port}/" + (f"?token={self.token}" if self.token else "")

    def knows_host(self, host: str) -> bool:
        """Whether a Host header names this machine.

        A page elsewhere can have its own name lead here (DNS rebinding), but the browser still says that name. A name
        that is an address cannot be made to lead here.
        """
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name == "localhost":
            return True
        try:
            given = ipaddress.ip_address(name)
        except ValueError:
            own = socket.gethostname().lower()
            return not self.address.is_local and name in (self.address.host.lower(), own, f"{own}.local")
        return given.is_loopback or not self.address.is_local

    def is_token(self, text: str) -> bool:
        """Whether this is the token, found in a time that says nothing about it."""
        return self.token is None or hmac.compare_digest(text.encode(), self.token.encode())


class Guard:
    """Lets a request through to the page if it keeps the rules, and adds the security headers to every answer."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        refused = self._refused(scope)
        if refused is None:
            await self._app(scope, receive, _with_headers(send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await refused(scope, receive, _with_headers(send))

    def _refused(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if len(headers.getlist("host")) != 1 or not self._access.knows_host(host):
            return PlainTextResponse("this page is not served under that name\n", 421)
        changes = scope["type"] == "websocket" or scope["method"] not in READING_METHODS
        if changes and not _is_same_origin(headers.get("origin", ""), host):
            return PlainTextResponse("only the page itself may ask this\n", 403)
        return self._refused_token(scope, headers)

    def _refused_token(self, scope: Scope, headers: Headers) -> Response | None:
        if self._access.is_token(_cookie(headers, self._access.cookie)):
            return None
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if scope["type"] == "websocket" or scope["method"] not in READING_METHODS or not self._access.is_token(given):
            return PlainTextResponse("open the address with the token that the command printed\n", 401)
        if scope["path"] != "/":
            return None  # a player that keeps no cookies
        answer = RedirectResponse("/", 303)
        answer.set_cookie(self._access.cookie, given, httponly=True, samesite="strict", path="/")
        return answer


def _is_same_origin(origin: str, host: str) -> bool:
    return origin in (f"http://{host}", f"https://{host}")


def _cookie(headers: Headers, name: str) -> str:
    try:
        cookie = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return ""
    return "" if cookie is None else cookie.value


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(SECURITY_HEADERS)
        await send(message)

    return send_with_headers


@dataclass(slots=True)
class RateLimit:
    """So many a second, and so many at once; for one thread.

    Attributes:
        per_s: how many a second for ever.
        burst: how many at once after a rest.
    """

    per_s: float
    burst: int
    clock: Callable[[], float] = time.monotonic
    _left: float = field(init=False)
    _at_s: float = field(init=False)

    def __post_init__(self) -> None:
        self._left, self._at_s = float(self.burst), self.clock()

    def grant(self) -> bool:
        """Take one; false when there is none."""
        now_s = self.clock()
        self._left = min(self.burst, self._left + (now_s - self._at_s) * self.per_s)
        self._at_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True


class RefusedError(Exception):
    """A request that is answered with a status and a reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


async def read_body(request: Request, limit_bytes: int, timeout_s: float = BODY_TIMEOUT_S) -> bytes:
    """The body of a request, of a bounded size and in bounded time.

    Raises:
        RefusedError: it is larger than `limit_bytes` (413), takes too long (408), or its sender is gone (400).
    """
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > limit_bytes:
        raise RefusedError(413, f"the body is {declared} bytes, expected at most {limit_bytes}")
    body = bytearray()

    async def read() -> None:
        async for chunk in request.stream():
            if len(body) + len(chunk) > limit_bytes:
                raise RefusedError(413, f"the body is larger than {limit_bytes} bytes")
            body.extend(chunk)

    try:
        await asyncio.wait_for(read(), timeout_s)
    except asyncio.TimeoutError:
        raise RefusedError(408, f"the body took longer than {timeout_s:g} s") from None
    except ClientDisconnect:
        raise RefusedError(400, "the body broke off") from None
    return bytes(body)
