"""Background work that gives way to more urgent work of the same process, which shares Python's lock with it.

Two threads that run Python code slow each other down, whatever the number of cores. A thread that works for milliseconds while
others answer requests therefore calls `give_way` between its steps, where it waits until nothing urgent is in progress.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

_wait: ContextVar[Callable[[], object] | None] = ContextVar("wait", default=None)


def set_wait(wait: Callable[[], object] | None) -> None:
    """Set how this thread waits for more urgent work; see `give_way`.

    Args:
        wait: Returns when no urgent work is in progress, and after a bounded time in any case; None for nothing to wait for.
    """
    _wait.set(wait)


def give_way() -> None:
    """Wait for more urgent work of other threads, if `set_wait` was called in this thread."""
    if (wait := _wait.get()) is not None:
        wait()
