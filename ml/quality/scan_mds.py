"""Measures a day of MDS data. Every block of every split is read once, as a training reader reads it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ml.catalog.spec import DatasetSpec
from ml.datasets.rows import Rows
from ml.datasets.shards import Bytes, read_columns, shards_of
from ml.datasets.splits import SPLITS
from ml.days import day_bounds
from ml.features.column_profile import ColumnProfile, number_profile
from ml.lake import Lake
from ml.quality.content import content_of
from ml.quality.histogram import Histogram, histogram_of
from ml.quality.profile import Profile
from ml.schema import EVENT_TIME, LABEL, SAMPLE_RATE, SAMPLE_WEIGHT, FeatureSchema
from ml.stages import MDS_DATASETS


def scan_mds(spec: DatasetSpec, day: str, lake: Lake) -> Profile:
    """Measures a day's splits.

    Data with another fingerprint cannot be decoded: its profile has no rows and no columns, only the manifest.

    Args:
        spec: The dataset.
        day: `YYYY-MM-DD`.
        lake: Where the data is stored.

    Returns:
        The profile of all splits together.

    Raises:
        MissingPartition: The day's data is not in the lake.
        CorruptShard: A file does not match its index; the message names it.
    """
    manifest = lake.manifest(MDS_DATASETS, spec.name, day)
    if not lake.is_current(MDS_DATASETS, spec.name, day, spec.fingerprint):
        return Profile(rows=0, columns={}, manifest=manifest)
    first, after = day_bounds(day, spec.zone)
    schema = FeatureSchema.of(spec)
    columns: dict[str, ColumnProfile] = {}
    histograms: dict[str, Histogram] = {}
    splits: dict[str, int] = dict.fromkeys(SPLITS, 0)
    positives = bad_labels = outside = content = 0
    scratch: dict[str, Bytes] = {}
    for split in SPLITS:
        for shard in shards_of(lake, spec, day, split):
            rows = Rows.from_bytes(read_columns([shard], scratch), schema)
            splits[split] += len(rows)
            ones = int(np.count_nonzero(rows.label == 1))
            positives += ones
            bad_labels += len(rows) - ones - int(np.count_nonzero(rows.label == 0))
            outside += int(np.count_nonzero((rows.event_time < first) | (rows.event_time >= after)))
            content = (content + _content(rows, schema)) % 2**64
            for name, profile in _columns(rows, schema).items():
                columns[name] = columns[name] + profile if name in columns else profile
            for name, found in _histograms(rows, schema).items():
                histograms[name] = histograms[name] + found if name in histograms else found
    return Profile(
        rows=sum(splits.values()),
        columns=columns,
        histograms=histograms,
        positives=positives,
        bad_labels=bad_labels,
        outside_day=outside,
        splits=splits,
        content=content,
        manifest=manifest,
    )


def _columns(rows: Rows, schema: FeatureSchema) -> dict[str, ColumnProfile]:
    found = {name: rows.dense[:, i] for i, name in enumerate(schema.dense)}
    found |= {name: rows.further[:, i] for i, name in enumerate(schema.further_columns)}
    found |= {SAMPLE_WEIGHT: rows.weight[:, 0]} if schema.weighted else {}
    found |= {LABEL: rows.label, SAMPLE_RATE: rows.sample_rate, EVENT_TIME: rows.event_time}
    return {name: number_profile(values.dtype.name, values) for name, values in found.items()}


def _histograms(rows: Rows, schema: FeatureSchema) -> dict[str, Histogram]:
    found = {name: histogram_of(rows.single[:, i]) for i, name in enumerate(schema.single)}
    return found | {name: histogram_of(values) for name, values in _multi(rows, schema)}


def _multi(rows: Rows, schema: FeatureSchema) -> Iterator[tuple[str, npt.NDArray[np.int64]]]:
    """Ids of each multi-valued feature, row after row."""
    feature = np.repeat(np.tile(np.arange(len(schema.multi)), len(rows)), rows.multi_lengths.ravel())
    return ((name, rows.multi_values[feature == i]) for i, name in enumerate(schema.multi))


def _content(rows: Rows, schema: FeatureSchema) -> int:
    columns: list[tuple[str, npt.NDArray[Any], npt.NDArray[Any] | None]] = [
        (EVENT_TIME, rows.event_time, None),
        (LABEL, rows.label, None),
        (SAMPLE_RATE, rows.sample_rate, None),
        *((name, rows.further[:, i], None) for i, name in enumerate(schema.further_columns)),
        *(((SAMPLE_WEIGHT, rows.weight[:, 0], None),) if schema.weighted else ()),
    ]
    columns += [(name, rows.dense[:, i], None) for i, name in enumerate(schema.dense)]
    columns += [(name, rows.single[:, i], None) for i, name in enumerate(schema.single)]
    columns += [(name, values, rows.multi_lengths[:, i]) for i, (name, values) in enumerate(_multi(rows, schema))]
    return content_of(len(rows), columns)
