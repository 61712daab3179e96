"""Steps that a background thread repeats while the service answers requests."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from ml.give_way import give_way, set_wait

_log = logging.getLogger("evergreen")


def run_steps(steps: Sequence[Callable[[], object]]) -> None:
    """Run steps in order. An error of a step is logged, and blocks neither the other steps nor the service."""
    for step in steps:
        give_way()
        try:
            step()
        except Exception:
            _log.exception("the service continues with its last models, items and events")


def repeat(
    steps: Sequence[Callable[[], object]],
    stop: threading.Event,
    seconds: float,
    wait: Callable[[], object] | None = None,
) -> None:
    """Run steps repeatedly until an event is set; see `run_steps`.

    Args:
        steps: The steps.
        stop: Ends the call.
        seconds: Pause before each round.
        wait: Waits for requests, before each step and where a step calls `give_way`; by default, there is no wait.
    """
    set_wait(wait)
    while not stop.wait(seconds):
        run_steps(steps)
