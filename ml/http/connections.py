"""Limits of connections: bytes and seconds of the head of a request, and the number of connections.

`ml.http.guard` and `ml.http.limits` see a request once its head, the request line and the headers, has arrived. uvicorn limits
the bytes of heads for its h11 protocol alone, and their seconds for none, so a subclass of its httptools protocol does.
"""

from __future__ import annotations

import asyncio
import resource
from dataclasses import dataclass, field
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from ml.http.errors import error_response
from ml.http.guard import SECURITY_HEADERS

MOST_CONNECTIONS = 1000


def default_connection_limit() -> int:
    """Return half of the files that this process may open, at most `MOST_CONNECTIONS`."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_CONNECTIONS if files == resource.RLIM_INFINITY else min(MOST_CONNECTIONS, files // 2)


@dataclass(frozen=True)
class ConnectionLimits:
    """What a server takes from connections before there is a request.

    Attributes:
        head_bytes: Bytes of a head, and of the trailers of a body. A head of up to twice this size may be accepted, because
            bytes are counted by block.
        head_seconds: Seconds within which a head has to arrive.
        connections: Open connections. Beyond it, the one that has sent nothing for longest is closed, among those that wait for
            no answer if there are any.
        pipelined: Requests that a connection may send before the first is answered.
    """

    head_bytes: int = 2**16
    head_seconds: float = 10.0
    connections: int = field(default_factory=default_connection_limit)
    pipelined: int = 64


class LimitedProtocol(HttpToolsProtocol):
    """A connection of uvicorn's server with httptools, with limits; see `limited_protocol`."""

    limits: ConnectionLimits
    _timer: asyncio.TimerHandle | None = None
    _unfinished = 0
    """Bytes that have arrived since the last head was complete, or since the last bytes of a body."""
    _has_body = False
    _running: RequestResponseCycle | None = None
    """The request in progress. If others have been sent ahead of its answer, `cycle` is the last of them."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._heard = self.loop.time()
        self._expect_head()
        if len(self.connections) > self.limits.connections:
            silent = min(self.connections, key=lambda one: (one._is_answering, one._heard))  # type: ignore[union-attr]
            self.connections.discard(silent)
            silent._write_no_more()  # type: ignore[union-attr]
            silent.transport.abort()  # type: ignore[union-attr]

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _write_no_more(self) -> None:
        """Keep the request in progress from writing to its closed connection, because each write would be an error."""
        if self._running is not None:
            self._running.disconnected = True

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_nothing()
        self._write_no_more()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._heard, most = self.loop.time(), self.limits.head_bytes
        for start in range(0, len(data), most):
            part, before, self._has_body = data[start : start + most], self.cycle, False
            super().data_received(part)
            if self.cycle is not before or self._has_body:
                self._unfinished = 0
            else:
                self._unfinished += len(part)
                if self._unfinished > most:
                    self._refuse(431, f"The headers of a request have more than {most} bytes")
            if len(self.pipeline) > self.limits.pipelined:
                self.transport.abort()
            if self.transport.is_closing():
                self._write_no_more()
                return
        if not self._is_answering:
            self._expect_head()
        elif self._timer is not None:
            self._expect_nothing()

    def on_body(self, body: bytes) -> None:
        self._has_body = True
        super().on_body(body)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, in the shape of the project's errors."""
        self._refuse(400, msg)

    def _expect_head(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.limits.head_seconds, self._head_is_late)

    def _expect_nothing(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _head_is_late(self) -> None:
        if self._unfinished:
            self._refuse(408, "The headers of the request did not arrive in time")
        else:
            self.transport.close()

    def _refuse(self, status: int, message: str) -> None:
        """Answer and close, or only close while another response is being sent."""
        if self._is_answering:
            self.transport.abort()
            return
        response = error_response(status, message, {**SECURITY_HEADERS, "connection": "close"})
        head = b"".join(b"%b: %b\r\n" % header for header in response.raw_headers)
        self.transport.write(STATUS_LINE[status] + head + b"\r\n" + bytes(response.body))
        self.transport.close()


def limited_protocol(limits: ConnectionLimits) -> type[LimitedProtocol]:
    """Return the class of a server's connections, for uvicorn's setting `http`."""

    class Protocol(LimitedProtocol):
        pass

    Protocol.limits = limits
    return Protocol
