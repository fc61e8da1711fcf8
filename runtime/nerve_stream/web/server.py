"""The server of the page: uvicorn in a thread of its own."""

import asyncio
import errno
import logging
import socket
import threading
from contextlib import suppress

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from nerve_runtime import ResourceError
from nerve_stream.web.address import OPTION, PageAddress

CONNECTIONS_LIMIT = 64
"""Sockets that are kept open; one more is closed at once, so that files and cameras never lack descriptors."""
REQUEST_TIMEOUT_S = 10.0
"""A connection that asks nothing for so long, at first or after an answer, is closed."""
READING_TIMEOUT_S = 30.0
"""A connection that takes nothing of its answer for so long is closed."""
MESSAGE_LIMIT_BYTES = 1024
HEADERS_LIMIT_BYTES = 16_384
GRACE_S = 1
JOIN_TIMEOUT_S = 2.5

logger = logging.getLogger("nerve_runtime")


class _BoundedProtocol(H11Protocol):
    """HTTP/1.1 for so many connections at most, none of which may wait with its next request or its reading."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS_LIMIT:
            transport.abort()
            return
        self._await_request_after(None)

    def on_response_complete(self) -> None:
        # A request that was sent ahead begins in here, and is not waited for.
        answered = self.cycle
        super().on_response_complete()
        self._await_request_after(answered)

    def _await_request_after(self, answered: RequestResponseCycle | None) -> None:
        self.loop.call_later(REQUEST_TIMEOUT_S, self._close_without_request, answered)

    def _close_without_request(self, answered: RequestResponseCycle | None) -> None:
        # One that is being closed still reads its answer.
        if self in self.connections and self.cycle is answered and not self.transport.is_closing():
            self.transport.abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._reading_watch.cancel()

    def _watch_reading(self) -> None:
        left_bytes = self.transport.get_write_buffer_size()
        self._reading_watch = self.loop.call_later(READING_TIMEOUT_S, self._close_without_reading, left_bytes)

    def _close_without_reading(self, left_bytes: int) -> None:
        if self not in self.connections:
            return
        if self.transport.get_write_buffer_size() == left_bytes:
            self.transport.abort()
        else:
            self._watch_reading()


class _StoppableServer(uvicorn.Server):
    """Ends as soon as the run is asked to stop, beside whatever else has to end."""

    def __init__(self, config: uvicorn.Config, stop: threading.Event) -> None:
        super().__init__(config)
        self._stop = stop

    async def on_tick(self, counter: int) -> bool:
        return self._stop.is_set() or await super().on_tick(counter)


class PageServer:
    """Serves an application until it is closed.

    Args:
        sock: listens already, see `listening`.
        app: what answers.
        stop: of the run.
    """

    def __init__(self, sock: socket.socket, app: ASGIApp, stop: threading.Event) -> None:
        config = uvicorn.Config(
            app,
            http=_BoundedProtocol,
            ws="websockets-sansio",
            loop="asyncio",
            lifespan="on",
            log_config=None,
            log_level="critical",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            ws_max_size=MESSAGE_LIMIT_BYTES,
            ws_per_message_deflate=False,
            h11_max_incomplete_event_size=HEADERS_LIMIT_BYTES,
            timeout_graceful_shutdown=GRACE_S,
        )
        self._server = _StoppableServer(config, stop)
        self._socket = sock
        self._thread = threading.Thread(target=self._serve, name="nerve-page", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        self._server.run(sockets=[self._socket])

    def close(self) -> None:
        """Close all connections and end the thread; closing twice is fine."""
        self._server.should_exit = True
        self._thread.join(JOIN_TIMEOUT_S)
        if self._thread.is_alive():
            logger.warning("the page's server did not end within %g s", JOIN_TIMEOUT_S)


def listening(address: PageAddress) -> socket.socket:
    """A socket that listens at an address, or at a free port where that is allowed and this one is in use.

    Raises:
        ResourceError: the address is in use, is not of this machine, or may not be used.
    """
    try:
        return _bound(address.host, address.port)
    except (OSError, UnicodeError) as error:  # UnicodeError: a part of the name is empty or too long
        in_use = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        if in_use and address.or_free:
            return _bound(address.host, 0)
        reason = "it is in use" if in_use else str(error)
        raise ResourceError(
            f"the page cannot listen on {address.host}:{address.port}: {reason}; choose another with {OPTION} HOST:PORT"
        ) from error


def _bound(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    sock = socket.socket(family, kind, protocol)
    try:
        # Else the port of a run that just ended could not be used again for a minute.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(where)
        sock.listen(CONNECTIONS_LIMIT)
    except OSError:
        with suppress(OSError):
            sock.close()
        raise
    return sock
