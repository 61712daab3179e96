"""A day's data in a few figures: what is measured once, kept, and compared with on later days.

Here is the shape of a profile and where it is kept; measuring is `ml.quality.scan`, judging `ml.quality.contract`.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.days import day_bounds
from ml.lake import Lake
from ml.stages import profiles

FILE = "profile.json"
VERSION = 2  # of what a profile holds: a kept one of another version is measured anew


@dataclass(frozen=True)
class ColumnProfile:
    """One column of N rows. type: Arrow's name for it. min, max: of its finite numbers, None where it has none."""

    type: str
    nulls: int
    not_finite: int = 0
    min: float | None = None
    max: float | None = None


@dataclass(frozen=True)
class Histogram:
    """Counts of ids. buckets: of known values, by id modulo `BUCKETS`; a multi-valued feature counts every part."""

    missing: int
    out_of_vocabulary: int
    buckets: tuple[int, ...]

    @property
    def known(self) -> int:
        return sum(self.buckets)

    @property
    def counts(self) -> tuple[int, ...]:
        return (self.missing, self.out_of_vocabulary, *self.buckets)


@dataclass(frozen=True)
class Profile:
    """Figures of one day of one stage; counts are of rows.

    positives: rows with label 1. bad_labels: rows whose label is neither 0 nor 1 (or missing). duplicates: rows that repeat
    another's unique columns; rows with a missing one repeat none. outside_day, out_of_order: by event_time, in the log's
    time zone. splits: rows by split, of MDS data alone. content: sums up what the rows hold (`ml.quality.content`), of features
    and MDS data.
    """

    rows: int
    columns: Mapping[str, ColumnProfile]
    histograms: Mapping[str, Histogram] = field(default_factory=dict)
    positives: int = 0
    bad_labels: int = 0
    duplicates: int = 0
    outside_day: int = 0
    out_of_order: int = 0
    splits: Mapping[str, int] = field(default_factory=dict)
    content: int = 0
    manifest: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label_rate(self) -> float | None:
        return self.positives / self.rows if self.rows else None

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        data = json.loads(text)
        data["columns"] = {name: ColumnProfile(**column) for name, column in data["columns"].items()}
        data["histograms"] = {
            name: Histogram(h["missing"], h["out_of_vocabulary"], tuple(h["buckets"])) for name, h in data["histograms"].items()
        }
        return cls(**data)


def profile_day(spec: DatasetSpec, stage: str, day: str, lake: Lake) -> Profile:
    """The day's profile: the one in the lake (`profiles/<stage>`), or measured and put there where its data has changed.

    Raises `MissingPartition` where the day's data is not there.
    """
    partition = lake.require(stage, spec.name, day)
    manifest = lake.manifest(stage, spec.name, day)
    digest, kept = _digest(spec, partition, manifest), profiles(stage)
    with suppress(FileNotFoundError):  # there is none, or another process is replacing it
        if lake.manifest(kept, spec.name, day).get("digest") == digest:
            return Profile.from_json((lake.partition(kept, spec.name, day) / FILE).read_text())
    from ml.quality.scan import scan_partition

    began = time.perf_counter()
    profile = scan_partition(spec, stage, partition, manifest, day_bounds(day, spec.zone))
    seconds = time.perf_counter() - began
    # Another process may measure the same day and win: what is kept only saves measuring again.
    with suppress(OSError, ValueError), lake.write(kept, spec.name, day) as staging:
        (staging / FILE).write_text(profile.to_json())
        lake.write_manifest(
            staging, {"digest": digest, "fingerprint": spec.fingerprint, "rows": profile.rows, "seconds": seconds}
        )
    return profile


def _digest(spec: DatasetSpec, partition: UPath, manifest: Mapping[str, Any]) -> str:
    """Changes with the data (manifest, and what the filesystem knows of each file), with what is asked, and with `VERSION`."""
    files = sorted(partition.fs.ukey(path) for path in partition.fs.find(partition.path))
    asked = [VERSION, spec.fingerprint, spec.expectations.unique, manifest, files]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]
