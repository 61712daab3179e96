"""Steps that a background thread repeats while the service answers requests."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

_log = logging.getLogger("evergreen")


def run_steps(steps: Sequence[Callable[[], object]]) -> None:
    """Take steps one after the other. An error of a step is logged, and holds up neither the other steps nor the service."""
    for step in steps:
        try:
            step()
        except Exception:
            _log.exception("the service continues with its last models, items and events")


def repeat(steps: Sequence[Callable[[], object]], stop: threading.Event, seconds: float) -> None:
    """Take steps again and again until an event is set; see `run_steps`.

    Args:
        steps: The steps.
        stop: Ends the call.
        seconds: Pause before each round.
    """
    while not stop.wait(seconds):
        run_steps(steps)
