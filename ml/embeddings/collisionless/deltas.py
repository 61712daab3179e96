"""What changed in a store since a version: the unit that a trainer sends and a server applies. Sending is not here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ml.embeddings.collisionless.row_layout import DEFAULT, FREE, ID, SEEN, TABLE, VERSION, WEIGHTS

if TYPE_CHECKING:
    from ml.embeddings.collisionless.store import Store


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


def delta_of(store: Store, since: int) -> Delta:
    """What changed in a store after version `since`: rows that were updated or admitted, and ids that were let go.

    Raises `Gap` where the store has forgotten what was let go so long ago, or has not come so far.
    """
    if since > store.version:
        raise Gap(f"the tables are at version {store.version}, and {since} is asked for: load a snapshot")
    if since < store.remembers:
        raise Gap(f"what changed after {since} is known no more, only after {store.remembers}: load a snapshot")
    words = store.records.words[: store.used]
    rows = np.flatnonzero((words[:, VERSION] > since) & (words[:, TABLE] != FREE))
    gone = np.concatenate([np.empty((0, 3), np.int64), *(part for part in store.gone if part[0, 0] > since)])
    return Delta(
        since=since,
        version=store.version,
        time=store.time,
        tables=words[rows, TABLE],
        ids=store.records.longs[rows, ID],
        seen=store.records.seen(rows),
        weights=store.records.floats[rows, WEIGHTS : WEIGHTS + store.dim],
        gone_tables=gone[:, 1].astype(np.int32),
        gone_ids=gone[:, 2],
    )


def apply_to(store: Store, delta: Delta) -> bool:
    """Let a store take over what a delta of another says; False where that is there already.

    Rows that are new here begin with a new optimizer's state. Raises `Gap` where something between the store's version and the
    delta's is missing, `ValueError` where the delta is of other tables; the store is as it was then.
    """
    if delta.weights.shape != (len(delta.ids), store.dim):
        raise ValueError(f"a delta of weights {delta.weights.shape} for {len(delta.ids)} ids does not fit rows of {store.dim}")
    of = np.concatenate([delta.tables, delta.gone_tables])
    if len(of) and not 0 <= of.min() <= of.max() < len(store.live):
        raise ValueError(f"a delta of tables {np.unique(of)} does not fit the {len(store.live)} tables here")
    if delta.version <= store.version:
        return False
    if delta.since > store.version:
        way_out = f"load a snapshot, or ask for a delta since {store.version}"
        raise Gap(f"the table is at version {store.version}, the delta begins after {delta.since}: {way_out}")
    gone_tables = delta.gone_tables.astype(np.int64)
    gone = store.find(gone_tables, delta.gone_ids)
    store.let_go(np.unique(gone[gone != DEFAULT]), delta.version)
    tables = delta.tables.astype(np.int64)
    rows = store.find(tables, delta.ids)
    new = np.flatnonzero(rows == DEFAULT)
    rows[new] = store.insert(tables[new], delta.ids[new])
    store.records.words[rows, SEEN] = delta.seen.astype(np.uint32).view(np.int32)
    store.records.words[rows, VERSION] = delta.version
    store.records.floats[rows, WEIGHTS : WEIGHTS + store.dim] = delta.weights
    store.begin(rows[new])
    store.version, store.time = delta.version, max(store.time, delta.time)
    if len(gone_tables):  # all of them, for deltas that this store hands on
        store.gone = [part for part in store.gone if part[0, 0] != delta.version]
        store.remember(gone_tables, delta.gone_ids)
    return True
