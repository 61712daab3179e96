"""What every request has to pass before a service sees it: host, origin, token and size.

The checks are ASGI middleware, so they hold for all routes, also for pages and for paths that do not exist.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ml.http.errors import error_response
from ml.http.tokens import presented_token, same_token

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
SECURITY_HEADERS: Mapping[str, str] = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}

_RAW_HEADERS = [(name.encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]


class BodyRefused(Exception):
    """A body has more bytes than the limit, or takes too long to arrive."""


class _LimitedBody:
    """Counts the bytes of a body, which can be longer than announced or come without a length, and its seconds."""

    def __init__(self, receive: Receive, limit: int, seconds: float | None) -> None:
        self._receive, self._limit, self._seen = receive, limit, 0
        self._until = None if seconds is None else asyncio.get_running_loop().time() + seconds
        self._is_complete = False
        self.refusal: tuple[int, str] | None = None  # status and message

    async def receive(self) -> Message:
        try:
            async with asyncio.timeout_at(None if self._is_complete else self._until):
                message = await self._receive()
        except TimeoutError:
            self.refusal = 408, "The request body did not arrive in time"
            raise BodyRefused from None
        self._seen += len(message.get("body", b""))
        self._is_complete = not message.get("more_body", False)
        if self._seen > self._limit:
            self.refusal = 413, _too_large(self._limit)
            raise BodyRefused
        return message


class Guard:
    """Middleware that refuses requests before they reach the app.

    Args:
        app: The app.
        token: Token that a request has to present; None if the service is open.
        hosts: Host names under which the service is reached; `*` allows all. The page of an attacker whose name was rebound to
            this machine sends another name.
        body_limit: Largest request body, in bytes.
        open_paths: Paths that need no token.
        body_seconds: Seconds within which a body has to arrive; None for any.
    """

    def __init__(
        self,
        app: ASGIApp,
        token: str | None,
        hosts: frozenset[str],
        body_limit: int,
        open_paths: frozenset[str] = frozenset(),
        body_seconds: float | None = None,
    ) -> None:
        self.app, self.token, self.hosts, self.body_limit, self.open_paths = app, token, hosts, body_limit, open_paths
        self.body_seconds = body_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self._refusal(scope["path"], headers)
        if refusal:
            status, message = refusal
            extra = {"www-authenticate": 'Basic realm="evergreen"'} if status == 401 else {}
            await error_response(status, message, extra)(scope, receive, _with_security_headers(send))
            return
        body = _LimitedBody(receive, self.body_limit, self.body_seconds)
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            if started or body.refusal is None:  # what the app makes of half a body is of no interest
                started = True
                await send(message)

        with suppress(BodyRefused, ClientDisconnect):  # nobody reads the response of a client that has gone
            await self.app(scope, body.receive, _with_security_headers(sending))
        if body.refusal is not None and not started:
            status, message = body.refusal
            await error_response(status, message, {"connection": "close"})(scope, receive, _with_security_headers(send))

    def _refusal(self, path: str, headers: Headers) -> tuple[int, str] | None:
        """Status and message if the request is refused."""
        host = headers.get("host", "")
        if "*" not in self.hosts and host_name(host) not in self.hosts:
            return 400, f"The host {host!r} is not one of this service's names: {', '.join(sorted(self.hosts))}"
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:  # a browser sends stored credentials for other sites, too
            return 403, f"Requests from pages of {origin!r} are not allowed"
        if self.token is not None and path not in self.open_paths:
            presented = presented_token(headers.get("authorization", ""))
            if not presented:
                return 401, "Send the token as `Authorization: Bearer TOKEN`, or as the user name of Basic credentials"
            if not same_token(presented, self.token):
                return 401, "The token is not valid"
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > self.body_limit:
            return 413, _too_large(self.body_limit)
        return None


def _too_large(limit: int) -> str:
    return f"The request body is larger than {limit} bytes"


def host_name(host: str) -> str:
    """Return the name in a `Host` header, without the port and in lower case."""
    if host.startswith("["):  # IPv6
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _with_security_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            given = {name for name, _ in message["headers"]}
            message["headers"] = [*message["headers"], *(pair for pair in _RAW_HEADERS if pair[0] not in given)]
        await send(message)

    return sending
