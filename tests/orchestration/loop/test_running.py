"""The ports of the services of a loop stay theirs."""

from __future__ import annotations

import errno
import socket

import pytest

from ml.http.server import listen
from orchestration.loop.running import reserved_port


def is_taken(port: int) -> bool:
    with socket.socket() as other:
        try:
            other.bind(("127.0.0.1", port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


def test_a_port_is_reserved_before_and_between_the_servers_that_listen_on_it() -> None:
    with reserved_port() as held:
        port = held.getsockname()[1]
        for _ in range(2):
            assert is_taken(port)
            with listen(port=port), socket.create_connection(("127.0.0.1", port)):
                pass
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        assert is_taken(port)
    assert not is_taken(port)
