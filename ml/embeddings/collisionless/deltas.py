"""Deltas of a store: rows that were updated or admitted after a step, and ids that were deleted after it.

Deleted ids are recorded as tombstones. Tombstones are kept until every registered receiver has acknowledged the step of the
deletion.
"""

from __future__ import annotations

import numpy as np
import torch

from ml.embeddings.collisionless.row_layout import DEFAULT, FREE, ID, SEEN, STEP, TABLE, WEIGHTS, copy_rows
from ml.embeddings.collisionless.store import Store
from ml.embeddings.delta import Delta, Gap, TableDelta, TableShape, check_delta


def shapes_of(store: Store) -> dict[str, TableShape]:
    """Return the shape of each table in deltas, by table name."""
    return {rule.name: TableShape(store.dim, rows=None) for rule in store.rules}


def create_delta(store: Store, since: int) -> Delta:
    """Return the rows of a store that were updated or admitted after a step, and the ids that were deleted.

    Args:
        store: The sender.
        since: An earlier step of the store.

    Returns:
        The changes, sorted by id.

    Raises:
        Gap: If `since` is later than the current step, or tombstones after it have been deleted.
    """
    _check_available(store, since)
    changed, words = _changed(store, since)
    store.touched.begin(store.step, changed[words[:, STEP] > store.step])
    deleted = store.tombstones.since(since)
    tables = {}
    for number, rule in enumerate(store.rules):
        own = words if len(store.rules) == 1 else words[words[:, TABLE] == number]
        ids = own[:, : 2 * (ID + 1)].copy().view(np.int64)[:, ID]
        order = np.argsort(ids)
        tables[rule.name] = TableDelta(
            keys=torch.from_numpy(ids[order]),
            weights=torch.from_numpy(own[order, WEIGHTS:].view(np.float32)),
            seen=torch.from_numpy(own[order, SEEN].view(np.uint32).astype(np.int64)),
            deleted=torch.from_numpy(np.unique(deleted[deleted[:, 1] == number, 2])),
        )
    return Delta(since, store.step, store.time, tables)


def apply_delta(store: Store, delta: Delta) -> bool:
    """Update, insert and delete rows of a store according to a delta. Inserted rows get a new optimizer state.

    Args:
        store: The receiver.
        delta: The changes.

    Returns:
        True if the delta was applied, False if all of its changes had already been applied.

    Raises:
        Gap: If the delta begins after the store's step, so that changes in between are missing. Nothing is changed.
        ValueError: If the delta does not match the tables. Nothing is changed.
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
        store.touched.add(rows, store.used)
        weights = torch.cat([table.float_weights() for _, table in parts])
        store.array.floats[rows, WEIGHTS : WEIGHTS + store.dim] = weights.numpy()
    store.init_optimizer_state(rows[new])
    store.step, store.time = delta.step, max(store.time, delta.time)
    # Ids without a row in this store are included, because this store may forward deltas to other receivers.
    store.tombstones.replace(delta.step, deleted_tables, deleted)
    return True


def register_receiver(store: Store, name: str, step: int) -> None:
    """Keep tombstones of deletions after a step until a receiver acknowledges them.

    Args:
        store: The sender.
        name: Name of the receiver, which must stay the same when the receiver restarts.
        step: The receiver's current step.

    Raises:
        Gap: If deltas since that step are not available.
    """
    _check_available(store, step)
    store.receivers.register(name, step)


def acknowledge(store: Store, name: str, step: int) -> None:
    """Record that a receiver has applied all changes up to a step, and delete tombstones that no receiver needs.

    Args:
        store: The sender.
        name: Name of the receiver.
        step: Step of the latest delta that the receiver has applied.

    Raises:
        Gap: If the receiver was dropped because it was silent for too long, or the step is later than the store's step.
    """
    if step > store.step:
        raise Gap(f"the tables are at step {store.step}, receiver {name!r} acknowledges step {step}: load a snapshot")
    store.receivers.acknowledge(name, step)
    trim_tombstones(store)


def trim_tombstones(store: Store) -> None:
    """Delete tombstones up to the step that all receivers have acknowledged; all tombstones without receivers."""
    oldest = store.receivers.oldest_step()
    step = store.step if oldest is None else min(oldest, store.step)
    store.tombstones.trim(step)
    store.touched.trim(step)


def _changed(store: Store, since: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows that were updated or admitted after a step, int64 [U], and copies of them, int32 [U, WEIGHTS + D].

    The copies are without optimizer state. Rows are far apart in memory, so each is read once.
    """
    rows = store.touched.since(since)
    if rows is None:
        rows = np.flatnonzero(store.array.words[: store.used, STEP] > since)
    words = np.empty((len(rows), WEIGHTS + store.dim), np.int32)
    copy_rows(store.array.words, rows, words)
    changed = (words[:, STEP] > since) & (words[:, TABLE] != FREE)
    return (rows, words) if changed.all() else (rows[changed], words[changed])


def _check_available(store: Store, since: int) -> None:
    if since > store.step:
        raise Gap(f"the tables are at step {store.step}, changes since {since} were requested: load a snapshot")
    if since < (oldest := store.tombstones.oldest_step):
        raise Gap(f"changes since step {since} are unavailable, the oldest available step is {oldest}: load a snapshot")


def _with_table(parts: list[tuple[int, torch.Tensor]]) -> tuple[np.ndarray, np.ndarray]:
    """Concatenate the ids of several tables. Returns the ids and the table of each id, both int64 [N]."""
    numbers = [np.full(len(ids), number) for number, ids in parts]
    empty = np.empty(0, np.int64)
    return np.concatenate([empty, *(ids.numpy() for _, ids in parts)]), np.concatenate([empty, *numbers])
