"""Limits of a service under load: the rate of each client, and the number of requests in progress.

Both are checked before a request's body is read, so that a refusal costs little. They hold for one process.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from ml.http.errors import error_response

MOST_CLIENTS = 10_000
"""Clients whose rates are known. The one that was silent for longest is dropped, and begins with a full bucket."""


@dataclass(frozen=True)
class Limits:
    """What a service takes at once.

    Attributes:
        rate: Requests of one client in a second, on average.
        burst: Requests of one client at once.
        in_flight: Requests in progress, of all clients.
        body_seconds: Seconds within which the body of a request has to arrive.
    """

    rate: float = 1000.0
    burst: int = 1000
    in_flight: int = 256
    body_seconds: float = 10.0


class TokenBuckets:
    """Allows each client `burst` requests at once, and `rate` more in each second.

    Args:
        rate: Requests in a second.
        burst: Size of a bucket.

    Example:
        >>> buckets = TokenBuckets(rate=2, burst=1)
        >>> buckets.take("client", now=0.0), buckets.take("client", now=0.1), buckets.take("client", now=0.6)
        (0.0, 0.4, 0.0)
    """

    def __init__(self, rate: float, burst: int) -> None:
        self._rate, self._burst = rate, burst
        self._held: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, and when

    def take(self, client: str, now: float) -> float:
        """Take a token of a client. Returns 0, or the seconds until there is one."""
        tokens, when = self._held.pop(client, (float(self._burst), now))
        tokens = min(tokens + (now - when) * self._rate, float(self._burst))
        taken = tokens >= 1
        self._held[client] = tokens - taken, now
        if len(self._held) > MOST_CLIENTS:
            self._held.popitem(last=False)
        return 0.0 if taken else round((1 - tokens) / self._rate, 6)


class Limited:
    """Middleware that answers 429 to a client that sends too fast, and 503 if too many requests are in progress.

    Args:
        app: The app.
        limits: The limits.
        free: Paths without limits, such as `/health`.
    """

    def __init__(self, app: ASGIApp, limits: Limits, free: frozenset[str] = frozenset()) -> None:
        self._app, self._limits, self._free = app, limits, free
        self._buckets, self._in_flight = TokenBuckets(limits.rate, limits.burst), 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in self._free:
            await self._app(scope, receive, send)
            return
        client = (scope.get("client") or ("",))[0]
        if wait := self._buckets.take(client, time.monotonic()):
            await _later(429, f"More than {self._limits.rate:g} requests a second; try again later", wait)(scope, receive, send)
            return
        if self._in_flight >= self._limits.in_flight:
            await _later(503, f"{self._in_flight} requests are in progress; try again later", 1)(scope, receive, send)
            return
        self._in_flight += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._in_flight -= 1


def _later(status: int, message: str, seconds: float) -> ASGIApp:
    return error_response(status, message, {"retry-after": str(math.ceil(seconds))})
