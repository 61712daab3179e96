"""The way from ids to rows of tables for inference, as of a map that another thread or process may change meanwhile."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ml.compute.kernel_cache import jit
from ml.embeddings.collisionless.hash_map import EMPTY
from ml.embeddings.collisionless.hash_map import find_one as find_redirected
from ml.embeddings.collisionless.prefetch import AHEAD
from ml.embeddings.fixed.id_to_row import to_rows
from ml.embeddings.inference.kinds import Kind
from ml.embeddings.inference.row_map import find_one, prefetch_one
from ml.schema import OOV_ID


class RowFinder(NamedTuple):
    """Maps ids to rows.

    Attributes:
        kind: How ids are mapped to rows.
        table_of: Index of the table that each of F features reads, int64 [F].
        fixed_rows: Number of rows of each table, int64 [T]; it is not used for collisionless tables.
    """

    kind: Kind
    table_of: torch.Tensor
    fixed_rows: torch.Tensor

    def find(
        self,
        ids: torch.Tensor,
        offsets: torch.Tensor,
        directory: NDArray[np.int64],
        redirected: NDArray[np.int64] | None,
    ) -> torch.Tensor:
        """Return the row of each id, int64 [N]; -1 for ids without a row.

        Args:
            ids: Ids ordered by feature, int64 [N].
            offsets: Offsets of the bags in `ids`, int64 [F * B + 1].
            directory: The directory of the `RowMap`, for collisionless tables.
            redirected: Slots of a map from rows that are being written to rows with their contents; None without such rows.
        """
        tables = self.table_of.numpy()
        if self.kind == "collisionless":
            rows = torch.empty_like(ids)
            _find(directory, tables, ids.numpy(), offsets.numpy(), rows.numpy())
            return rows
        sizes = torch.repeat_interleave(self.fixed_rows[self.table_of], offsets[:: (len(offsets) - 1) // len(tables)].diff())
        rows = to_rows(ids, sizes) if self.kind == "hashed" else torch.where((ids >= 0) & (ids < sizes), ids, OOV_ID)
        if redirected is not None:
            _redirect(redirected, tables, offsets.numpy(), rows.numpy())
        return rows


@jit(nogil=True)
def _find(directory, table_of, ids, offsets, rows):  # type: ignore[no-untyped-def]
    bags = (len(offsets) - 1) // len(table_of)
    for feature in range(len(table_of)):
        table, end = table_of[feature], offsets[(feature + 1) * bags]
        for i in range(offsets[feature * bags], end):
            if i + AHEAD < end:
                prefetch_one(directory, table, ids[i + AHEAD])
            rows[i] = find_one(directory, table, ids[i])


@jit(nogil=True)
def _redirect(slots, table_of, offsets, rows):  # type: ignore[no-untyped-def]
    """Replace the rows that are being written by the rows beside the table that have their contents."""
    bags = (len(offsets) - 1) // len(table_of)
    for feature in range(len(table_of)):
        for i in range(offsets[feature * bags], offsets[(feature + 1) * bags]):
            row = find_redirected(slots, table_of[feature], rows[i])
            if row != EMPTY:
                rows[i] = row
