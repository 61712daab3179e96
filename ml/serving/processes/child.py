"""The first steps of a worker. This module imports little, so that a worker ends with its parent also while it starts."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import socket
from collections.abc import Callable
from multiprocessing.connection import Connection

_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of <sys/prctl.h>
Work = Callable[[bytes, socket.socket, int, Connection], None]


def begin(work: Work, shared: bytes, listener: socket.socket, number: int, connection: Connection) -> None:
    """Run a worker, until it ends or its parent does.

    Args:
        work: What the worker runs, with the other arguments.
        shared: The pickled `ml.serving.processes.worker.Shared`. What the parent sends must be small: it writes to a pipe that
            nobody reads any more if the worker ends first.
        listener: The listening socket.
        number: Number of the worker.
        connection: To the parent.
    """
    _end_with_parent()
    # Until the server is running, Ctrl-C is for the parent, which ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    work(shared, listener, number, connection)


def _end_with_parent() -> None:
    """Let the system kill this process as soon as its parent has ended, even if that was killed."""
    ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker is started by another process"
    if not parent.is_alive():  # before the call
        os.kill(os.getpid(), signal.SIGKILL)
