"""Waits for what another process or thread does."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(is_so: Callable[[], bool], seconds: float = 240) -> None:
    """Wait until a condition holds. It is an error if it does not within some seconds."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, f"it has not happened within {seconds:g} s"
        time.sleep(0.02)
