"""Conversion of stores to named tensors and back.

Rows are grouped by table and sorted by id, so equal rows give equal tensors, regardless of their order in memory. The tensors
can be sharded by id, merged, and sharded again into a different number of shards.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ml.embeddings.collisionless.candidates import sort_candidates
from ml.embeddings.collisionless.counters import Counters
from ml.embeddings.collisionless.hash_map import ROW_BITS
from ml.embeddings.collisionless.row_layout import COUNT, SEEN, SLOT, STEP, WEIGHTS
from ml.embeddings.collisionless.store import Store
from ml.embeddings.collisionless.tombstones import sort_tombstones
from ml.embeddings.optimizers import RowOptimizer
from ml.embeddings.receivers import merge_receivers
from ml.embeddings.rules import TableRules
from ml.hashing import GOLDEN

Columns = Mapping[str, torch.Tensor]
_BY_ROW = ("id", "weight", "seen", "count", "step", "slot", "state")
_WHOLE = ("candidates", "tombstones", "oldest_delta_step", "receivers", "counters")


def weights(store: Store) -> dict[str, torch.Tensor]:
    """Return the tensors that predictions need.

    Returns:
        `<table>.id`, int64 [N], and `<table>.weight`, float32 [N, D], for each table. `step`, int64 [2], holds the step and the
        latest event time in microseconds since 1970 UTC.
    """
    found = {"step": torch.tensor([store.step, store.time])}
    for number, rule in enumerate(store.rules):
        rows = store.rows_of(number)
        found[f"{rule.name}.id"] = torch.from_numpy(store.array.longs[rows, 0])
        found[f"{rule.name}.weight"] = torch.from_numpy(store.array.floats[rows, WEIGHTS : WEIGHTS + store.dim])
    return found


def training_state(store: Store) -> dict[str, torch.Tensor]:
    """Return the tensors that only training needs.

    Returns:
        For each table, `<table>.seen`, int64 [N], in seconds since 1970 UTC; `<table>.count`, int32 [N]; `<table>.step`, int32
        [N], the step of each row's last update; and the optimizer state in `<table>.slot`, float32 [N], and `<table>.state`,
        float32 [N, S]. For all tables, `candidates`, int64 [W, 3]; `tombstones`, int64 [G, 3]; `oldest_delta_step`, int64 [1];
        `counters`, int64 [5, T]; and as JSON, uint8 [n], `receivers`, and `about`, which describes the other tensors.
    """
    found = {"about": torch.tensor(list(json.dumps(about(store.optimizer, store.rules)).encode()), dtype=torch.uint8)}
    for number, rule in enumerate(store.rules):
        rows = store.rows_of(number)
        words = store.array.words[rows]
        begin = WEIGHTS + store.dim
        state = store.array.floats[rows, begin : begin + store.optimizer.words(store.dim)]
        values = {
            "seen": store.array.seen(rows),
            "count": words[:, COUNT],
            "step": words[:, STEP],
            "slot": store.array.floats[rows, SLOT],
            "state": state,
        }
        found |= {f"{rule.name}.{name}": torch.from_numpy(np.ascontiguousarray(value)) for name, value in values.items()}
    return found | {
        "candidates": torch.from_numpy(store.candidates.to_rows()),
        "tombstones": torch.from_numpy(store.tombstones.to_rows()),
        "oldest_delta_step": torch.tensor([store.tombstones.oldest_step]),
        "receivers": store.receivers.to_tensor(),
        "counters": torch.from_numpy(np.stack(list(store.counters.as_rows()))),
    }


def about(optimizer: RowOptimizer, rules: Sequence[TableRules]) -> dict[str, Any]:
    """Return the optimizer, tables and filters that a training state depends on."""
    return {
        "optimizer": optimizer.kind,
        "tables": [rule.name for rule in rules],
        "filters": [rule.filter for rule in rules],
        "windows": [rule.window_seconds for rule in rules],
    }


def read_about(training_state: Columns, optimizer: RowOptimizer, rules: Sequence[TableRules]) -> list[int]:
    """Check that a training state matches an optimizer and rules.

    Args:
        training_state: The tensors that `training_state` returned.
        optimizer: The expected optimizer.
        rules: The expected rules of the tables.

    Returns:
        Indices of the tables whose candidates can be restored, because the length of their window is unchanged.

    Raises:
        ValueError: If the optimizer, the tables or their filters differ.
    """
    if "about" not in training_state:
        raise ValueError("the training state has no tensor 'about': it was written by an earlier version")
    found, own = json.loads(bytes(training_state["about"].tolist())), about(optimizer, rules)
    for name in ("optimizer", "tables", "filters"):
        if found[name] != own[name]:
            raise ValueError(f"{name}: expected {own[name]}, found {found[name]}")
    return [number for number, pair in enumerate(zip(found["windows"], own["windows"], strict=True)) if pair[0] == pair[1]]


def restore(store: Store, weights: Columns, training_state: Columns | None) -> None:
    """Fill a new store with rows from tensors.

    Tables that exceed their cap evict rows. The candidates of a table are dropped if the length of its window differs.

    Args:
        store: A store without rows.
        weights: The tensors that `weights` returned.
        training_state: The tensors that `training_state` returned. None is for predictions, or to continue training with new
            optimizer state.

    Raises:
        ValueError: If the tensors do not match the tables; the message names them. The store is not changed.
    """
    if len(store):
        raise ValueError(f"expected a store without rows, found {len(store)} rows: restore into a new store")
    _check(store, weights, training_state)
    tables = [np.full(len(weights[f"{rule.name}.id"]), number) for number, rule in enumerate(store.rules)]
    ids = np.concatenate([weights[f"{rule.name}.id"].numpy() for rule in store.rules])
    rows = store.insert(np.concatenate(tables), ids)
    store.step, store.time = weights["step"].tolist()
    store.touched.clear()  # the steps of the new rows are not those of training
    begin = 0
    for rule in store.rules:
        own = rows[begin : begin + len(weights[f"{rule.name}.id"])]
        begin += len(own)
        _fill(store, own, rule.name, weights, training_state)
    if training_state is None:
        store.init_optimizer_state(rows)
        store.tombstones.trim(store.step)  # weights do not contain tombstones
        return
    candidates = training_state["candidates"].numpy()
    same = read_about(training_state, store.optimizer, store.rules)
    store.candidates.restore(candidates[np.isin(candidates[:, 1] >> ROW_BITS, same)])
    store.tombstones.restore(training_state["tombstones"].numpy(), int(training_state["oldest_delta_step"][0]))
    store.receivers.restore(training_state["receivers"])
    store.counters = Counters(*(np.array(row) for row in training_state["counters"].numpy()))
    store.evict_to_cap()


def shard_of(ids: NDArray[np.int64], shards: int) -> NDArray[np.int64]:
    """Return the shard of each id, int64 [N], in [0, shards). It depends only on the id and the number of shards."""
    mixed = ids.view(np.uint64) * np.uint64(GOLDEN)
    return ((mixed >> np.uint64(40)) % np.uint64(shards)).astype(np.int64)


def shard(columns: Columns, tables: Sequence[str], index: int, count: int) -> dict[str, torch.Tensor]:
    """Select one shard of a store's tensors.

    Counters are sums over shards, so the first shard gets them and the other shards get zeros.

    Args:
        columns: The tensors of `weights`, of `training_state`, or of both.
        tables: Names of the tables.
        index: Index of the shard, in [0, count).
        count: Number of shards.

    Returns:
        The tensors of the shard.
    """
    part = dict(columns)
    for table in tables:
        if f"{table}.id" not in columns:
            continue
        mine = torch.from_numpy(shard_of(columns[f"{table}.id"].numpy(), count) == index)
        part |= {name: columns[name][mine] for kind in _BY_ROW if (name := f"{table}.{kind}") in columns}
    for name, at in (("candidates", 0), ("tombstones", 2)):
        if name in columns:
            part[name] = columns[name][torch.from_numpy(shard_of(columns[name].numpy()[:, at].copy(), count) == index)]
    if "counters" in columns and index:
        part["counters"] = torch.zeros_like(columns["counters"])
    if "pass" in columns and index:
        part["pass"] = torch.cat([columns["pass"][:1], torch.zeros_like(columns["pass"][1:])])
    return part


def merge_shards(parts: Sequence[Columns], tables: Sequence[str]) -> dict[str, torch.Tensor]:
    """Merge the tensors of all shards, or of all ranks that share a collection.

    Steps are maxima over shards; counters are sums.

    Args:
        parts: The tensors of each shard.
        tables: Names of the tables.

    Returns:
        The tensors of the whole.
    """
    whole = dict(parts[0])
    for table in tables:
        order = torch.cat([part[f"{table}.id"] for part in parts]).argsort()
        for kind in _BY_ROW:
            if (name := f"{table}.{kind}") in whole:
                whole[name] = torch.cat([part[name] for part in parts])[order]
    whole["step"] = torch.stack([part["step"] for part in parts]).amax(0)
    if "candidates" in whole:
        candidates, tombstones = (torch.cat([part[name] for part in parts]).numpy() for name in ("candidates", "tombstones"))
        whole["candidates"] = torch.from_numpy(sort_candidates(candidates))
        whole["tombstones"] = torch.from_numpy(sort_tombstones(tombstones))
        whole["oldest_delta_step"] = torch.stack([part["oldest_delta_step"] for part in parts]).amax(0)
        whole["receivers"] = merge_receivers([part["receivers"] for part in parts])
        whole["counters"] = torch.stack([part["counters"] for part in parts]).sum(0)
    if "pass" in whole:
        began = torch.stack([part["pass"] for part in parts])
        whole["pass"] = torch.cat([began[:, :1].amax(0), began[:, 1:].sum(0)])
    return whole


def split_optimizer_state(whole: Columns, tables: Sequence[str]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Split one mapping of tensors into the tensors of `weights` and the tensors of `training_state`."""
    names = {"step"} | {f"{table}.{kind}" for table in tables for kind in ("id", "weight")}
    return {name: t for name, t in whole.items() if name in names}, {name: t for name, t in whole.items() if name not in names}


def _fill(store: Store, rows: NDArray[np.int64], table: str, weights: Columns, state: Columns | None) -> None:
    array = store.array
    array.floats[rows, WEIGHTS : WEIGHTS + store.dim] = weights[f"{table}.weight"].numpy()
    if state is None:
        array.words[rows, STEP] = store.step
        return
    array.words[rows, SEEN] = state[f"{table}.seen"].numpy().astype(np.uint32).view(np.int32)
    array.words[rows, COUNT], array.words[rows, STEP] = state[f"{table}.count"], state[f"{table}.step"]
    array.floats[rows, SLOT] = state[f"{table}.slot"].numpy()
    begin = WEIGHTS + store.dim
    array.floats[rows, begin : begin + store.optimizer.words(store.dim)] = state[f"{table}.state"].numpy()


def _check(store: Store, weights: Columns, state: Columns | None) -> None:
    words = store.optimizer.words(store.dim)
    names = [f"{rule.name}.{kind}" for rule in store.rules for kind in ("id", "weight")]
    if faults := sorted({*names, "step"} ^ set(weights)):
        raise ValueError(f"expected tables {[rule.name for rule in store.rules]}; {faults} are missing or not expected")
    if state is not None:
        _check_state(store, state)
    for rule in store.rules:
        n, found = len(weights[f"{rule.name}.id"]), tuple(weights[f"{rule.name}.weight"].shape)
        if found != (n, store.dim):
            raise ValueError(f"{rule.name}.weight: expected shape {(n, store.dim)}, found {found}")
        ids = weights[f"{rule.name}.id"]
        if not bool((ids[1:] > ids[:-1]).all()):
            raise ValueError(f"{rule.name}.id: expected each id once, in ascending order")
        if state is not None and (found := tuple(state[f"{rule.name}.state"].shape)) != (n, words):
            raise ValueError(f"{rule.name}.state: expected shape {(n, words)} for {store.optimizer.kind}, found {found}")


def _check_state(store: Store, state: Columns) -> None:
    read_about(state, store.optimizer, store.rules)
    by_row = [f"{rule.name}.{kind}" for rule in store.rules for kind in _BY_ROW[2:]]
    if missing := sorted({*by_row, *_WHOLE} - set(state)):
        raise ValueError(f"tensors {missing} are missing from the training state")
    for name in ("candidates", "tombstones"):
        of = state[name][:, 1] >> ROW_BITS if name == "candidates" else state[name][:, 1]
        if len(of) and not 0 <= int(of.min()) <= int(of.max()) < len(store.rules):
            raise ValueError(
                f"{name}: expected table indices in [0, {len(store.rules)}), found {int(of.min())} to {int(of.max())}"
            )
    if (found := tuple(state["counters"].shape)) != (expected := (len(fields(Counters)), len(store.rules))):
        raise ValueError(f"counters: expected shape {expected}, found {found}")
