"""The clock of the service: the time of the machine or, for a log that has ended, the end of the log plus elapsed time."""

from __future__ import annotations

import time
from dataclasses import dataclass

from ml.days import MICROSECONDS_PER_HOUR

LIVE_WITHIN = 24 * MICROSECONDS_PER_HOUR
"""A log whose last day ended less than this long ago is live: it has the time of the machine."""


@dataclass(frozen=True)
class Clock:
    """Tells the event time of a request.

    Attributes:
        offset: Microseconds to add to the time of the machine; 0 for a live log.
    """

    offset: int = 0

    @classmethod
    def after(cls, end: int) -> Clock:
        """Return the clock of a log whose last day has ended at `end`, in microseconds since 1970 UTC."""
        now = _machine()
        return cls(0) if now - end < LIVE_WITHIN else cls(end - now)

    @property
    def is_live(self) -> bool:
        """Whether the service uses the time of the machine."""
        return self.offset == 0

    def now(self) -> int:
        """Return the time in microseconds since 1970 UTC."""
        return _machine() + self.offset


def _machine() -> int:
    return time.time_ns() // 1000
