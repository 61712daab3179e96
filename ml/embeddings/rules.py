"""Rules of a collisionless table: which ids are admitted, how long rows are kept, and which rows a full table evicts.

`ml.embeddings.collisionless` applies the rules.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

Filter = Literal["exact", "sliding", "probabilistic"]
Family = Literal["hash", "naive", "quotient_remainder", "generalised", "chinese_remainder"]
Operation = Literal["concat", "add", "mult", "path", "project"]
SLIDING_MOST = (1 << 19) - 1  # the largest count of half a window
Evict = Literal["never", "least_recently_used", "least_frequently_used"]


@dataclass(frozen=True)
class TableRules:
    """Rules of one table. All times are event time.

    If several ids of one batch are due for a row and there is not enough room for all of them, the ids that occur first are
    admitted. Ids of the same batch do not evict each other.

    Args:
        name: Name of the table.
        min_count: Number of occurrences at which an id gets a row.
        filter: How occurrences are counted. `exact` counts all occurrences. `sliding` counts the occurrences of the last
            `window_seconds`; the window slides by half its length, so each occurrence counts for between half a window and a
            whole window. `probabilistic` stores no counts: each occurrence admits its id with probability 1 / min_count.
        window_seconds: Length of the window; for filter `sliding` only.
        ttl_seconds: Time to live. Expiry deletes rows and candidates that have not been seen for longer. None keeps them
            indefinitely.
        max_rows: Cap on the number of rows; None for no cap.
        evict: Which row a full table evicts to admit an id; `never` refuses the id instead.

    Raises:
        ValueError: If a value is not positive, `min_count` exceeds the range of a sliding filter, or `window_seconds` is
            missing or not allowed with the filter.

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
            raise ValueError(f"table {self.name!r}: window_seconds is required with filter: sliding, and not allowed otherwise")
        if self.filter == "sliding" and self.min_count > SLIDING_MOST:
            raise ValueError(
                f"table {self.name!r}: min_count of a sliding filter can be at most {SLIDING_MOST}, found {self.min_count}"
            )
        if any(seconds is not None and seconds <= 0 for seconds in (self.window_seconds, self.ttl_seconds)):
            raise ValueError(f"table {self.name!r}: window_seconds and ttl_seconds must be positive")


def seed_of(seed: int, table: str) -> int:
    """Return the 64-bit seed of a table's first weights."""
    return int.from_bytes(hashlib.sha256(f"{seed} {table}".encode()).digest()[:8], "little")
