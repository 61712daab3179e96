"""What changed in a store since a version: the unit that a trainer sends and a server applies. Sending is not here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


class Gap(ValueError):
    """A delta does not follow on what a store holds, or is asked for from before what it remembers."""


@dataclass(frozen=True)
class Delta:
    """What changed after version `since` up to `version`, as of event time `time`, microseconds since 1970 UTC.

    tables int32, ids int64, seen int64 (seconds) and weights float32 [U, dim] of U rows; gone_tables int32 and gone_ids int64
    of ids that were let go, and may be among the rows again.
    """

    since: int
    version: int
    time: int
    tables: NDArray[np.int32]
    ids: NDArray[np.int64]
    seen: NDArray[np.int64]
    weights: NDArray[np.float32]
    gone_tables: NDArray[np.int32]
    gone_ids: NDArray[np.int64]

    @property
    def nbytes(self) -> int:
        return sum(value.nbytes for value in vars(self).values() if isinstance(value, np.ndarray))
