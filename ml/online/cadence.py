"""When dense parameters and snapshots are sent; rows of tables are sent after every slice."""

from __future__ import annotations

from typing import NamedTuple

from ml.days import MICROSECONDS_PER_HOUR
from ml.recipes.online import SyncRecipe

_DAY = 24 * MICROSECONDS_PER_HOUR


class Due(NamedTuple):
    """What a synchronisation sends beside the changed rows."""

    dense: bool
    snapshot: bool


class Cadence:
    """Applies the cadence of a recipe to the slices of a day.

    Args:
        sync: The recipe.
        learned_to: Latest event time at the last synchronisation, in microseconds since 1970 UTC; None before the first.

    Example:
        >>> cadence = Cadence(SyncRecipe(dense_every=2))
        >>> [cadence.next(number, (0, 1)).dense for number in (1, 2, 3, 4)]
        [False, True, False, True]
    """

    def __init__(self, sync: SyncRecipe, learned_to: int | None = None) -> None:
        self._sync, self.learned_to = sync, learned_to

    def next(self, number: int, learned: tuple[int, int] | None) -> Due:
        """Return what is due before slice `number` of a day.

        Args:
            number: Index of the slice in its day.
            learned: First and last event time since the last synchronisation; None if nothing was trained.
        """
        if learned is None:
            return Due(dense=False, snapshot=False)
        before = learned[0] if self.learned_to is None else self.learned_to
        self.learned_to = learned[1]
        every, dense_every, hour = self._sync.snapshot_every, self._sync.dense_every, self._sync.dense_hour
        snapshot = every is not None and number % every == 0
        if hour is None:
            dense = dense_every > 0 and number % dense_every == 0
        else:  # the hour has passed since the last synchronisation
            first, last = ((moment - hour * MICROSECONDS_PER_HOUR) // _DAY for moment in (before, learned[1]))
            dense = first != last
        return Due(dense or snapshot, snapshot)
