"""Mapping from 64-bit ids to the rows of a hashed table. `ml.features` creates the ids."""

from __future__ import annotations

import torch

from ml.schema import FIRST_ID

_LOW_31 = (1 << 31) - 1
_NOT_NEGATIVE = (1 << 63) - 1
# The constants as signed 64-bit numbers, because torch multiplies int64.
_M1 = 0xFF51AFD7ED558CCD - (1 << 64)
_M2 = 0xC4CEB9FE1A85EC53 - (1 << 64)


def fmix64(ids: torch.Tensor) -> torch.Tensor:
    """Apply the finaliser of MurmurHash3 (Appleby, 2011): a bijection in which every input bit affects every output bit.

    Args:
        ids: int64 [N].

    Returns:
        int64 [N].
    """
    x = (ids ^ ((ids >> 33) & _LOW_31)) * _M1
    x = (x ^ ((x >> 33) & _LOW_31)) * _M2
    return x ^ ((x >> 33) & _LOW_31)


def to_rows(ids: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Map ids to rows.

    Ids in [0, rows) are their own rows: the reserved ids, missing (0) and out of vocabulary (1), and vocabulary ids, which are
    dense from 2. All other ids, such as hashes, are mapped to row `2 + fmix64(id) mod (rows - 2)`, where the sign bit of the
    hash is cleared.

    Args:
        ids: Any ids, int64 [N].
        rows: Number of rows of each id's table, at least 4; int64 [N] or a scalar.

    Returns:
        The row of each id, int64 [N].

    Example:
        >>> to_rows(torch.tensor([0, 1, 2, 99, -1]), torch.tensor(100)).tolist()[:4]
        [0, 1, 2, 99]
    """
    hashed = FIRST_ID + (fmix64(ids) & _NOT_NEGATIVE) % (rows - FIRST_ID)
    return torch.where((ids >= 0) & (ids < rows), ids, hashed)
