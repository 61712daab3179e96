"""Tables that several ranks learned each for itself on its own examples, put together as one: only gradients of dense layers
went between the ranks.

A row that one rank touched in the pass is that rank's; of one that several touched, weights and optimizer state are means; one
that nobody touched is as it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from ml.embeddings.collisionless.hash_map import ROW_BITS, ROW_MASK
from ml.embeddings.receivers import merge_receivers

Columns = Mapping[str, torch.Tensor]
_MEANS, _LATEST = ("weight", "slot", "state"), ("seen", "count", "step")


def merge(parts: Sequence[Columns], tables: Sequence[str]) -> dict[str, torch.Tensor]:
    """parts: by rank, `state_dict.weights` and `state_dict.training_state` with the `pass` of the collection. All began the
    pass as the same tables. Occurrences that two ranks counted of the same id are those of the one that saw more."""
    whole = dict(parts[0])
    began = int(parts[0]["pass"][0, 0])
    for table in tables:
        ids, place = torch.cat([part[f"{table}.id"] for part in parts]).unique(return_inverse=True)
        touched = torch.cat([part[f"{table}.step"] for part in parts]) > began
        by_someone = torch.zeros(len(ids), dtype=torch.bool).index_put((place[touched],), torch.tensor(True))
        first = torch.full((len(ids),), len(place)).scatter_reduce(0, place, torch.arange(len(place)), "amin")
        counts = touched | (~by_someone[place] & (first[place] == torch.arange(len(place))))
        share = torch.zeros(len(ids)).index_add(0, place[counts], torch.ones(int(counts.sum())))
        whole[f"{table}.id"] = ids
        for name in (f"{table}.{kind}" for kind in _MEANS):
            values = torch.cat([part[name] for part in parts])[counts]
            total = values.new_zeros(len(ids), *values.shape[1:]).index_add(0, place[counts], values)
            whole[name] = total / share.view(-1, *[1] * (values.dim() - 1))
        for name in (f"{table}.{kind}" for kind in _LATEST):
            values = torch.cat([part[name] for part in parts])
            whole[name] = values.new_zeros(len(ids)).scatter_reduce(0, place, values, "amax")
    stacked = {name: torch.stack([part[name] for part in parts]) for name in ("step", "oldest_delta_step", "counters")}
    whole |= {name: stacked[name].amax(0) for name in ("step", "oldest_delta_step")}
    whole["receivers"] = merge_receivers([part["receivers"] for part in parts])
    whole["counters"] = stacked["counters"].sum(0) - (len(parts) - 1) * parts[0]["pass"][1:]
    held = {number: whole[f"{table}.id"].numpy() for number, table in enumerate(tables)}
    whole["candidates"] = torch.from_numpy(_without(_latest(parts), held))
    gone = np.unique(np.concatenate([part["tombstones"].numpy() for part in parts]), axis=0)
    whole["tombstones"] = torch.from_numpy(_not_in(gone, gone[:, 1], gone[:, 2], held))
    return whole


def _latest(parts: Sequence[Columns]) -> np.ndarray:
    """What waits, int64 [W, 3], by table and id; of an id that waits in several parts, the one with the highest count."""
    candidates = np.concatenate([part["candidates"].numpy() for part in parts])
    candidates = candidates[np.lexsort((-(candidates[:, 1] & ROW_MASK), candidates[:, 0], candidates[:, 1] >> ROW_BITS))]
    same = (candidates[1:, 0] == candidates[:-1, 0]) & (candidates[1:, 1] >> ROW_BITS == candidates[:-1, 1] >> ROW_BITS)
    return candidates[np.concatenate([[True], ~same])] if len(candidates) else candidates


def _without(candidates: np.ndarray, held: Mapping[int, np.ndarray]) -> np.ndarray:
    return _not_in(candidates, candidates[:, 1] >> ROW_BITS, candidates[:, 0], held)


def _not_in(rows: np.ndarray, table: np.ndarray, ids: np.ndarray, held: Mapping[int, np.ndarray]) -> np.ndarray:
    """Those of which the id has no row."""
    there = np.zeros(len(rows), bool)
    for number, known in held.items():
        there |= (table == number) & np.isin(ids, known)
    return np.ascontiguousarray(rows[~there])
