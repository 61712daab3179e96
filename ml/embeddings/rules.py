"""What a table admits, how long it keeps it, and what it drops when it is full. Counting is `admission`; rows are `store`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

Filter = Literal["exact", "sliding", "probabilistic"]
Family = Literal["hash", "naive", "quotient_remainder", "generalised", "chinese_remainder"]
Operation = Literal["concat", "add", "mult", "path", "project"]
SLIDING_MOST = (1 << 19) - 1  # occurrences that half a window can count
Evict = Literal["never", "least_recently_used", "least_frequently_used"]


@dataclass(frozen=True)
class TableRules:
    """Of one table; times are event time.

    min_count: an id has a row from its so-many-th occurrence on. filter: how occurrences count before that:
      exact: all of them;
      sliding: those of the last `window_seconds`, in two halves: each counts for half a window at least, a whole one at most;
      probabilistic: none is remembered, and each admits with probability 1 / min_count.
    ttl_seconds: rows, and ids that wait for one, not seen for so long are let go by `Store.expire`; None is never.
    max_rows: never more rows than these. evict: what makes way for an id that is due when there is no room; with "never" it
    is turned away. Of the ids of one batch that are due, the first come in, and none makes way for another.
    """

    name: str
    min_count: int = 1
    filter: Filter = "exact"
    window_seconds: float | None = None
    ttl_seconds: float | None = None
    max_rows: int | None = None
    evict: Evict = "least_recently_used"

    def __post_init__(self) -> None:
        if self.min_count < 1 or (self.max_rows is not None and self.max_rows < 1):
            raise ValueError(f"table {self.name!r}: min_count and max_rows must be positive")
        if (self.filter == "sliding") != (self.window_seconds is not None):
            raise ValueError(f"table {self.name!r}: window_seconds belongs to filter: sliding, and filter: sliding needs it")
        if self.filter == "sliding" and self.min_count > SLIDING_MOST:
            raise ValueError(f"table {self.name!r}: a sliding filter counts up to {SLIDING_MOST}, found {self.min_count}")
        if any(seconds is not None and seconds <= 0 for seconds in (self.window_seconds, self.ttl_seconds)):
            raise ValueError(f"table {self.name!r}: window_seconds and ttl_seconds must be positive")


def seed_of(seed: int, table: str) -> int:
    """What the first weights of a table follow from, beside the ids: 64 bits."""
    return int.from_bytes(hashlib.sha256(f"{seed} {table}".encode()).digest()[:8], "little")
