"""Steps that a background thread repeats while the service answers requests."""

from __future__ import annotations

import logging
import threading
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
