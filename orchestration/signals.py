"""How long-running commands stop: Ctrl-C, SIGTERM and a closed terminal set an event, so that work in progress is completed."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Stop(threading.Event):
    """Set by the first signal.

    Attributes:
        again: Set by the second signal, for commands that then interrupt their work.
    """

    def __init__(self) -> None:
        super().__init__()
        self.again = threading.Event()


@contextmanager
def stopped_by_signals() -> Iterator[Stop]:
    """Yield an event that SIGINT, SIGTERM or SIGHUP sets, inside the block."""
    stop = Stop()

    def received(*_: object) -> None:
        (stop.again if stop.is_set() else stop).set()

    before = {number: signal.signal(number, received) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
