"""What workers do in tests of their keeper. This module imports little, as each worker imports it."""

from __future__ import annotations

import os
import pickle
import signal
import time
from multiprocessing.connection import Connection
from typing import Any


def ends_after_its_start(shared: bytes, listener: Any, number: int, connection: Connection) -> None:
    connection.send(("ready", ["place"]))
    connection.recv()
    os._exit(7)


def says_why_it_ends(shared: bytes, listener: Any, number: int, connection: Connection) -> None:
    connection.send(("failed", "there is no LambdaRank"))
    connection.recv()
    os._exit(1)


def cuts_its_pipe_once(shared: bytes, listener: Any, number: int, connection: Connection) -> None:
    """Go on without a pipe to the keeper in the first run."""
    connection.send(("ready", []))
    connection.recv()
    mark = pickle.loads(shared).counters / "cut"
    if not mark.exists():
        mark.touch()
        connection.close()
    while True:
        time.sleep(1)


def answers(shared: bytes, listener: Any, number: int, connection: Connection) -> None:
    connection.send(("ready", []))
    while True:
        time.sleep(1)


def ends_at_its_start(shared: bytes, listener: Any, number: int, connection: Connection) -> None:
    os._exit(9)


def answers_its_last_request(shared: bytes, listener: Any, number: int, connection: Connection) -> None:
    """Close the listener on SIGTERM, and end when the one client closes its connection."""
    signal.signal(signal.SIGTERM, lambda *_: listener.close())
    connection.send(("ready", []))
    client, _ = listener.accept()
    client.recv(1)
