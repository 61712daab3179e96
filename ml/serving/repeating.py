"""Steps that a background thread repeats while the service answers requests."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

_log = logging.getLogger("evergreen")


def repeat(steps: Sequence[Callable[[], object]], stop: threading.Event, seconds: float) -> None:
    """Take steps one after the other, again and again, until an event is set.

    An error of a step is logged, and holds up neither the other steps nor the service.

    Args:
        steps: The steps.
        stop: Ends the call.
        seconds: Pause before each round.
    """
    while not stop.wait(seconds):
        for step in steps:
            try:
                step()
            except Exception:
                _log.exception("the service continues with its last models, items and events")


class Every:
    """A step that is due less often than its round.

    Args:
        seconds: From one begin of the step to the next, at least.
        step: The step.
    """

    def __init__(self, seconds: float, step: Callable[[], object]) -> None:
        self._seconds, self._step, self._begun = seconds, step, time.monotonic()

    def __call__(self) -> None:
        """Take the step if it is due."""
        if (now := time.monotonic()) - self._begun >= self._seconds:
            self._begun = now
            self._step()
