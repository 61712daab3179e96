"""The kiosk with feature tables of items, of users, and of pairs of items and places."""

from __future__ import annotations

from pathlib import Path

from ml.catalog.spec import DatasetSpec
from ml.features.event_days import write_event_day
from ml.lake import Lake
from tests.helpers.kiosk_lake import DAY, export, put_raw, raw_rows, spec_of

TABLES = [
    {"name": "items", "entity": ["item"], "values": [
        {"name": "seen", "count": {"hours": 24}},
        {"name": "near", "covisitation": {"session": "visit", "hours": 24, "strength": 1}},
    ]},
    {"name": "users", "entity": ["user"], "values": [
        {"name": "active", "count": {"hours": 24}},
        {"name": "last", "last": {"column": "item", "most": 3, "hours": 24}},
    ]},
    {"name": "here", "entity": ["item", "place"], "values": [{"name": "seen_here", "count": {"hours": 24}}]},
]  # fmt: skip


def table_spec() -> DatasetSpec:
    sparse = ["user", "item", "place", {"name": "history", "history": 3}, {"name": "last", "history": "last"}]
    return spec_of(feature_tables=TABLES, dense=["clicks_1h", "seen", "near", "active", "seen_here"], sparse=sparse)


def table_lake(root: Path, spec: DatasetSpec) -> Lake:
    """A lake with a day of raw logs and events, and exports of the dataset's models."""
    lake = Lake.at(root)
    put_raw(lake, spec, raw_rows())
    write_event_day(spec, DAY, lake)
    for model in spec.models:
        export(lake, spec, model)
    return lake
