"""Splits days of a dataset into two streams of files, with the catalog entry that joins them again and the truth.

The rows are those of `raw_logs`, with the sampled negatives of a log of positives. They are read in event-time order, one task
of rows at a time; memory holds a task, and the events that have happened and not yet arrived.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from numpy.typing import NDArray

from ml.catalog.labels import MAIN
from ml.catalog.spec import DatasetSpec
from ml.days import MICROSECONDS_PER_HOUR, MICROSECONDS_PER_MINUTE, day_bounds
from ml.features.clean_task import earlier_days, expand_rows
from ml.features.point_in_time.negatives import Events
from ml.features.transforms import SAMPLED_LABEL
from ml.hashing import derive_seed, mix64_array
from ml.joiner.split.arrivals import Arrivals, Stream
from ml.joiner.split.entry import ACTIONS, IMPRESSIONS, impression_columns, key_of, label_names, source_columns, stream_entry
from ml.joiner.split.events import ACTION, AT, POSITION, REQUEST, SHOWN_AT, Clock, split_rows, truth_column
from ml.joiner.split.options import SplitOptions
from ml.lake import Lake
from ml.logs.labels import POSITIVE, label_codes
from ml.logs.read import raw_parts
from ml.parquet import read_parquet
from ml.schema import EVENT_TIME

TRUTH = "truth.parquet"
BLOCK_ROWS = 65_536
WRONG_CLOCK = 6 * MICROSECONDS_PER_MINUTE
"""How long clocks are wrong on each day, if they are."""


@dataclass(frozen=True)
class Split:
    """Counts of what was written.

    Attributes:
        rows: Number of joined rows.
        lines: Lines of each stream.
        corrupt: Corrupt lines of each stream.
        files: Files of each stream.
        impressions: Number of joined rows by outcome of their impression.
        actions: Number of joined rows by outcome of their action, summed over the types of actions.
    """

    rows: int
    lines: dict[str, int]
    corrupt: dict[str, int]
    files: dict[str, int]
    impressions: dict[str, int]
    actions: dict[str, int]


def split_days(
    spec: DatasetSpec, days: Sequence[str], lake: Lake, out: Path, name: str, options: SplitOptions, speed: float = 0.0
) -> Split:
    """Splits consecutive days of a dataset.

    Args:
        spec: The dataset.
        days: Partition keys, in order. The lake has their `raw_logs`, and those of earlier days that negatives are drawn from.
        lake: The lake.
        out: A folder that does not exist or is empty: `impressions/` and `actions/` (JSON lines), `<name>.yaml` (the entry),
            `truth.parquet` (`SplitRows.truth`) and `split.json` (the result).
        name: Name of the new dataset.
        options: Delays and faults.
        speed: Seconds of the log that are written in a second; 0 for as fast as possible.

    Raises:
        FileExistsError: The folder is not empty.
        MissingPartition: A day has not been ingested.
        ValueError: The dataset has two logs already, a column with a name that the streams use, or a label in a side table; or
            the catalog would refuse the entry.
    """
    if spec.actions is not None:
        raise ValueError(f"{spec.name} has a log of actions already; split a dataset with one log")
    if out.exists() and any(out.iterdir()):
        raise FileExistsError(f"{out}: not empty; name a new folder")
    days = list(days)
    columns, key = impression_columns(spec), key_of(spec)
    entry = stream_entry(spec, name, days, options)
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.yaml").write_text(yaml.safe_dump(entry, sort_keys=False, allow_unicode=True))
    streams = {
        kind: Stream(out / kind, REQUEST, time, np.random.default_rng(derive_seed(options.seed, "corrupt", kind)))
        for kind, time in ((IMPRESSIONS, SHOWN_AT), (ACTIONS, AT))
    }
    arrivals = Arrivals(tuple(streams.values()), options.file_span, speed)
    shown, acted, rows = Counter[str](), Counter[str](), 0
    writer: pq.ParquetWriter | None = None
    try:
        for day in days:
            clock = _clock(spec, entry["partitions"], day, options)
            for number, block in enumerate(_blocks(spec, day, lake)):
                times = block[EVENT_TIME].to_numpy()
                arrivals.write(int(times[0]))
                rng = np.random.default_rng(derive_seed(options.seed, "split", day, number))
                block, positive = _keyed(spec, block, rows, options.seed, rng)
                own = block.select([column for column in columns if column != SHOWN_AT])
                found = split_rows(own, times, positive, key, clock, options, rng)
                streams[IMPRESSIONS].add(found.impressions)
                streams[ACTIONS].add(found.actions)
                writer = writer or pq.ParquetWriter(out / TRUTH, found.truth.schema, compression="zstd")
                writer.write_table(found.truth)
                shown.update(_counts(found.truth["impression"]))
                for kind in positive:
                    acted.update(_counts(found.truth[truth_column("action", kind)]))
                rows += len(block)
        arrivals.write(None)
    finally:
        if writer is not None:
            writer.close()
    result = Split(
        rows,
        {kind: stream.lines for kind, stream in streams.items()},
        {kind: stream.corrupt for kind, stream in streams.items()},
        {kind: stream.files for kind, stream in streams.items()},
        dict(shown),
        dict(acted),
    )
    (out / "split.json").write_text(json.dumps(vars(result), indent=1))
    return result


def _clock(spec: DatasetSpec, partitions: dict[str, str], day: str, options: SplitOptions) -> Clock:
    """The clocks of a day. If they are wrong, they are from an instant in the middle half of the day."""
    first, after = day_bounds(partitions["start"], spec.zone)[0], day_bounds(partitions["end"], spec.zone)[1]
    if not options.clock_jump:
        return Clock(first, after)
    begin, end = day_bounds(day, spec.zone)
    share = np.random.default_rng(derive_seed(options.seed, "clock", day)).uniform(0.25, 0.75)
    since = begin + int((end - begin) * share)
    return Clock(first, after, since, since + WRONG_CLOCK, options.clock_jump)


def _blocks(spec: DatasetSpec, day: str, lake: Lake) -> Iterator[pa.Table]:
    """Yields the joined rows of a day in time order: with negatives, `SAMPLED_LABEL` and trailing counts, if there are any."""
    columns = source_columns(spec)
    parts = raw_parts(lake, spec.name, day)
    negatives, before = spec.label.negatives, 0
    events: Events | None = None
    if negatives and spec.user and spec.item:
        needed = [EVENT_TIME, *dict.fromkeys((spec.user, spec.item))]
        today = pa.concat_tables([read_parquet(part, needed) for part in parts])
        since = today[EVENT_TIME].to_numpy()[:1] - round(negatives.look_back_hours * MICROSECONDS_PER_HOUR)
        earlier = [read_parquet(p, needed) for d in earlier_days(spec, day) for p in raw_parts(lake, spec.name, d)]
        kept = [table.filter(pa.array(table[EVENT_TIME].to_numpy() >= since)) for table in earlier if len(since)]
        before = sum(map(len, kept))
        events = Events.of(pa.concat_tables([*kept, today]), spec.user, spec.item) if len(today) else None
    number = 0
    for part in parts:
        groups = pq.ParquetFile(str(part)).num_row_groups
        for group in range(groups):
            rows = read_parquet(part, columns, range(group, group + 1))
            for start in range(0, len(rows), BLOCK_ROWS):
                block = rows.slice(start, BLOCK_ROWS)
                if negatives and events:
                    yield expand_rows(block, spec, day, events, before + number, number)[0]
                elif len(block):
                    yield block
                number += len(block)


def _keyed(
    spec: DatasetSpec, block: pa.Table, first: int, seed: int, rng: np.random.Generator
) -> tuple[pa.Table, dict[str, NDArray[np.bool_]]]:
    """Adds the columns of the key to joined rows, and returns which rows are positive, bool [N] by type of actions."""
    n = len(block)
    positive = _positive(spec, block)
    is_main = positive[ACTION]
    # A request of a log with negatives begins with its positive.
    request = np.cumsum(is_main) - 1 if spec.label.negatives else np.arange(n)
    numbers = (request + first).astype(np.uint64) + np.uint64(derive_seed(seed, "requests"))
    block = block.append_column(REQUEST, pa.array(mix64_array(numbers).view(np.int64)))
    if spec.label.negatives:
        starts = np.flatnonzero(is_main)
        order = np.lexsort((rng.random(n), request))  # a random order of the items of each request
        position = np.empty(n, np.int64)
        position[order] = np.arange(n) - starts[request]
        block = block.append_column(POSITION, pa.array(position))
    return block, positive


def _positive(spec: DatasetSpec, block: pa.Table) -> dict[str, NDArray[np.bool_]]:
    if spec.label.negatives:
        return {ACTION: block[SAMPLED_LABEL].to_numpy() > 0}
    names = label_names(spec)
    return {
        ACTION if rule.name == MAIN else names[rule.name]: label_codes(block[rule.column], rule) == POSITIVE
        for rule in spec.label_rules
    }


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    return {str(one["values"]): int(one["counts"]) for one in column.value_counts().to_pylist()}
