"""The window of an instant: which event times count."""

from __future__ import annotations

import numpy as np

from ml.days import MICROSECONDS_PER_HOUR


def window(at: np.ndarray, hours: float, known_after: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the bounds of the event times that count at each instant.

    An event at time t counts at T if `T - hours <= t < T` and `t + known_after <= T`.

    Args:
        at: int64 [N], instants in microseconds.
        hours: Length of the window.
        known_after: Microseconds after its event time at which an event is known.

    Returns:
        int64 [N] first times, and int64 [N] times after the last.
    """
    return at - round(hours * MICROSECONDS_PER_HOUR), known_before(at, known_after)


def known_before(at: np.ndarray, known_after: int) -> np.ndarray:
    """Return the instant before which events count at each instant, int64 [N]."""
    return np.minimum(at, at - known_after + 1)
