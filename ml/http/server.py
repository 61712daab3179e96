"""Runs an app: uvicorn with httptools, which stops gracefully on SIGTERM and SIGINT."""

from __future__ import annotations

import errno
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import uvicorn
from starlette.types import ASGIApp

from ml.http.connections import ConnectionLimits, limited_protocol

GRACE_SECONDS = 20
BACKLOG = 512


def listen(host: str = "127.0.0.1", port: int = 0) -> socket.socket:
    """Open the socket of a server.

    Args:
        host: Address to listen on.
        port: Port; 0 for any free one.

    Returns:
        The socket.

    Raises:
        OSError: If the port is in use, or the address is not one of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise OSError(error.errno, f"port {port} of {host} is in use: choose another port") from None
        raise OSError(error.errno, f"cannot listen on {host}, port {port}: {error.strerror}") from None


def url_of(listener: socket.socket) -> str:
    """Return the URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(app: ASGIApp, listener: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT. Requests in progress are answered before it returns. Call it in the main thread.

    Args:
        app: The app.
        listener: The socket, from `listen`.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with suppress(KeyboardInterrupt):  # uvicorn raises the signal again when it has stopped
            _server(app, ConnectionLimits()).run(sockets=[listener])
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def serving(app: ASGIApp, host: str = "127.0.0.1", port: int = 0, limits: ConnectionLimits | None = None) -> Iterator[str]:
    """Serve in a thread of this process within the block.

    Args:
        app: The app.
        host: Address to listen on.
        port: Port; 0 for any free one.
        limits: Limits of connections; by default those of `serve`.

    Yields:
        The URL of the service.

    Raises:
        RuntimeError: If the app does not start.

    Example:
        >>> from ml.http.app import create_app
        >>> with serving(create_app("Example")) as url:
        ...     print(url.startswith("http://127.0.0.1:"))
        True
    """
    with listen(host, port) as listener:
        server = _server(app, limits or ConnectionLimits())
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="http-server", daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            thread.join(0.01)
        if not server.started:
            raise RuntimeError("the server did not start; its log has the reason")
        try:
            yield url_of(listener)
        finally:
            server.should_exit = True
            thread.join()


def _server(app: ASGIApp, limits: ConnectionLimits) -> uvicorn.Server:
    config = uvicorn.Config(
        app,
        http=limited_protocol(limits),
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    return uvicorn.Server(config)
