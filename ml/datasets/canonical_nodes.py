"""Which rows of an epoch each rank reads in each global batch. Define index arithmetic here, and no input or output.

The epoch is one sequence of rows. It is cut into canonical nodes of equal length, which are read side by side, as in
StreamingDataset's `num_canonical_nodes`. Every global batch takes the same number of rows from each node, and the ranks divide
these rows evenly, in order. The global batches therefore do not depend on the number of ranks. If the number of nodes is a
multiple of the number of ranks, each rank reads only its own nodes.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CanonicalNodes:
    """The canonical nodes of one epoch.

    Args:
        rows: Rows of the epoch.
        count: Number of canonical nodes, a divisor of `global_batch`.
        global_batch: Rows of a batch over all ranks. The last batch of an epoch may have fewer.

    Raises:
        ValueError: `count` does not divide `global_batch`.

    Example:
        >>> nodes = CanonicalNodes(rows=20, count=2, global_batch=8)
        >>> [nodes.share(batch, rank=1, world_size=2) for batch in range(3)]
        [[(1, 10, 14)], [(1, 14, 18)], [(1, 18, 20)]]
    """

    rows: int
    count: int
    global_batch: int

    def __post_init__(self) -> None:
        if self.count < 1 or self.global_batch % self.count:
            raise ValueError(
                f"num_canonical_nodes: expected a divisor of the global batch ({self.global_batch} rows), found {self.count}"
            )

    def end(self, node: int) -> int:
        """Returns the row of the epoch where a node ends and the next one begins."""
        return (node + 1) * self.rows // self.count

    def share(self, batch: int, rank: int, world_size: int) -> list[tuple[int, int, int]]:
        """Computes a rank's part of a global batch.

        Args:
            batch: Index of the global batch in the epoch.
            rank: The rank.
            world_size: Number of ranks.

        Returns:
            `(node, begin, end)` tuples, where `[begin, end)` are rows of the epoch. There is at least one tuple, and its range
            may be empty.
        """
        each = self.global_batch // self.count
        # starts, taken: [count]
        starts = [self.end(node - 1) + batch * each for node in range(self.count)]
        taken = [min(each, self.end(node) - start) for node, start in enumerate(starts)]
        per_rank, more = divmod(sum(taken), world_size)
        begin = rank * per_rank + min(rank, more)
        end = begin + per_rank + (rank < more)
        parts = []
        for node, (start, rows) in enumerate(zip(starts, taken, strict=True)):
            if max(begin, 0) < min(end, rows):
                parts.append((node, start + max(begin, 0), start + min(end, rows)))
            begin, end = begin - rows, end - rows  # relative to the next node's first row
        own = rank * self.count // world_size
        return parts or [(own, starts[own], starts[own])]
