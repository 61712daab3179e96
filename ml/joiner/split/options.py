"""Options of splitting a joined log into two streams."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ml.days import MICROSECONDS_PER_HOUR, MICROSECONDS_PER_MINUTE, MICROSECONDS_PER_SECOND
from ml.joiner.split.delays import Delays

DELAYS = Delays("lognormal", 5.0 * MICROSECONDS_PER_MINUTE, 1.0)


@dataclass(frozen=True)
class SplitOptions:
    """How events are delayed, repeated and damaged. Times are in microseconds.

    Args:
        delays: Time from an impression to its action.
        wait: The wait of the label: an action that is later than this does not count.
        longest_delay: Longer delays are cut to this. The joined dataset has as many more days after the split ones.
        transport: Mean of the exponential time from an event to its arrival.
        disorder: Most that an event, or a repetition of it, arrives after it happened. The lateness of the joined dataset.
        duplicates: Probability that a line arrives twice.
        malformed: Probability that a line is corrupt.
        orphans: Probability that the impression of an action is missing.
        clock_jump: Error of the clocks during a tenth of an hour of each day; negative is late. 0 for exact clocks.
        file_span: Time of arrival that one file covers.
        seed: The same seed gives the same files.

    Raises:
        ValueError: A value is out of range.
    """

    delays: Delays = DELAYS
    wait: int = MICROSECONDS_PER_HOUR
    longest_delay: int = 12 * MICROSECONDS_PER_HOUR
    transport: int = 5 * MICROSECONDS_PER_SECOND
    disorder: int = 10 * MICROSECONDS_PER_MINUTE
    duplicates: float = 0.05
    malformed: float = 0.0
    orphans: float = 0.0
    clock_jump: int = 0
    file_span: int = 10 * MICROSECONDS_PER_MINUTE
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value, name = getattr(self, field.name), field.name
            if name in ("duplicates", "malformed", "orphans") and not 0 <= value <= 1:
                raise ValueError(f"{name} {value}: expected a probability")
            if name in ("wait", "longest_delay", "file_span") and value < 1:
                raise ValueError(f"{name} {value}: expected at least one microsecond")
            if name in ("transport", "disorder", "seed") and value < 0:
                raise ValueError(f"{name} {value}: expected at least 0")
