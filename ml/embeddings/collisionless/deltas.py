"""Deltas of a store: rows that were updated or admitted, and ids that were deleted, after a step.

Ids that are deleted leave tombstones, which are kept until every registered receiver has acknowledged a later step.
"""

from __future__ import annotations

import numpy as np
import torch

from ml.embeddings.collisionless.row_layout import DEFAULT, FREE, ID, SEEN, STEP, TABLE, WEIGHTS
from ml.embeddings.collisionless.store import Store
from ml.embeddings.delta import Delta, Gap, TableDelta, TableShape, check_delta


def shapes_of(store: Store) -> dict[str, TableShape]:
    """Return the shape of each table's rows in deltas, by table name."""
    return {rule.name: TableShape(store.dim, rows=None) for rule in store.rules}


def create_delta(store: Store, since: int) -> Delta:
    """Return what changed in a store after step `since`, rows and deleted ids in the order of their ids.

    Raises:
        Gap: If the store has not come so far, or has trimmed tombstones of later steps.
    """
    _check_available(store, since)
    words, ids = store.array.words[: store.used], store.array.longs
    changed = np.flatnonzero((words[:, STEP] > since) & (words[:, TABLE] != FREE))
    deleted = store.tombstones.since(since)
    tables = {}
    for number, rule in enumerate(store.rules):
        rows = changed[words[changed, TABLE] == number]
        rows = rows[np.argsort(ids[rows, ID])]
        tables[rule.name] = TableDelta(
            keys=torch.from_numpy(ids[rows, ID]),
            weights=torch.from_numpy(store.array.floats[rows, WEIGHTS : WEIGHTS + store.dim]),
            seen=torch.from_numpy(store.array.seen(rows)),
            deleted=torch.from_numpy(np.unique(deleted[deleted[:, 1] == number, 2])),
        )
    return Delta(since, store.step, store.time, tables)


def apply_delta(store: Store, delta: Delta) -> bool:
    """Update, insert and delete rows of a store as a delta says. Rows that are new here begin with a new optimizer state.

    Returns:
        True if the delta was applied, False if its changes were applied before.

    Raises:
        Gap: If changes between the store's step and the delta's beginning are missing; nothing is changed.
        ValueError: If the delta is of other tables; nothing is changed.
    """
    if not check_delta(delta, store.step, shapes_of(store)):
        return False
    number_of = {rule.name: number for number, rule in enumerate(store.rules)}
    parts = [(number_of[name], table) for name, table in delta.tables.items() if table.seen is not None]
    deleted, deleted_tables = _with_table([(number, table.deleted) for number, table in parts])
    found = store.find(deleted_tables, deleted)
    store.delete_rows(np.unique(found[found != DEFAULT]), delta.step)
    ids, tables = _with_table([(number, table.keys) for number, table in parts])
    rows = store.find(tables, ids)
    new = np.flatnonzero(rows == DEFAULT)
    rows[new] = store.insert(tables[new], ids[new])
    if parts:
        seen = torch.cat([table.seen for _, table in parts if table.seen is not None]).numpy()
        store.array.words[rows, SEEN] = seen.astype(np.uint32).view(np.int32)
        store.array.words[rows, STEP] = delta.step
        store.array.floats[rows, WEIGHTS : WEIGHTS + store.dim] = torch.cat([table.weights for _, table in parts]).numpy()
    store.init_optimizer_state(rows[new])
    store.step, store.time = delta.step, max(store.time, delta.time)
    # Including ids that had no row here, for deltas that this store sends on.
    store.tombstones.replace(delta.step, deleted_tables, deleted)
    return True


def register_receiver(store: Store, name: str, step: int) -> None:
    """Keeps tombstones for a receiver of deltas from a step on, until it acknowledges a later one.

    Args:
        store: The sender.
        name: Identifies the receiver across its restarts.
        step: The step that the receiver is at.

    Raises:
        Gap: Deltas since that step are not available.
    """
    _check_available(store, step)
    store.receivers.register(name, step)


def acknowledge(store: Store, name: str, step: int) -> None:
    """Records that a receiver is at a step, and trims the tombstones that no receiver needs any more.

    Raises:
        Gap: The receiver was dropped for its silence, or the step is later than the store's.
    """
    if step > store.step:
        raise Gap(f"the tables are at step {store.step}, receiver {name!r} acknowledges step {step}: load a snapshot")
    store.receivers.acknowledge(name, step)
    trim_tombstones(store)


def trim_tombstones(store: Store) -> None:
    """Deletes tombstones up to the step that all receivers have acknowledged; without receivers all of them."""
    oldest = store.receivers.oldest_step()
    store.tombstones.trim(store.step if oldest is None else min(oldest, store.step))


def _check_available(store: Store, since: int) -> None:
    if since > store.step:
        raise Gap(f"the tables are at step {store.step}, changes since {since} were requested: load a snapshot")
    if since < (oldest := store.tombstones.oldest_step):
        raise Gap(f"changes since step {since} are unavailable, the oldest available step is {oldest}: load a snapshot")


def _with_table(parts: list[tuple[int, torch.Tensor]]) -> tuple[np.ndarray, np.ndarray]:
    """Concatenate ids of several tables. Returns them, and the number of each one's table, both int64 [N]."""
    numbers = [np.full(len(ids), number) for number, ids in parts]
    empty = np.empty(0, np.int64)
    return np.concatenate([empty, *(ids.numpy() for _, ids in parts)]), np.concatenate([empty, *numbers])
