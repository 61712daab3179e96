"""The built-in log: landing files of a SIMULATED dataset, whose true click probabilities are known. No person is in it.

A day is drawn from the world of `ml.logs.synthetic.impressions`, hour by hour, from (seed, day) alone: the same settings give
the same bytes, in whatever order days are written. Values go missing as they do in real logs, and a few lines are
damaged on purpose, in the ways of `ml.logs.synthetic.corrupt`. Reading the files is the business of the loaders of this room.
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
from ml.logs.synthetic.corrupt import damage_lines
from ml.logs.synthetic.impressions import Impressions, draw_hour
from ml.logs.synthetic.population import CATEGORIES, COUNTRIES, DEVICES, Items, Stream, Users, World, generator

GENERATOR = 1  # grows whenever the same settings would give other bytes
COLUMNS = ("time", "user_id", "item_id", "category", "country", "device", "user_age", "item_age_hours", "price", "tags",
           "clicked", "true_probability")  # fmt: skip
MISSING = {"category": 0.01, "country": 0.02, "device": 0.01, "price": 0.05}  # shares of impressions
HOURS = np.arange(24)
VOLUME = 1.0 + 0.45 * np.cos(2 * np.pi * (HOURS - 20) / 24) + 0.2 * np.cos(4 * np.pi * (HOURS - 12) / 24)


@dataclass(frozen=True)
class SimulatedDay:
    """What a landing file holds. `rows` are its well-formed lines; `written` is false where it was already there."""

    path: Path
    day: str
    rows: int
    malformed: int
    clicks: int
    true_probability: float  # mean over the well-formed lines
    written: bool


def write_day(log: LogSpec, day: str, folder: Path) -> SimulatedDay:
    """Write `<folder>/<YYYY-MM-DD>.csv`, aside and then renamed, unless a file of the same settings is there already.

    Settings and counts lie beside it in `.<YYYY-MM-DD>.csv.json`. Raises `ValueError` for a log that is not of the
    built-in log's shape or a day that is none, and `FileExistsError` where the file there was not written by this
    function: another's log is never overwritten.
    """
    simulation, when = _simulation(log), date.fromisoformat(day)
    path = folder / f"{when.isoformat()}.csv"
    facts_path = folder / f".{path.name}.json"
    settings = {"generator": GENERATOR, "day": day, **simulation.model_dump(mode="json")}
    if path.exists():
        if not facts_path.exists():
            raise FileExistsError(f"{path}: not written by the simulation; move it away, or let another dataset read it")
        kept = json.loads(facts_path.read_text())
        if kept["settings"] == settings:
            return SimulatedDay(path=path, day=day, written=False, **kept["facts"])
        path.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f".{path.name}.part"
    with aside.open("wb") as file:
        facts = _write_lines(file, simulation, (when - date(1970, 1, 1)).days)
        file.flush()
        os.fsync(file.fileno())
    # The record first: a file without one is taken for somebody else's, a record without a file is simply written again.
    facts_path.write_text(json.dumps({"settings": settings, "facts": facts}, indent=1))
    aside.rename(path)
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
        rng = generator(seed, Stream.DAMAGE, day, hour)
        text = _csv(_table(impressions, users, items, rng))
        text, damaged = damage_lines(text, simulation.malformed_rate, rng)
        file.write(text)
        whole = ~damaged
        rows += int(whole.sum())
        malformed += int(damaged.sum())
        clicks += int(impressions.clicked[whole].sum())
        probability += float(impressions.probability[whole].sum())
    return {"rows": rows, "malformed": malformed, "clicks": clicks, "true_probability": probability / max(rows, 1)}


def _table(shown: Impressions, users: Users, items: Items, rng: np.random.Generator) -> pa.Table:
    """[N] impressions as the log's columns; missing values are nulls."""
    n = len(shown.time_ms)
    lost = {name: rng.random(n) < share for name, share in MISSING.items()}
    told_age = users.told_age[shown.user]

    def named(names: tuple[str, ...], index: np.ndarray, column: str) -> pa.Array:
        return pa.array(names).take(pa.array(index, mask=lost[column]))

    columns = {
        "time": shown.time_ms,
        "user_id": shown.user + 1,
        "item_id": items.id[shown.item],
        "category": named(CATEGORIES, items.category[shown.item], "category"),
        "country": named(COUNTRIES, users.country[shown.user], "country"),
        "device": named(DEVICES, shown.device, "device"),
        "user_age": pa.array(told_age, mask=np.isnan(told_age)),
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
    """The log's simulation. Raises `ValueError` where its source is not the file that is written here."""
    if log.simulation is None:
        raise ValueError(f"{log.dataset}: simulation: absent, so this dataset's landing files are its owner's")
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
            raise ValueError(f"{log.dataset}: {key}: the simulation writes {written!r}, the catalog says {found!r}")
    return log.simulation
