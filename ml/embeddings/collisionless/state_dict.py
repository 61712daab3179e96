"""A store as columns, by table and in the order of ids, and back: the same rows give the same bytes, wherever they lay.

Columns of several stores that share the rows among them may be put together, and divided anew among others (`shard_of`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ml.embeddings.collisionless.admission import COUNTED
from ml.embeddings.collisionless.counters import Counters
from ml.embeddings.collisionless.hash_map import EMPTY, ROW_BITS
from ml.embeddings.collisionless.row_layout import COUNT, SEEN, SLOT, STEP, WEIGHTS
from ml.embeddings.collisionless.store import Store, empty_candidates
from ml.embeddings.optimizers import RowOptimizer
from ml.embeddings.rules import TableRules
from ml.hashing import GOLDEN

Columns = Mapping[str, torch.Tensor]
_BY_ROW = ("id", "weight", "seen", "count", "step", "slot", "state")


def weights(store: Store) -> dict[str, torch.Tensor]:
    """`<table>.id` int64 [N], `<table>.weight` float32 [N, D]; `step` int64 [2]: the step, and its event time."""
    found = {"step": torch.tensor([store.step, store.time])}
    for number, rule in enumerate(store.rules):
        rows = store.rows_of(number)
        found[f"{rule.name}.id"] = torch.from_numpy(store.array.longs[rows, 0])
        found[f"{rule.name}.weight"] = torch.from_numpy(store.array.floats[rows, WEIGHTS : WEIGHTS + store.dim])
    return found


def training_state(store: Store) -> dict[str, torch.Tensor]:
    """By table `seen` int64 [N] (seconds), `count` and `step` int32 [N], `slot` float32 [N], `state` float32 [N, S]. Of all:
    `candidates` int64 [W, 3]; `tombstones` int64 [G, 3]; `oldest_delta_step` int64 [1]; `counters` int64 [5, T];
    `about` uint8 [n], JSON: what the numbers in these mean."""
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
    candidates = store.candidates[(store.candidates[:, 1] != EMPTY) & (store.candidates[:, 1] & COUNTED > 0)]
    candidates = candidates[np.lexsort((candidates[:, 0], candidates[:, 1] >> ROW_BITS))]
    gone = np.concatenate([np.empty((0, 3), np.int64), *store.tombstones])
    gone = gone[np.lexsort((gone[:, 2], gone[:, 1], gone[:, 0]))]
    counters = np.stack(list(store.counters.as_rows()))
    return found | {
        "candidates": torch.from_numpy(candidates),
        "tombstones": torch.from_numpy(gone),
        "oldest_delta_step": torch.tensor([store.oldest_delta_step]),
        "counters": torch.from_numpy(counters),
    }


def about(optimizer: RowOptimizer, rules: Sequence[TableRules]) -> dict[str, Any]:
    """What fixes the meaning of a training state's numbers."""
    return {
        "optimizer": optimizer.kind,
        "tables": [rule.name for rule in rules],
        "filters": [rule.filter for rule in rules],
        "windows": [rule.window_seconds for rule in rules],
    }


def read_about(training_state: Columns, optimizer: RowOptimizer, rules: Sequence[TableRules]) -> list[int]:
    """Numbers of the tables whose counts of what waits mean the same here; they do not where the window is another.

    Raises `ValueError` where the state is one of another optimizer, other tables or other filters.
    """
    if "about" not in training_state:
        raise ValueError("the training state does not say what it is of; it was written by an earlier version")
    found, own = json.loads(bytes(training_state["about"].tolist())), about(optimizer, rules)
    for name in ("optimizer", "tables", "filters"):
        if found[name] != own[name]:
            raise ValueError(f"{name}: expected {own[name]}, found {found[name]}")
    return [number for number, pair in enumerate(zip(found["windows"], own["windows"], strict=True)) if pair[0] == pair[1]]


def restore(store: Store, weights: Columns, training_state: Columns | None) -> None:
    """Fill a new store. Raises `ValueError`, naming what is wrong, where the columns are not of such tables.

    What waits under a window of another length waits anew; where a table is full beyond its cap, rows make way.
    """
    if len(store):
        raise ValueError("only a new store can be filled")
    _check(store, weights, training_state)
    tables = [np.full(len(weights[f"{rule.name}.id"]), number) for number, rule in enumerate(store.rules)]
    ids = np.concatenate([weights[f"{rule.name}.id"].numpy() for rule in store.rules])
    rows = store.insert(np.concatenate(tables), ids)
    store.step, store.time = weights["step"].tolist()
    begin = 0
    for rule in store.rules:
        these = rows[begin : begin + len(weights[f"{rule.name}.id"])]
        begin += len(these)
        _fill(store, these, rule.name, weights, training_state)
    if training_state is None:
        store.begin(rows)
        store.oldest_delta_step = store.step  # what was let go before is not among the weights
        return
    candidates = training_state["candidates"].numpy()
    same = read_about(training_state, store.optimizer, store.rules)
    candidates = np.ascontiguousarray(candidates[np.isin(candidates[:, 1] >> ROW_BITS, same)])
    # Laid out as slots are, so going through it as a map puts each where it belongs.
    store.candidates = candidates
    store.set_candidates(empty_candidates(len(candidates)), 0, np.zeros(len(store.rules), np.int64))
    gone = training_state["tombstones"].numpy()
    store.tombstones = np.split(gone, np.flatnonzero(np.diff(gone[:, 0])) + 1) if len(gone) else []
    store.oldest_delta_step = int(training_state["oldest_delta_step"][0])
    store.counters = Counters(*(np.array(row) for row in training_state["counters"].numpy()))
    store.keep_caps()


def shard_of(ids: NDArray[np.int64], shards: int) -> NDArray[np.int64]:
    """Which of so many shards an id belongs to, int64 [N]: a function of the id alone."""
    mixed = ids.view(np.uint64) * np.uint64(GOLDEN)
    return ((mixed >> np.uint64(40)) % np.uint64(shards)).astype(np.int64)


def shard(columns: Columns, tables: Sequence[str], index: int, count: int) -> dict[str, torch.Tensor]:
    """The part of one shard. Counters, which are sums over shards, now and at the beginning of a pass, stay with the first."""
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
    """What `shard` took apart; the steps are the latest."""
    whole = dict(parts[0])
    for table in tables:
        order = torch.cat([part[f"{table}.id"] for part in parts]).argsort()
        for kind in _BY_ROW:
            if (name := f"{table}.{kind}") in whole:
                whole[name] = torch.cat([part[name] for part in parts])[order]
    whole["step"] = torch.stack([part["step"] for part in parts]).amax(0)
    if "candidates" in whole:
        candidates, gone = (torch.cat([part[name] for part in parts]).numpy() for name in ("candidates", "tombstones"))
        whole["candidates"] = torch.from_numpy(candidates[np.lexsort((candidates[:, 0], candidates[:, 1] >> ROW_BITS))])
        whole["tombstones"] = torch.from_numpy(gone[np.lexsort((gone[:, 2], gone[:, 1], gone[:, 0]))])
        whole["oldest_delta_step"] = torch.stack([part["oldest_delta_step"] for part in parts]).amax(0)
        whole["counters"] = torch.stack([part["counters"] for part in parts]).sum(0)
    if "pass" in whole:
        began = torch.stack([part["pass"] for part in parts])
        whole["pass"] = torch.cat([began[:, :1].amax(0), began[:, 1:].sum(0)])
    return whole


def split_optimizer_state(whole: Columns, tables: Sequence[str]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """What `weights` gave, and what `training_state` did, of the two in one."""
    names = {"step"} | {f"{table}.{kind}" for table in tables for kind in ("id", "weight")}
    return {name: t for name, t in whole.items() if name in names}, {name: t for name, t in whole.items() if name not in names}


def _fill(store: Store, rows: NDArray[np.int64], table: str, weights: Columns, state: Columns | None) -> None:
    records = store.array
    records.floats[rows, WEIGHTS : WEIGHTS + store.dim] = weights[f"{table}.weight"].numpy()
    if state is None:
        records.words[rows, STEP] = store.step
        return
    records.words[rows, SEEN] = state[f"{table}.seen"].numpy().astype(np.uint32).view(np.int32)
    records.words[rows, COUNT], records.words[rows, STEP] = state[f"{table}.count"], state[f"{table}.step"]
    records.floats[rows, SLOT] = state[f"{table}.slot"].numpy()
    begin = WEIGHTS + store.dim
    records.floats[rows, begin : begin + store.optimizer.words(store.dim)] = state[f"{table}.state"].numpy()


def _check(store: Store, weights: Columns, state: Columns | None) -> None:
    words = store.optimizer.words(store.dim)
    names = [f"{rule.name}.{kind}" for rule in store.rules for kind in ("id", "weight")]
    if faults := sorted({*names, "step"} ^ set(weights)):
        raise ValueError(f"expected tables {[rule.name for rule in store.rules]}; {faults} are missing or not expected")
    if state is not None:
        read_about(state, store.optimizer, store.rules)
        rest = [f"{rule.name}.{kind}" for rule in store.rules for kind in _BY_ROW[2:]]
        if missing := sorted({*rest, "candidates", "tombstones", "oldest_delta_step", "counters"} - set(state)):
            raise ValueError(f"the training state lacks {missing}")
        for name in ("candidates", "tombstones"):
            of = state[name][:, 1] >> ROW_BITS if name == "candidates" else state[name][:, 1]
            if len(of) and not 0 <= int(of.min()) <= int(of.max()) < len(store.rules):
                raise ValueError(f"{name}: speaks of tables that are not there")
        if (found := tuple(state["counters"].shape)) != (expected := (len(fields(Counters)), len(store.rules))):
            raise ValueError(f"counters: expected shape {expected}, found {found}")
    for rule in store.rules:
        n, found = len(weights[f"{rule.name}.id"]), tuple(weights[f"{rule.name}.weight"].shape)
        if found != (n, store.dim):
            raise ValueError(f"{rule.name}.weight: expected shape {(n, store.dim)}, found {found}")
        ids = weights[f"{rule.name}.id"]
        if not bool((ids[1:] > ids[:-1]).all()):
            raise ValueError(f"{rule.name}.id: expected each id once, in order")
        if state is not None and (found := tuple(state[f"{rule.name}.state"].shape)) != (n, words):
            raise ValueError(f"{rule.name}.state: expected shape {(n, words)} for {store.optimizer.kind}, found {found}")
