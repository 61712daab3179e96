"""From 64-bit ids to table rows. Ids are made in `ml.features`; what a row holds is `ml.embeddings.fixed.hashed`."""

from __future__ import annotations

import torch

from ml.schema import FIRST_ID

_LOW_31 = (1 << 31) - 1
_NOT_NEGATIVE = (1 << 63) - 1
# Finaliser of MurmurHash3 (Appleby, 2011); the constants are written as the signed numbers that int64 holds.
_M1 = 0xFF51AFD7ED558CCD - (1 << 64)
_M2 = 0xC4CEB9FE1A85EC53 - (1 << 64)


def mix(ids: torch.Tensor) -> torch.Tensor:
    """A bijection of int64 that spreads every input bit over all output bits. int64 [N] to int64 [N]."""
    x = (ids ^ ((ids >> 33) & _LOW_31)) * _M1
    x = (x ^ ((x >> 33) & _LOW_31)) * _M2
    return x ^ ((x >> 33) & _LOW_31)


def to_rows(ids: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Row of each id. ids: any int64 [N]. rows: int64 [N] (or a scalar), size of each id's table, at least 4. int64 [N].

    Missing (0) and out-of-vocabulary (1) own rows 0 and 1; a vocabulary's ids, which are dense from 2, are their own
    rows as long as they fit; all others, hashes first of all, share rows 2 to rows - 1 by `2 + mix(id) mod (rows - 2)`.

    >>> to_rows(torch.tensor([0, 1, 2, 99, -1]), torch.tensor(100)).tolist()[:4]
    [0, 1, 2, 99]
    """
    hashed = FIRST_ID + (mix(ids) & _NOT_NEGATIVE) % (rows - FIRST_ID)
    return torch.where((ids >= 0) & (ids < rows), ids, hashed)
