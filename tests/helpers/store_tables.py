"""Feature tables with every kind of value, and random events for them, for tests of the online store."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from ml.catalog.feature_tables import FeatureTable
from ml.catalog.reading import ColumnType
from ml.catalog.spec import DatasetSpec
from ml.features.online_store.plan import StorePlan
from ml.schema import ARROW_TYPES, EVENT_TIME

TYPES: dict[str, ColumnType] = {
    "item": "int",
    "user": "string",
    "clicked": "int",
    "price": "float",
    "word": "string",
}
MINUTE = 60_000_000

ITEM = FeatureTable.model_validate(
    {
        "name": "item",
        "entity": ["item"],
        "values": [
            {"name": "seen_1h", "count": {"hours": 1}},
            {"name": "seen_6h", "count": {"hours": 6}},
            {"name": "ctr", "rate": {"column": "clicked", "hours": 6, "prior": 0.05, "strength": 20}},
            {"name": "dear", "rate": {"column": "price", "at_least": 2, "hours": 1, "prior": 0.5, "strength": 2}},
            {"name": "idle", "recency": {"hours": 2}},
            {"name": "last_words", "last": {"column": "word", "most": 3, "hours": 6}},
            {"name": "last_prices", "last": {"column": "price", "most": 70, "hours": 6}},
            {"name": "together", "covisitation": {"session": "user", "context": 3, "hours": 3, "strength": 2}},
        ],
    }
)
CROSS = FeatureTable.model_validate(
    {
        "name": "user_item",
        "entity": ["user", "item"],
        "where": {"column": "clicked", "equals": 1},
        "known_after_minutes": 30,
        "values": [
            {"name": "clicks", "count": {"hours": 3}},
            {"name": "since", "recency": {"hours": 6}},
            {"name": "recent", "last": {"column": "item", "most": 2, "hours": 6}},
        ],
    }
)
KNOWN_LATER = ITEM.model_copy(
    update={
        "name": "known_later",
        "known_after_minutes": 45.0,
        "values": tuple(value.model_copy(update={"name": f"later_{value.name}"}) for value in ITEM.values),
    }
)
TABLES = [ITEM, CROSS, KNOWN_LATER]


def plan_of(tables: Sequence[FeatureTable], **entry: object) -> StorePlan:
    """Plan the store of a catalog entry with these tables."""
    spec = {
        "name": "shop",
        "description": "Events of tests.",
        "source": {"files": "*.parquet", "format": "parquet", "columns": {"at": "int", **TYPES}},
        "time": {"column": "at", "unit": "us"},
        "partitions": {"start": "1970-01-01", "end": "1970-01-03"},
        "label": {"column": "clicked"},
        "sparse": ["item"],
        "feature_tables": [table.model_dump(mode="json") for table in tables],
        **entry,
    }
    return StorePlan.of(DatasetSpec.model_validate(spec))


def random_events(
    n: int, seed: int, *, items: int = 4, users: int = 5, hours: float = 8, missing: float = 0.1, first: int = 0
) -> pa.Table:
    """N rows in time order, some at the same instant, with missing values in all columns but the time."""
    rng = np.random.default_rng(seed)
    minutes = np.sort(rng.integers(0, round(hours * 60), n))
    times = minutes * MINUTE + rng.integers(0, 2, n) * (rng.random(n) < 0.3) + first
    columns = {
        "item": (rng.zipf(1.5, n) % items).tolist(),
        "user": [f"u{user}" for user in rng.integers(0, users, n)],
        "clicked": rng.integers(0, 2, n).tolist(),
        "price": rng.integers(0, 5, n).astype(float).tolist(),
        "word": [f"w{word}" for word in rng.integers(0, 9, n)],
    }
    arrays = {
        name: pa.array([None if rng.random() < missing else value for value in values], ARROW_TYPES[TYPES[name]])
        for name, values in columns.items()
    }
    return pa.table({EVENT_TIME: pa.array(np.sort(times)), **arrays})
