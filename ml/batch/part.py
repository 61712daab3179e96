"""One task of a batch: recommendations for some users, written to one file.

A process loads the two stages once, and uses them for all its tasks of a batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import torch

from ml.batch.options import BatchOptions
from ml.batch.two_stages import TwoStages
from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.online.examples import read_side_tables
from ml.parquet import read_parquet, write_table
from ml.schema import ARROW_TYPES
from ml.serving.recommender import Recommendation

USER = "user"


@dataclass(frozen=True)
class BatchRun:
    """What the tasks of a batch share.

    Attributes:
        spec: A dataset with an item and a user.
        day: `YYYY-MM-DD`.
        lake: Root of the lake.
        logs: The landing folder, which holds the side tables.
        options: What is asked for.
        id: Tells this run from all others, so that no process uses what it has loaded for another one.
    """

    spec: DatasetSpec
    day: str
    lake: str
    logs: str
    options: BatchOptions
    id: str


@dataclass(frozen=True)
class Task:
    """Users of a file, in its column `user`, whose recommendations are written to another file."""

    batch: BatchRun
    users: str
    output: str


@dataclass(frozen=True)
class Done:
    """Statistics of a task.

    Attributes:
        users: Number of users.
        rows: Number of recommended items.
        candidates: Number of candidates that were ranked, of all users together.
        models: Number of users by the name of what ranked.
        live: Number of live items.
    """

    users: int
    rows: int
    candidates: int
    models: Counter[str]
    live: int


_held: list[tuple[BatchRun, TwoStages]] = []  # at most one


def recommend_part(task: Task) -> Done:
    """Recommend items to the users of a task, on one thread, so that scores do not depend on the number of cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        stages, options = _stages(task.batch), task.batch.options
        users = read_parquet(task.users)[USER].combine_chunks()
        found = stages.recommend(users, options.k, options.exclude_seen)
    finally:
        torch.set_num_threads(threads)
    write_table(_rows(task.batch.spec, users, found), task.output)
    return Done(
        users=len(users),
        rows=sum(len(of.items) for _, of in found),
        candidates=sum(of.ranked for _, of in found),
        models=Counter(name for name, _ in found),
        live=len(stages.recommender.source.live),
    )


def release() -> None:
    """Drop the two stages that this process has loaded."""
    _held.clear()


def _stages(batch: BatchRun) -> TwoStages:
    """Load the two stages of a batch, if this process has not done so before."""
    if not _held or _held[0][0] != batch:
        release()
        sides = read_side_tables(batch.spec, batch.logs)
        _held.append((batch, TwoStages.load(batch.spec, batch.day, Lake.at(batch.lake), sides)))
    return _held[0][1]


def _rows(spec: DatasetSpec, users: pa.Array, found: Sequence[tuple[str, Recommendation]]) -> pa.Table:
    """Return a row for each recommended item, in the order of users and ranks."""
    counts = [len(of.items) for _, of in found]
    owners = [at for at, count in enumerate(counts) for _ in range(count)]
    ranked = [item for _, of in found for item in of.items]
    return pa.table(
        {
            USER: users.take(pa.array(owners, pa.int64())),
            "rank": pa.array([rank for count in counts for rank in range(1, count + 1)], pa.int32()),
            "item": pa.array([item.item for item in ranked], ARROW_TYPES[spec.examples_log.source.columns[spec.item or ""]]),
            "score": pa.array([item.score for item in ranked], pa.float32()),
            "model": pa.array([found[at][0] for at in owners], pa.string()),
            "sources": pa.array([item.sources for item in ranked], pa.list_(pa.string())),
        }
    )
