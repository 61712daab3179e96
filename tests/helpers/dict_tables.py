"""Reference tables that collisionless tables are compared with: rows in a dict by table and id, in float64."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ml.embeddings.collisionless.initial import draw
from ml.embeddings.collisionless.row_layout import WEIGHTS
from ml.embeddings.optimizers import RowOptimizer
from ml.embeddings.rules import TableRules
from tests.helpers.single_table import LR, SECOND

DIM, SCALE = 4, 0.2


@dataclass
class Row:
    weights: np.ndarray
    state: dict[str, np.ndarray]
    count: int = 0
    seen: int = 0


@dataclass
class DictTables:
    """Collisionless tables with rows in a dict, in float64."""

    optimizer: RowOptimizer
    rules: dict[str, TableRules]
    seeds: dict[str, int]
    rows: dict[tuple[str, int], Row] = field(default_factory=dict)
    candidates: dict[tuple[str, int], tuple[list[int], int]] = field(default_factory=dict)

    def train(self, batch: list[tuple[str, str, list[int], bool]], now: int) -> list[np.ndarray]:
        """Train on bags (feature, table, ids, whether the bag is averaged) and return their embeddings."""
        occurrences = [(table, i) for _, table, ids, _ in batch for i in ids]
        known, due = set(self.rows), []
        for key in occurrences:
            if key in known:
                self.rows[key].count += 1
                self.rows[key].seen = max(self.rows[key].seen, now // SECOND)
            elif self.is_due(key, now) and key not in due:
                due.append(key)
        for table, rule in self.rules.items():
            mine = sorted((key for key in due if key[0] == table), key=occurrences.index)
            if rule.max_rows is not None and rule.evict != "never":
                self.evict(table, len(mine), known & set(occurrences))
            for key in mine:
                if sum(t == table for t, _ in self.rows) < (rule.max_rows or 2**60):
                    counts, _ = self.candidates.pop(key, ([], 0))
                    self.rows[key] = self.new_row(key, sum(counts) or occurrences.count(key), now)
                elif rule.evict == "never" and rule.min_count == 1:
                    self.candidates.pop(key)  # such a table has no candidates
        return [self.bag(table, ids, mean) for _, table, ids, mean in batch]

    def is_due(self, key: tuple[str, int], now: int) -> bool:
        """Count an occurrence of an id without a row, in two half windows, and return whether it is to be admitted."""
        rule = self.rules[key[0]]
        counts, seen = self.candidates.get(key, ([0, 0], now))
        if rule.window_seconds is not None:
            halves = now // int(rule.window_seconds * SECOND / 2) - seen // int(rule.window_seconds * SECOND / 2)
            counts = counts if halves <= 0 else [counts[1], 0] if halves == 1 else [0, 0]
        counts = [counts[0], counts[1] + 1]
        self.candidates[key] = (counts, max(seen, now))
        return sum(counts) >= rule.min_count

    def evict(self, table: str, more: int, kept: set) -> None:
        rule = self.rules[table]
        mine = [key for key in self.rows if key[0] == table]
        too_many = len(mine) + more - (rule.max_rows or 0)
        if too_many <= 0:
            return

        def worth(key: tuple[str, int]) -> tuple[int, int, int]:
            seen, count = self.rows[key].seen, self.rows[key].count
            return (seen, count, key[1]) if rule.evict == "least_recently_used" else (count, seen, key[1])

        for key in sorted((key for key in mine if key not in kept), key=worth)[: max(too_many, (rule.max_rows or 0) // 16)]:
            del self.rows[key]

    def new_row(self, key: tuple[str, int], count: int, now: int) -> Row:
        record = np.zeros((1, WEIGHTS + DIM), np.float32)
        draw(record, 0, DIM, self.seeds[key[0]], key[1], np.float32(SCALE))
        w, start = record[0, WEIGHTS:].astype(np.float64), self.optimizer.initial_accumulator
        state = {"s": np.full(DIM, start), "r": np.array(start), "m": np.zeros(DIM), "v": np.zeros(DIM), "t": np.array(0)}
        o = self.optimizer
        state["n"] = np.full(DIM, start)
        state["z"] = -w * ((o.beta + np.sqrt(start)) / LR + o.l2 / LR) - np.sign(w) * o.l1 / LR
        return Row(w, state, count, now // SECOND)

    def bag(self, table: str, ids: list[int], mean: bool) -> np.ndarray:
        found = [self.rows[table, i].weights if (table, i) in self.rows else np.zeros(DIM) for i in ids]
        total = np.sum(found, axis=0) if found else np.zeros(DIM)
        return total / len(ids) if mean and ids else total

    def update(self, batch: list[tuple[str, str, list[int], bool]], grads: list[np.ndarray]) -> None:
        summed: dict[tuple[str, int], np.ndarray] = {}
        for (_, table, ids, mean), grad in zip(batch, grads, strict=True):
            for i in ids:
                if (table, i) in self.rows:
                    share = grad / len(ids) if mean else grad
                    summed[table, i] = summed.get((table, i), np.zeros(DIM)) + share
        for key, g in summed.items():
            self.step(self.rows[key], g)

    def step(self, row: Row, g: np.ndarray) -> None:
        o, s, w = self.optimizer, row.state, row.weights
        if o.kind == "sgd":
            w -= LR * g
        elif o.kind == "adagrad":
            s["s"] += g**2
            w -= LR * g / (np.sqrt(s["s"]) + o.eps)
        elif o.kind == "rowwise_adagrad":
            s["r"] = s["r"] + (g**2).mean()
            w -= LR * g / (np.sqrt(s["r"]) + o.eps)
        elif o.kind == "adam":
            s["t"] = s["t"] + 1
            s["m"] = o.beta1 * s["m"] + (1 - o.beta1) * g
            s["v"] = o.beta2 * s["v"] + (1 - o.beta2) * g**2
            m, v = s["m"] / (1 - o.beta1 ** s["t"]), s["v"] / (1 - o.beta2 ** s["t"])
            w -= LR * m / (np.sqrt(v) + o.eps)
        else:
            total = s["n"] + g**2
            s["z"] = s["z"] + g - (np.sqrt(total) - np.sqrt(s["n"])) / LR * w
            s["n"] = total
            shrunk = np.sign(s["z"]) * np.maximum(np.abs(s["z"]) - o.l1 / LR, 0)  # the paper's own l1 and l2
            row.weights = -shrunk / ((o.beta + np.sqrt(total)) / LR + o.l2 / LR)

    def expire(self, now: int) -> int:
        def too_old(table: str, age: int) -> bool:
            ttl = self.rules[table].ttl_seconds
            return ttl is not None and age > ttl * SECOND

        age_of = {key: (now // SECOND - row.seen) * SECOND for key, row in self.rows.items()}
        left = {key: row for key, row in self.rows.items() if not too_old(key[0], age_of[key])}
        expired = len(self.rows) - len(left)
        self.rows = left
        self.candidates = {
            key: (counts, seen) for key, (counts, seen) in self.candidates.items() if not too_old(key[0], now - seen)
        }
        return expired
