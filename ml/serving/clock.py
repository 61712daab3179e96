"""The clock of the service: the time of the machine or, for a log that has ended, the end of the log plus elapsed time."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from ml.days import MICROSECONDS_PER_HOUR, MICROSECONDS_PER_SECOND

LIVE_WITHIN = 24 * MICROSECONDS_PER_HOUR
"""A log whose last day ended less than this long ago is live: it has the time of the machine."""
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Clock:
    """Tells the event time of a request. All times are in microseconds since 1970 UTC.

    Attributes:
        offset: What to add to the time of the machine; 0 for a live log.
        pace: Seconds of the log that pass in a second, from `began` on.
        began: Time of the machine at which the pace begins to count.

    Example:
        >>> Clock.simulated(start=1_000_000, began=5_000_000, pace=60.0).at(6_000_000)
        61000000
    """

    offset: int = 0
    pace: float = 1.0
    began: int = 0

    @classmethod
    def after(cls, end: int) -> Clock:
        """Return the clock of a log whose last day has ended at `end`."""
        now = _machine()
        return cls(0) if now - end < LIVE_WITHIN else cls(end - now)

    @classmethod
    def simulated(cls, start: int, began: int, pace: float) -> Clock:
        """Return a clock that shows `start` when the machine shows `began`, and runs at a pace. Processes can share it."""
        return cls(start - began, pace, began)

    @classmethod
    def read(cls, file: Path) -> Clock | None:
        """Read a clock that processes share: `START,BEGAN,PACE`, the arguments of `simulated` with both times in seconds.

        Args:
            file: The file. It appears when simulated time begins, by rename.

        Returns:
            The clock; None if there is no file yet.

        Raises:
            ValueError: The file has another form, or the pace is not positive.
        """
        if not file.exists():
            return None
        text = file.read_text().strip()
        try:
            start, began, pace = map(float, text.split(","))
        except ValueError:
            start, began, pace = 0.0, 0.0, 0.0
        if not 0 < pace < float("inf"):
            raise ValueError(
                f"{file}: expected START,BEGAN,PACE, two times in seconds since 1970 UTC and a pace, found {text!r:.80}"
            )
        return cls.simulated(round(start * MICROSECONDS_PER_SECOND), round(began * MICROSECONDS_PER_SECOND), pace)

    @classmethod
    def wait_for(cls, file: Path) -> Clock:
        """Wait for the file of a shared clock, and read it; see `read`."""
        while (clock := cls.read(file)) is None:
            time.sleep(_POLL_SECONDS)
        return clock

    @property
    def is_live(self) -> bool:
        """Whether the service uses the time of the machine."""
        return self.offset == 0 and self.pace == 1.0

    def at(self, machine: int) -> int:
        """Return the time of the log at a time of the machine."""
        return self.began + self.offset + round((machine - self.began) * self.pace)

    def now(self) -> int:
        """Return the time of the log."""
        return self.at(_machine())


def _machine() -> int:
    return time.time_ns() // 1000
