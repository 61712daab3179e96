"""Merging of collisionless tables that several ranks trained independently, each on its own examples.

During a pass, ranks exchange only the gradients of dense layers. After the pass, rows that one rank touched are taken from that
rank. For rows that several ranks touched, weights and optimizer state are averaged. Rows that no rank touched are unchanged.

During a pass, a rank's delta covers only its own tables, and the deltas of several ranks cannot be merged. A receiver that is
at the step at which the pass began catches up by the delta of the merged tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from ml.embeddings.collisionless.hash_map import ROW_BITS, ROW_MASK
from ml.embeddings.receivers import merge_receivers

_AVERAGED, _LATEST = ("weight", "slot", "state"), ("seen", "count", "step")


def merge_replicas(parts: Sequence[Mapping[str, torch.Tensor]], tables: Sequence[str]) -> dict[str, torch.Tensor]:
    """Merge the tables of all ranks at the end of a pass.

    Args:
        parts: The tensors of `weights` and `training_state` of each rank. All ranks must have begun the pass with the same
            tables.
        tables: Names of the tables.

    Returns:
        The tensors of `weights` and `training_state` of the merged tables. If several ranks have the same candidate, the
        largest count is kept.
    """
    whole = dict(parts[0])
    began = int(parts[0]["pass"][0, 0])
    for table in tables:
        ids, merged_row = torch.cat([part[f"{table}.id"] for part in parts]).unique(return_inverse=True)  # [U], [N]
        touched = torch.cat([part[f"{table}.step"] for part in parts]) > began
        touched_by_any = torch.zeros(len(ids), dtype=torch.bool).index_put((merged_row[touched],), torch.tensor(True))
        row = torch.arange(len(merged_row))
        first = torch.full((len(ids),), len(merged_row)).scatter_reduce(0, merged_row, row, "amin")
        used = touched | (~touched_by_any[merged_row] & (first[merged_row] == row))
        ranks = torch.zeros(len(ids)).index_add(0, merged_row[used], torch.ones(int(used.sum())))
        whole[f"{table}.id"] = ids
        for name in (f"{table}.{kind}" for kind in _AVERAGED):
            values = torch.cat([part[name] for part in parts])[used]
            total = values.new_zeros(len(ids), *values.shape[1:]).index_add(0, merged_row[used], values)
            whole[name] = total / ranks.view(-1, *[1] * (values.dim() - 1))
        for name in (f"{table}.{kind}" for kind in _LATEST):
            values = torch.cat([part[name] for part in parts])
            whole[name] = values.new_zeros(len(ids)).scatter_reduce(0, merged_row, values, "amax")
    stacked = {name: torch.stack([part[name] for part in parts]) for name in ("step", "oldest_delta_step", "counters")}
    whole |= {name: stacked[name].amax(0) for name in ("step", "oldest_delta_step")}
    whole["receivers"] = merge_receivers([part["receivers"] for part in parts])
    whole["counters"] = stacked["counters"].sum(0) - (len(parts) - 1) * parts[0]["pass"][1:]
    ids_by_table = {number: whole[f"{table}.id"].numpy() for number, table in enumerate(tables)}
    candidates = _merged_candidates(parts)
    candidates = _without_row(candidates, candidates[:, 1] >> ROW_BITS, candidates[:, 0], ids_by_table)
    tombstones = np.unique(np.concatenate([part["tombstones"].numpy() for part in parts]), axis=0)
    tombstones = _without_row(tombstones, tombstones[:, 1], tombstones[:, 2], ids_by_table)
    return whole | {"candidates": torch.from_numpy(candidates), "tombstones": torch.from_numpy(tombstones)}


def _merged_candidates(parts: Sequence[Mapping[str, torch.Tensor]]) -> np.ndarray:
    """Return the candidates of all ranks, int64 [W, 3], sorted by table and id. The largest count of each id is kept."""
    candidates = np.concatenate([part["candidates"].numpy() for part in parts])
    candidates = candidates[np.lexsort((-(candidates[:, 1] & ROW_MASK), candidates[:, 0], candidates[:, 1] >> ROW_BITS))]
    same = (candidates[1:, 0] == candidates[:-1, 0]) & (candidates[1:, 1] >> ROW_BITS == candidates[:-1, 1] >> ROW_BITS)
    return candidates[np.concatenate([[True], ~same])] if len(candidates) else candidates


def _without_row(
    entries: np.ndarray, tables: np.ndarray, ids: np.ndarray, ids_by_table: Mapping[int, np.ndarray]
) -> np.ndarray:
    """Select the entries whose ids have no row.

    Args:
        entries: Entries, int64 [N, 3].
        tables: Table of each entry, int64 [N].
        ids: Id of each entry, int64 [N].
        ids_by_table: Ids that have a row, by table.
    """
    has_row = np.zeros(len(entries), bool)
    for number, own in ids_by_table.items():
        has_row |= (tables == number) & np.isin(ids, own)
    return np.ascontiguousarray(entries[~has_row])
