"""Rules of a collisionless table: which ids are admitted, how long rows are kept, and which are evicted from a full table.

The rules are applied by `ml.embeddings.collisionless`.
"""

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
    """Rules of one table. All times are event time.

    If several ids of a batch become due for a row at the same time and there is not room for all, the first ones are admitted;
    none of them evicts another.

    Args:
        name: The table.
        min_count: An id gets a row at this occurrence.
        filter: How occurrences are counted before that. `exact` counts all of them. `sliding` counts those of the last
            `window_seconds`, in two halves, so that each counts for at least half a window and at most a whole one.
            `probabilistic` stores nothing: each occurrence admits its id with probability 1 / min_count.
        window_seconds: Length of the window, for filter `sliding` only.
        ttl_seconds: Rows and candidates that have not been seen for longer are deleted when tables expire rows; None keeps
            them indefinitely.
        max_rows: Cap on the number of rows; None for no cap.
        evict: Which row of a full table is evicted for an id that is due; with `never`, the id is refused.

    Raises:
        ValueError: If values are not positive, or window and filter do not fit.

    Example:
        >>> TableRules("item", min_count=3, ttl_seconds=7 * 86_400, max_rows=1_000_000).evict
        'least_recently_used'
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
    """Return the 64-bit seed of a table's first weights."""
    return int.from_bytes(hashlib.sha256(f"{seed} {table}".encode()).digest()[:8], "little")
