"""Writes the landing files of the built-in SIMULATED dataset, whose true click probabilities are known. It has no real users.

Each hour of a day is drawn by `ml.logs.synthetic.impressions` from (seed, day) alone: the same settings give the same bytes,
in whatever order days are written. Some values are missing, as in real logs, and a few lines are corrupted on purpose by
`ml.logs.synthetic.corrupt`. The files are read like those of any other log.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from ml.catalog.log_spec import LogSpec
from ml.catalog.reading import Simulation
from ml.logs.synthetic.corrupt import corrupt_lines
from ml.logs.synthetic.impressions import Impressions, draw_hour
from ml.logs.synthetic.population import CATEGORIES, COUNTRIES, DEVICES, Items, Stream, Users, World, generator

GENERATOR = 1  # version; increase it when the same settings give other bytes
COLUMNS = ("time", "user_id", "item_id", "category", "country", "device", "user_age", "item_age_hours", "price", "tags",
           "clicked", "true_probability")  # fmt: skip
MISSING = {"category": 0.01, "country": 0.02, "device": 0.01, "price": 0.05}  # share of impressions without a value
HOURS = np.arange(24)
VOLUME = 1.0 + 0.45 * np.cos(2 * np.pi * (HOURS - 20) / 24) + 0.2 * np.cos(4 * np.pi * (HOURS - 12) / 24)


@dataclass(frozen=True)
class SimulatedDay:
    """What a landing file holds.

    Attributes:
        path: The file.
        day: The partition key.
        rows: Well-formed lines.
        malformed: Lines that were corrupted on purpose.
        clicks: Clicks among the well-formed lines.
        true_probability: Mean click probability of the well-formed lines.
        written: False if the file was already there.
    """

    path: Path
    day: str
    rows: int
    malformed: int
    clicks: int
    true_probability: float
    written: bool


def write_day(log: LogSpec, day: str, folder: Path) -> SimulatedDay:
    """Writes `<folder>/<YYYY-MM-DD>.csv`, unless a file of the same settings is already there.

    The file is written beside its place and then renamed. Its settings and counts are kept in `.<YYYY-MM-DD>.csv.json`.

    Args:
        log: A log with `simulation`, of the same form as the built-in one.
        day: The partition key.
        folder: The landing folder.

    Raises:
        ValueError: The log does not have the form of the built-in one, or `day` is not a date.
        FileExistsError: The file there was not written by this function; files of others are never overwritten.
    """
    simulation, when = _simulation(log), date.fromisoformat(day)
    path = folder / f"{when.isoformat()}.csv"
    record_path = folder / f".{path.name}.json"
    settings = {"generator": GENERATOR, "day": day, **simulation.model_dump(mode="json")}
    if path.exists():
        if not record_path.exists():
            raise FileExistsError(
                f"{path}: this file was not written by the simulation, which does not overwrite it; move it away, or declare a "
                f"dataset without `simulation` to read it"
            )
        kept = json.loads(record_path.read_text())
        if kept["settings"] == settings:
            return SimulatedDay(path=path, day=day, written=False, **kept["facts"])
        path.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    staged = folder / f".{path.name}.part"
    with staged.open("wb") as file:
        facts = _write_lines(file, simulation, (when - date(1970, 1, 1)).days)
        file.flush()
        os.fsync(file.fileno())
    # The record first: a file without a record counts as foreign, a record without a file is written again.
    record_path.write_text(json.dumps({"settings": settings, "facts": facts}, indent=1))
    staged.rename(path)
    return SimulatedDay(path=path, day=day, written=True, **facts)


def _write_lines(file: BinaryIO, simulation: Simulation, day: int) -> dict[str, Any]:
    seed = simulation.seed
    world, users = World.of(seed), Users.of(seed, simulation.users)
    items = Items.alive_on(world, seed, simulation.items, day)
    ends = np.round(np.cumsum(VOLUME) / VOLUME.sum() * simulation.impressions_per_day).astype(np.int64)
    rows = malformed = clicks = 0
    probability = 0.0
    file.write((",".join(COLUMNS) + "\n").encode())
    for hour, count in enumerate(np.diff(ends, prepend=0).tolist()):
        if not count:
            continue
        impressions = draw_hour(world, users, items, seed, day, hour, count)
        rng = generator(seed, Stream.CORRUPTION, day, hour)
        text = _csv(_table(impressions, users, items, rng))
        text, corrupt = corrupt_lines(text, simulation.malformed_rate, rng)
        file.write(text)
        whole = ~corrupt
        rows += int(whole.sum())
        malformed += int(corrupt.sum())
        clicks += int(impressions.clicked[whole].sum())
        probability += float(impressions.probability[whole].sum())
    return {"rows": rows, "malformed": malformed, "clicks": clicks, "true_probability": probability / max(rows, 1)}


def _table(shown: Impressions, users: Users, items: Items, rng: np.random.Generator) -> pa.Table:
    """The log's columns of N impressions, with nulls for missing values."""
    n = len(shown.time_ms)
    lost = {name: rng.random(n) < share for name, share in MISSING.items()}
    reported_age = users.reported_age[shown.user]

    def named(names: tuple[str, ...], index: np.ndarray, column: str) -> pa.Array:
        return pa.array(names).take(pa.array(index, mask=lost[column]))

    columns = {
        "time": shown.time_ms,
        "user_id": shown.user + 1,
        "item_id": items.id[shown.item],
        "category": named(CATEGORIES, items.category[shown.item], "category"),
        "country": named(COUNTRIES, users.country[shown.user], "country"),
        "device": named(DEVICES, shown.device, "device"),
        "user_age": pa.array(reported_age, mask=np.isnan(reported_age)),
        "item_age_hours": shown.item_age_hours,
        "price": pa.array(items.price[shown.item], mask=lost["price"]),
        "tags": pa.array(items.tags).take(pa.array(shown.item)),
        "clicked": shown.clicked.astype(np.int8),
        "true_probability": shown.probability,
    }
    return pa.table({name: columns[name] for name in COLUMNS})


def _csv(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pacsv.write_csv(table, sink, pacsv.WriteOptions(include_header=False, quoting_style="none"))
    return sink.getvalue().to_pybytes()


def _simulation(log: LogSpec) -> Simulation:
    """The log's simulation. Raises `ValueError` if the log reads other files than the simulation writes."""
    if log.simulation is None:
        raise ValueError(
            f"{log.dataset}: simulation: missing in the catalog entry, so landing files of this dataset are not simulated"
        )
    fixed = {
        "source.files": (log.source.files, "%Y-%m-%d.csv"),
        "source.format": (log.source.format, "csv"),
        "source.header": (log.source.header, True),
        "source.columns": (tuple(log.source.columns), COLUMNS),
        "source.delimiter": (log.source.delimiter, ","),
        "source.null_tokens": ("" in log.source.null_tokens, True),
        "time.unit": (log.time.unit, "ms"),
        "time.timezone": (log.time.timezone, "UTC"),
    }
    for key, (found, written) in fixed.items():
        if found != written:
            raise ValueError(
                f"{log.dataset}: {key}: the simulation writes {written!r}, but the catalog has {found!r}; correct the entry"
            )
    return log.simulation
