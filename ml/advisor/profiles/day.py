"""Writes the feature profile of a day into the lake, and reads profiles of days.

The partition `feature_profiles/<dataset>/<day>` holds the files of `ml.advisor.profiles.store`. It is measured from
`cleaned_features` of the day on Dask, one task per row group. Its bytes depend on these features and on the profile of the day
before, not on the scheduler.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import pyarrow.parquet as pq

from ml.advisor.profiles.drift import drift_between
from ml.advisor.profiles.id_counts import merge_counts
from ml.advisor.profiles.measure import Columns, Part, measure_part, measure_table
from ml.advisor.profiles.profile import FeatureProfile
from ml.advisor.profiles.sketch import SparseSketch, merge_days, merge_parts, summarise
from ml.advisor.profiles.store import read_profile, read_sketch, write_sketch
from ml.catalog.spec import DatasetSpec
from ml.compute.dask_cluster import Cluster
from ml.compute.task_graph import tree_reduce
from ml.days import day_before
from ml.features.read import check_file, feature_parts
from ml.lake import Lake
from ml.schema import arrow_schema
from ml.stages import CLEANED_FEATURES, FEATURE_PROFILES

LOCAL = Cluster()


@dataclass(frozen=True)
class ProfiledDay:
    """A written day.

    Attributes:
        profile: The profile.
        new_ids: Distinct ids of the day that the day before did not have, by sparse feature; None without a day before.
        bytes: Size of the partition.
    """

    profile: FeatureProfile
    new_ids: dict[str, int | None]
    bytes: int


def profile_day(spec: DatasetSpec, day: str, lake: Lake, cluster: Cluster = LOCAL) -> ProfiledDay:
    """Writes `feature_profiles` of a day into the lake.

    Args:
        spec: The dataset.
        day: The partition key.
        lake: Where the features are stored and the profile is written.
        cluster: Where the row groups of a large day are measured; see `Cluster.get`.

    Raises:
        MissingPartition: The day's features are not in the lake.
        StalePartition: They were made under another version of the catalog entry.
        SchedulerUnreachable: The cluster's scheduler does not answer.
        ValueError: A file is not of the feature table of the dataset.
    """
    columns = Columns.of(spec, day)
    parts, nbytes = _parts(lake, spec, day, columns)
    inputs = [(CLEANED_FEATURES, day)]
    before = None
    if lake.is_current(FEATURE_PROFILES, spec.name, day_before(day), spec.fingerprint):
        inputs.append((FEATURE_PROFILES, day_before(day)))
        before = read_sketch(lake.partition(FEATURE_PROFILES, spec.name, day_before(day)))
    made_from = lake.lineage(spec.name, inputs)
    if parts:
        leaves = [partial(measure_part, columns, part) for part in parts]
        sketch = tree_reduce(leaves, merge_parts, cluster.get(nbytes))
    else:
        sketch = measure_table(columns, arrow_schema(spec).empty_table())
    sparse = {name: replace(of, ids_by_day=(of.ids.distinct,)) for name, of in sketch.sparse.items()}
    sketch = replace(sketch, bytes=nbytes, sparse=sparse)
    profile = summarise(sketch, drift_between(sketch, before, _vocabularies(spec)))
    with lake.write(FEATURE_PROFILES, spec.name, day) as staging:
        write_sketch(sketch, profile, staging)
        files = sorted(staging.iterdir(), key=lambda path: path.name)
        digest = hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in files)).hexdigest()
        size = sum(path.stat().st_size for path in files)
        manifest = {"rows": profile.rows, "fingerprint": spec.fingerprint, "digest": digest}
        lake.write_manifest(staging, manifest | made_from)
    new = {name: _new(of, before.sparse[name] if before else None) for name, of in sketch.sparse.items()}
    return ProfiledDay(profile, new, size)


def profile_of(spec: DatasetSpec, days: Sequence[str], lake: Lake) -> FeatureProfile:
    """Reads the profile of one or more days. Rows of features are not read.

    Args:
        spec: The dataset.
        days: Partition keys in order.
        lake: Where the profiles are stored.

    Returns:
        The profile of all rows of the days. Its drift compares the last day with the days before it in `days`; for a single
        day, with the day before.

    Raises:
        MissingPartition: A day's profile is not in the lake.
        StalePartition: A profile was made under another version of the catalog entry.
        ValueError: There are no days, or they are not in order.
    """
    folders = [lake.require(FEATURE_PROFILES, spec.name, day, fingerprint=spec.fingerprint) for day in days]
    if len(folders) == 1:
        return read_profile(folders[0])
    sketches = [read_sketch(folder) for folder in folders]
    if not sketches:
        raise ValueError(f"no days of {spec.name} to profile; expected at least one")
    before = merge_days(sketches[:-1])
    drift = drift_between(sketches[-1], before, _vocabularies(spec))
    return summarise(merge_days([before, sketches[-1]]), drift)


def _parts(lake: Lake, spec: DatasetSpec, day: str, columns: Columns) -> tuple[list[Part], int]:
    """Returns the row groups of a day in the order of their rows, and the size of the files."""
    parts: list[Part] = []
    first_row = nbytes = 0
    for path in feature_parts(lake, spec, day):
        nbytes += path.stat().st_size
        with path.fs.open(path.path, "rb") as file:
            footer = pq.read_metadata(file)
        check_file(spec, path, footer.schema.to_arrow_schema(), columns.names)
        for group in range(footer.num_row_groups):
            parts.append(Part(str(path), group, first_row))
            first_row += footer.row_group(group).num_rows
    return parts, nbytes


def _new(today: SparseSketch, before: SparseSketch | None) -> int | None:
    return merge_counts([before.ids, today.ids]).distinct - before.ids.distinct if before else None


def _vocabularies(spec: DatasetSpec) -> frozenset[str]:
    return frozenset(sparse.name for sparse in spec.sparse if sparse.vocabulary)
