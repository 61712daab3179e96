"""Small logs split into streams of impressions and actions, and what the streams hold."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.json as pa_json

from ml.catalog.spec import DatasetSpec
from ml.compute.runner import LocalRunner
from ml.days import MICROSECONDS_PER_HOUR, MICROSECONDS_PER_MINUTE
from ml.joiner.split.delays import Delays
from ml.joiner.split.options import SplitOptions
from ml.joiner.split.write import Split, split_days
from ml.lake import Lake
from ml.logs.ingest import ingest_day
from tests.helpers.small_logs import write_log

MINUTE, HOUR = MICROSECONDS_PER_MINUTE, MICROSECONDS_PER_HOUR
NAME = "again"


def small_dataset(layout: str, folder: Path, seed: int = 0, **changes: Any) -> tuple[DatasetSpec, Lake]:
    """A small log of a layout, with its first two days in a lake. `changes` replace keys of its entry."""
    logs = folder / "logs"
    logs.mkdir(parents=True)
    entry = {"name": "small", "description": "A small log.", **write_log(layout, logs, seed), **changes}
    spec, lake = DatasetSpec.model_validate(entry), Lake.at(folder / "lake")
    for day in spec.days()[:2]:
        ingest_day(spec.log, day, logs, lake, LocalRunner())
    return spec, lake


def options_of(seed: int, **changes: Any) -> SplitOptions:
    """Options drawn from a seed: one of three distributions, with delays of up to hours."""
    draw = Random(seed)
    delays = draw.choice(
        [Delays("lognormal", 20 * MINUTE, 1.5), Delays("exponential", 30 * MINUTE), Delays("uniform", 0, 2 * HOUR)]
    )
    wait = draw.choice([10 * MINUTE, HOUR])
    return SplitOptions(**{"delays": delays, "wait": wait, "longest_delay": 6 * HOUR, "seed": seed, **changes})


def split(spec: DatasetSpec, lake: Lake, out: Path, options: SplitOptions) -> Split:
    """Splits the first two days."""
    return split_days(spec, spec.days()[:2], lake, out, NAME, options)


def stream_rows(folder: Path) -> pa.Table:
    """All lines of a stream, in the order of the names of its files."""
    return pa.concat_tables([pa_json.read_json(file) for file in sorted(folder.iterdir())], promote_options="permissive")
