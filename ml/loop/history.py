"""The landing files of a loop: the simulated days before it, and the days that the service has stored.

Files of both logs are `<landing>/<log>/<day>-<part>.parquet` with the columns of the catalog entry.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from upath import UPath

from ml.catalog.log_spec import LogSpec
from ml.catalog.spec import DatasetSpec
from ml.days import MICROSECONDS_PER_MINUTE, day_bounds
from ml.logs.arriving import arriving_files
from ml.logs.ingest_task import raw_schema
from ml.loop.entry import ITEM, REQUEST, USER
from ml.loop.population import MICROSECONDS_PER_DAY, Population, user_id
from ml.loop.settings import DELAY_MINUTES, Settings
from ml.parquet import read_parquet, replace_table
from ml.schema import EVENT_TIME

IMPRESSIONS, ACTIONS = "impressions", "actions"
HISTORY, SERVED = "history", "served"


def write_history(settings: Settings, spec: DatasetSpec, landing: Path) -> None:
    """Simulate the days before a loop. Each request shows items at random, so that the first model knows them all.

    Args:
        settings: The population, and the number of days and requests.
        spec: The dataset.
        landing: Its landing folder.
    """
    population, everyone = Population(settings), np.arange(settings.users)
    actions: defaultdict[str, list[dict[str, object]]] = defaultdict(list)
    for number, day in enumerate(settings.history):
        rng = np.random.default_rng([settings.seed, number])
        start = day_bounds(day, UTC)[0]
        impressions = []
        for request, time in enumerate(np.sort(rng.integers(0, MICROSECONDS_PER_DAY, settings.history_requests)).tolist()):
            time += start
            users, devices = population.draw_visits(time, everyone, 1, rng)
            user, device = int(users[0]), int(devices[0])
            items = rng.choice(len(population.item_ids), settings.shown, replace=False)
            name, columns = f"{day}-{request}", population.item_columns(items)
            row = {"shown_at": time, REQUEST: name, USER: user_id(user), **population.context_of(user, device)}
            for at, item in enumerate(population.item_ids[items].tolist()):
                impressions.append({**row, ITEM: item, **{column: values[at] for column, values in columns.items()}})
            clicked = rng.random(len(items)) < population.click_chances(time, user, device)[items]
            for item in population.item_ids[items[clicked]].tolist():
                acted = time + round(rng.exponential(DELAY_MINUTES) * MICROSECONDS_PER_MINUTE)
                actions[_day_of(acted)].append({"at": acted, REQUEST: name, ITEM: item})
        _write(spec.log, impressions, landing / IMPRESSIONS / f"{day}-{HISTORY}.parquet")
    assert spec.actions_log is not None
    for day, rows in actions.items():
        _write(spec.actions_log, rows, landing / ACTIONS / f"{day}-{HISTORY}.parquet")


def land_served(spec: DatasetSpec, stream: UPath, landing: Path, day: str) -> int:
    """Write what the service has stored of a day to the landing folder.

    Args:
        spec: The dataset.
        stream: The folder of arriving events.
        landing: The landing folder of the dataset.
        day: `YYYY-MM-DD`.

    Returns:
        Number of impressions. Nothing is written of a log that has no rows of the day.
    """
    assert spec.actions_log is not None
    first, end = day_bounds(day, UTC)
    counts = []
    for name, log in ((IMPRESSIONS, spec.log), (ACTIONS, spec.actions_log)):
        columns = list(log.source.columns)
        empty = raw_schema(log).empty_table()
        held = [read_parquet(stream / name / file) for file in arriving_files(stream / name)]
        rows = pa.concat_tables([empty, *(of.cast(empty.schema) for of in held)])
        rows = rows.filter((pc.field(EVENT_TIME) >= first) & (pc.field(EVENT_TIME) < end)).sort_by(EVENT_TIME)
        counts.append(len(rows))
        if len(rows):
            replace_table(rows.select(columns), landing / name / f"{day}-{SERVED}.parquet")
    return counts[0]


def _write(log: LogSpec, rows: list[dict[str, object]], file: Path) -> None:
    schema = pa.schema([field for field in raw_schema(log) if field.name != EVENT_TIME])
    replace_table(pa.Table.from_pylist(rows, schema), file)


def _day_of(time: int) -> str:
    return datetime.fromtimestamp(time / 1e6, UTC).date().isoformat()
