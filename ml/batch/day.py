"""Writes one day of `batch_recommendations`: the best items for every user at the end of the day.

rows/part-*.parquet    `user`, `rank` from 1, `item`, `score`, `model`, `sources`; in ascending order of users and ranks

Each file has the recommendations of `USERS_PER_PART` users. The bytes depend on the inputs and the options, and not on the
runner or on the number of executors.
"""

from __future__ import annotations

import time
import uuid
from collections import Counter
from dataclasses import asdict, dataclass

import pyarrow as pa
from upath import UPath

from ml.batch.options import BatchOptions
from ml.batch.part import USER, BatchRun, Task, recommend_part, release
from ml.batch.two_stages import champion_on, ranker_day
from ml.batch.users import user_days, users_of
from ml.catalog.spec import DatasetSpec
from ml.compute.runner import Runner
from ml.lake import Lake
from ml.parquet import write_table
from ml.serving.choice import choose_models
from ml.serving.past import feature_table_days, window_days
from ml.stages import BATCH_RECOMMENDATIONS, CANDIDATE_INDEX, EVALUATION_REPORTS, FEATURE_TABLES, exported_models

USERS_PER_PART = 4096
DEFAULTS = BatchOptions()


@dataclass(frozen=True)
class RecommendedDay:
    """Statistics of a written day.

    Attributes:
        folder: The partition.
        users: Number of users.
        rows: Number of recommended items.
        live_items: Number of items that are live at the end of the day.
        candidates: Mean number of candidates that were ranked for a user; 0.0 without users.
        models: Number of users by the name of what ranked.
        seconds: Wall time of the recommendations, with loading the models.
    """

    folder: UPath
    users: int
    rows: int
    live_items: int
    candidates: float
    models: dict[str, int]
    seconds: float


def recommend_day(
    spec: DatasetSpec,
    day: str,
    lake: Lake,
    logs: str | UPath,
    runner: Runner,
    options: BatchOptions = DEFAULTS,
    users_per_part: int = USERS_PER_PART,
) -> RecommendedDay:
    """Write the partition `batch_recommendations/<dataset>/<day>`.

    Args:
        spec: A dataset with an item and a user.
        day: `YYYY-MM-DD`.
        lake: Where logs and models are stored.
        logs: The landing folder, which holds the side tables.
        runner: Runs the tasks.
        options: How many items, and which users.
        users_per_part: Number of users of each file.

    Raises:
        ValueError: The dataset has no item or no user; the message names the key.
        MissingPartition: The day has not been ingested, or a model of the day has not been exported.
        Refused: A model cannot be served.
    """
    if missing := [key for key in ("item", "user") if getattr(spec, key) is None]:
        raise ValueError(f"{spec.name}: the catalog entry has no `{missing[0]}`, so nothing can be recommended to its users")
    choice = choose_models(spec, champion=champion_on(spec, lake, day))
    stage, ranker = spec.examples_log.stage, ranker_day(lake, spec, day)
    days = user_days(spec, lake, day, options.user_days)
    names: list[str] = sorted(filter(None, {choice.model, choice.towers, *choice.shown}))
    inputs = [
        *((stage, other) for other in sorted({*days, *window_days(spec, lake, day)})),
        *((FEATURE_TABLES, other) for other in feature_table_days(spec, lake, day)),
        *((exported_models(name), day) for name in names),
        *([(CANDIDATE_INDEX, ranker)] if ranker else []),
        *([(EVALUATION_REPORTS, day)] if lake.has(EVALUATION_REPORTS, spec.name, day) else []),
    ]
    lineage = lake.lineage(spec.name, inputs)
    users, began = users_of(spec, lake, days, runner), time.perf_counter()
    batch = BatchRun(spec, day, str(lake.root), str(logs), options, uuid.uuid4().hex)
    with lake.write(BATCH_RECOMMENDATIONS, spec.name, day) as staging:
        tasks = []
        for number, first in enumerate(range(0, max(1, len(users)), users_per_part)):
            name = f"part-{number:05d}.parquet"
            held = staging / "scratch" / name
            write_table(pa.table({USER: users.slice(first, users_per_part)}), held)
            tasks.append(Task(batch, str(held), str(staging / "rows" / name)))
        try:
            done = runner.map(recommend_part, tasks)
        finally:
            release()
        (staging / "scratch").fs.rm((staging / "scratch").path, recursive=True)
        models = sum((part.models for part in done), Counter[str]())
        result = RecommendedDay(
            folder=lake.partition(BATCH_RECOMMENDATIONS, spec.name, day),
            users=len(users),
            rows=sum(part.rows for part in done),
            live_items=done[0].live,
            candidates=sum(part.candidates for part in done) / max(1, len(users)),
            models=dict(sorted(models.items())),
            seconds=time.perf_counter() - began,
        )
        about = {
            "rows": result.rows,
            "parts": len(done),
            "users": result.users,
            "options": asdict(options),
            "live_items": result.live_items,
            "candidates": result.candidates,
            "models": result.models,
            "fingerprint": spec.fingerprint,
        }
        lake.write_manifest(staging, about | lineage)
    return result
