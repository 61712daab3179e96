"""A dataset with two logs, impressions and actions, as a catalog entry."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ml.catalog.spec import DatasetSpec
from ml.days import day_bounds
from ml.logs.ingest_task import raw_schema

ENTRY: dict[str, Any] = {
    "name": "feed",
    "description": "Impressions of a feed, and what users did.",
    "source": {
        "files": "impressions-%Y-%m-%d.jsonl",
        "format": "jsonl",
        "columns": {
            "shown_at": "int",
            "request": "string",
            "item": "int",
            "user": "int",
            "price": "float",
            "tags": "list<string>",
        },
    },
    "time": {"column": "shown_at", "unit": "ms"},
    "partitions": {"start": "2026-03-01", "end": "2026-03-03"},
    "actions": {
        "source": {
            "files": "actions-%Y-%m-%d.jsonl",
            "format": "jsonl",
            "columns": {"at": "int", "request": "string", "item": "int", "kind": "string"},
        },
        "time": {"column": "at", "unit": "ms"},
        "key": ["request", "item"],
        "type": "kind",
        "lateness_minutes": 10,
        "labels": {
            "clicked": {"types": ["click"], "within_minutes": 30},
            "bought": {"types": ["buy", "order"], "within_hours": 2},
        },
    },
    "label": {"column": "clicked"},
    "user": "user",
    "item": "item",
    "dense": ["price"],
    "sparse": ["user", "item"],
}


def feed_entry(**changes: Any) -> dict[str, Any]:
    """Returns the entry with some keys replaced; a dict replaces keys of a dict, and None removes a key."""
    return _changed(ENTRY, changes)


def feed(**changes: Any) -> DatasetSpec:
    """Returns the dataset, with some keys replaced as by `feed_entry`."""
    return DatasetSpec.model_validate(feed_entry(**changes))


def _changed(entry: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    found = copy.deepcopy(entry)
    for key, value in changes.items():
        if value is None:
            found.pop(key, None)
        else:
            found[key] = _changed(found.get(key) or {}, value) if isinstance(value, dict) else value
    return found


START = 1_772_323_200_000_000  # 2026-03-01, in microseconds
MINUTE = 60_000_000
TAGS = (None, [], ["a"], ["a", "b"], ["b"], [None])


def drawn(draw: random.Random, impressions: int, minutes: int) -> tuple[pa.Table, pa.Table]:
    """Returns the impressions and actions of some minutes from 2026-03-01 on, in no order, with every kind of irregularity.

    Some impressions are repeated at the same or a later instant, with equal or other values. Some actions are repeated, belong
    to no impression, are before it or after the wait, or have a type of no label. Some keys are missing.
    """
    shown, done = [], []
    for n in range(impressions):
        at = START + draw.randrange(minutes * 60) * 1_000_000
        row = {"event_time": at, "shown_at": at // 1000, "request": f"r{n // 3}", "item": n % 3, "user": n % 50, "price": 1.5}
        row |= {"price": draw.choice([1.5, None, draw.random()]), "tags": draw.choice(TAGS)}
        shown.append(row)
        for _ in range(draw.choice([0] * 12 + [1, 2])):
            later = at + draw.choice([0, 0, 1, 60, 1700, 5000, 9000]) * 1_000_000
            other = {"price": draw.choice([1.5, row["price"], 2.0]), "tags": draw.choice([row["tags"], *TAGS])}
            shown.append({**row, **other, "event_time": later, "shown_at": later // 1000})
        for _ in range(draw.choice([0, 0, 0, 1, 3])):
            then = at + draw.choice([0, 1, 59, 1799, 1800, 1801, 5000, 7199, 7200, 7300, 14_399, 20_000, -5]) * 1_000_000
            kind = draw.choice(["click", "click", "buy", "order", "hover"])
            done += [_action(then, row["request"], row["item"], kind)] * draw.choice([1, 1, 1, 2])
    for _ in range(impressions // 20):
        at = START + draw.randrange(minutes * 60) * 1_000_000
        done.append(_action(at, draw.choice(["nothing", None]), 1, "click"))
        shown.append({"event_time": at, "shown_at": at // 1000, "request": None, "item": 0, "user": 0, "price": 0.0})
    draw.shuffle(shown)
    draw.shuffle(done)
    return table_of(shown, "impressions"), table_of(done, "actions")


def _action(at: int, request: str | None, item: int, kind: str) -> dict[str, Any]:
    return {"event_time": at, "at": at // 1000, "request": request, "item": item, "kind": kind}


def table_of(rows: list[dict[str, Any]], log: str) -> pa.Table:
    """Returns rows of one of the two logs as a table of the lake's raw rows."""
    spec = feed()
    assert spec.actions_log
    return pa.Table.from_pylist(rows, schema=raw_schema(spec.log if log == "impressions" else spec.actions_log))


def land(folder: Path, impressions: pa.Table, actions: pa.Table) -> None:
    """Writes rows of `drawn` as the files of the three days of `feed`."""
    spec = feed()
    for name, table in (("impressions", impressions), ("actions", actions)):
        for day in spec.days():
            first, until = day_bounds(day, spec.zone)
            rows = table.filter((pc.field("event_time") >= first) & (pc.field("event_time") < until)).drop(["event_time"])
            text = "".join(json.dumps(row) + "\n" for row in rows.to_pylist())
            (folder / f"{name}-{day}.jsonl").write_text(text)


def arriving(root: Path, impressions: pa.Table, actions: pa.Table, draw: random.Random, files: int, late: int = 0) -> None:
    """Writes rows as files of a stream: nearly in time order, with some rows up to nine minutes after newer ones.

    Args:
        root: Folder of the stream.
        impressions: Rows of `drawn`.
        actions: Rows of `drawn`.
        draw: Source of the disorder.
        files: Number of files of each log.
        late: Number of rows of each log that arrive with the last file.
    """
    times = [t for table in (impressions, actions) for t in table["event_time"].to_pylist()]
    first, width = min(times), (max(times) - min(times)) / files + 1
    for name, table in (("impressions", impressions), ("actions", actions)):
        (root / name).mkdir(parents=True)
        contents: list[list[dict[str, Any]]] = [[] for _ in range(files)]
        rows = table.to_pylist()
        held_back = set(draw.sample(range(len(rows)), late))
        for n, row in enumerate(rows):
            arrival = row.pop("event_time") + draw.choice([0, 0, 0, draw.random() * 9 * MINUTE])
            contents[-1 if n in held_back else min(int((arrival - first) / width), files - 1)].append(row)
        for n, content in enumerate(contents):
            (root / name / f"{n:04d}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
