"""Which rows of an epoch are a rank's in each global batch. Arithmetic only, no files.

The epoch is one sequence of rows, cut into *lanes* of equal length that are read side by side (what StreamingDataset calls
canonical nodes). Every global batch takes as many rows of each lane; the ranks share out what it takes, evenly and in its
order. So the batches do not depend on how many ranks there are, and where lanes are a multiple of the ranks, a rank reads
its own lanes and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Lanes:
    """`count` lanes of an epoch of `rows` rows, whose global batches are of `global_batch` rows; the last may be smaller.

    Raises `ValueError` where the lanes do not divide a global batch.

    >>> [Lanes(rows=20, count=2, global_batch=8).share(batch, rank=1, world_size=2) for batch in range(3)]
    [[(1, 10, 14)], [(1, 14, 18)], [(1, 18, 20)]]
    """

    rows: int
    count: int
    global_batch: int

    def __post_init__(self) -> None:
        if self.count < 1 or self.global_batch % self.count:
            raise ValueError(f"lanes: expected a divisor of the global batch ({self.global_batch} rows), found {self.count}")

    def end(self, lane: int) -> int:
        """The row of the epoch at which a lane ends, and the next begins."""
        return (lane + 1) * self.rows // self.count

    def share(self, batch: int, rank: int, world_size: int) -> list[tuple[int, int, int]]:
        """A rank's part of a global batch: (lane, begin, end), rows of the epoch; one at least, which may be empty."""
        each = self.global_batch // self.count
        starts = [self.end(lane - 1) + batch * each for lane in range(self.count)]
        taken = [min(each, self.end(lane) - start) for lane, start in enumerate(starts)]
        per_rank, more = divmod(sum(taken), world_size)
        begin = rank * per_rank + min(rank, more)
        end = begin + per_rank + (rank < more)
        parts = []
        for lane, (start, rows) in enumerate(zip(starts, taken, strict=True)):
            if max(begin, 0) < min(end, rows):
                parts.append((lane, start + max(begin, 0), start + min(end, rows)))
            begin, end = begin - rows, end - rows  # counted from the next lane's first
        own = rank * self.count // world_size
        return parts or [(own, starts[own], starts[own])]
