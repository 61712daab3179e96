"""What changed in a store since a step: the unit that a trainer sends and a server applies. Sending is not here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ml.embeddings.collisionless.row_layout import DEFAULT, FREE, ID, SEEN, STEP, TABLE, WEIGHTS

if TYPE_CHECKING:
    from ml.embeddings.collisionless.store import Store


class Gap(ValueError):
    """A delta does not follow on what a store holds, or is asked for from before its tombstones begin."""


@dataclass(frozen=True)
class Delta:
    """What changed after step `since` up to `step`, as of event time `time`, microseconds since 1970 UTC.

    tables int32, ids int64, seen int64 (seconds) and weights float32 [U, dim] of U rows; deleted_tables int32 and
    deleted_ids int64 of ids that were let go, and may be among the rows again.
    """

    since: int
    step: int
    time: int
    tables: NDArray[np.int32]
    ids: NDArray[np.int64]
    seen: NDArray[np.int64]
    weights: NDArray[np.float32]
    deleted_tables: NDArray[np.int32]
    deleted_ids: NDArray[np.int64]

    @property
    def nbytes(self) -> int:
        return sum(value.nbytes for value in vars(self).values() if isinstance(value, np.ndarray))


def delta_of(store: Store, since: int) -> Delta:
    """What changed in a store after step `since`: rows that were updated or admitted, and ids that were let go.

    Raises `Gap` where the store has forgotten what was let go so long ago, or has not come so far.
    """
    if since > store.step:
        raise Gap(f"the tables are at step {store.step}, and {since} is asked for: load a snapshot")
    if since < store.oldest_delta_step:
        raise Gap(f"what changed after {since} is known no more, only after {store.oldest_delta_step}: load a snapshot")
    words = store.array.words[: store.used]
    rows = np.flatnonzero((words[:, STEP] > since) & (words[:, TABLE] != FREE))
    gone = np.concatenate([np.empty((0, 3), np.int64), *(part for part in store.tombstones if part[0, 0] > since)])
    return Delta(
        since=since,
        step=store.step,
        time=store.time,
        tables=words[rows, TABLE],
        ids=store.array.longs[rows, ID],
        seen=store.array.seen(rows),
        weights=store.array.floats[rows, WEIGHTS : WEIGHTS + store.dim],
        deleted_tables=gone[:, 1].astype(np.int32),
        deleted_ids=gone[:, 2],
    )


def apply_to(store: Store, delta: Delta) -> bool:
    """Let a store take over what a delta of another says; False where that is there already.

    Rows that are new here begin with a new optimizer's state. Raises `Gap` where something between the store's step and the
    delta's is missing, `ValueError` where the delta is of other tables; the store is as it was then.
    """
    if delta.weights.shape != (len(delta.ids), store.dim):
        raise ValueError(f"a delta of weights {delta.weights.shape} for {len(delta.ids)} ids does not fit rows of {store.dim}")
    of = np.concatenate([delta.tables, delta.deleted_tables])
    if len(of) and not 0 <= of.min() <= of.max() < len(store.live):
        raise ValueError(f"a delta of tables {np.unique(of)} does not fit the {len(store.live)} tables here")
    if delta.step <= store.step:
        return False
    if delta.since > store.step:
        way_out = f"load a snapshot, or ask for a delta since {store.step}"
        raise Gap(f"the table is at step {store.step}, the delta begins after {delta.since}: {way_out}")
    deleted_tables = delta.deleted_tables.astype(np.int64)
    gone = store.find(deleted_tables, delta.deleted_ids)
    store.delete_rows(np.unique(gone[gone != DEFAULT]), delta.step)
    tables = delta.tables.astype(np.int64)
    rows = store.find(tables, delta.ids)
    new = np.flatnonzero(rows == DEFAULT)
    rows[new] = store.insert(tables[new], delta.ids[new])
    store.array.words[rows, SEEN] = delta.seen.astype(np.uint32).view(np.int32)
    store.array.words[rows, STEP] = delta.step
    store.array.floats[rows, WEIGHTS : WEIGHTS + store.dim] = delta.weights
    store.begin(rows[new])
    store.step, store.time = delta.step, max(store.time, delta.time)
    if len(deleted_tables):  # all of them, for deltas that this store hands on
        store.tombstones = [part for part in store.tombstones if part[0, 0] != delta.step]
        store.add_tombstones(deleted_tables, delta.deleted_ids)
    return True
