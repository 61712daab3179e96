"""The settings of a closed loop: the simulated population, its changes of taste, and the pace of simulated time."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC
from pathlib import Path

from ml.days import MICROSECONDS_PER_HOUR, MICROSECONDS_PER_SECOND, day_bounds, days_from

DATASET = "loop"
ONLINE, DAILY, FROZEN = "online", "daily", "frozen"
ARMS = (ONLINE, DAILY, FROZEN)
CLOCK = "clock"
"""Name of the file of simulated time in the folder of a run."""
DELAY_MINUTES = 10.0
"""Mean of the simulated time from an impression to its click, which is exponential."""
WAIT_MINUTES = 60.0
"""Simulated minutes in which a click counts."""
SKEW_SECONDS = 3.5
"""Wall-clock seconds by which events can reach the joiner later than newer ones, because journals are files of seconds."""


@dataclass(frozen=True)
class Settings:
    """What a loop simulates.

    Attributes:
        days: Simulated days that are served.
        day_seconds: Wall-clock seconds of a simulated day.
        rate: Requests a second, of all arms together.
        change_hours: Simulated hours after the start at which tastes change at once; None for never.
        jump_days: Days of the generator's drift that such a change skips. After 30, the tastes of countries are reversed.
        drift: How many times as fast as in the generator tastes drift during the loop.
        arms: Arms among which users are divided by hash.
        users: Number of users.
        items: Number of items, which are all candidates of every request.
        shown: Items of a request.
        history_days: Days before the loop, of which the first model is trained.
        history_requests: Requests of each of these days. They show items at random.
        first_day: First of these days.
        seed: Seed of the population.

    Example:
        >>> Settings(day_seconds=864).pace, Settings(history_days=2).served_days[0]
        (100.0, '2026-01-03')
    """

    days: int = 3
    day_seconds: float = 150.0
    rate: float = 15.0
    change_hours: float | None = 12.0
    jump_days: float = 30.0
    drift: float = 1.0
    arms: tuple[str, ...] = ARMS
    users: int = 1000
    items: int = 100
    shown: int = 10
    history_days: int = 2
    history_requests: int = 3000
    first_day: str = "2026-01-01"
    seed: int = 7

    @property
    def pace(self) -> float:
        """Simulated seconds that pass in a second."""
        return 86_400 / self.day_seconds

    @property
    def history(self) -> list[str]:
        """The days before the loop."""
        return days_from(self.first_day, self.history_days)

    @property
    def served_days(self) -> list[str]:
        """The days of the loop."""
        return days_from(self.first_day, self.history_days + self.days)[self.history_days :]

    @property
    def start(self) -> int:
        """Simulated time at which the loop starts, in microseconds since 1970 UTC."""
        return day_bounds(self.history[-1], UTC)[1]

    @property
    def change(self) -> int | None:
        """Simulated time of the change of taste, in microseconds since 1970 UTC; None without one."""
        return None if self.change_hours is None else self.start + round(self.change_hours * MICROSECONDS_PER_HOUR)

    @property
    def lateness_minutes(self) -> float:
        """Simulated minutes of `SKEW_SECONDS`."""
        return SKEW_SECONDS * self.pace / 60

    @property
    def waiting_seconds(self) -> float:
        """Wall-clock seconds for which an impression waits for its clicks: the wait of the label, and for late clicks."""
        return (WAIT_MINUTES + self.lateness_minutes) * 60 / self.pace

    def seconds_since_start(self, time: int) -> float:
        """Return the wall-clock seconds from the start of the loop to a simulated time."""
        return (time - self.start) / MICROSECONDS_PER_SECOND / self.pace

    def write(self, file: Path) -> None:
        """Write the settings as JSON."""
        file.write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def read(cls, file: Path) -> Settings:
        """Read what `write` has written."""
        held = json.loads(file.read_text())
        return cls(**{**held, "arms": tuple(held["arms"])})
