"""Writes that fail as on a disk that is full, read-only or broken."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from typing import Any, NoReturn


def failing(error: int) -> Callable[..., NoReturn]:
    """Return a function that always raises the `OSError` of a number of `errno`."""

    def fail(*_: object) -> NoReturn:
        raise OSError(error, os.strerror(error))

    return fail


def failing_second(error: int, whole: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that calls another one, except the second time, when it raises the `OSError` of a number of `errno`."""
    calls, fail = itertools.count(), failing(error)
    return lambda *given: fail() if next(calls) == 1 else whole(*given)
