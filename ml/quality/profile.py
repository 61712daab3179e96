"""Statistics of one day of one stage. Expectations are checked on them, and later days are compared with them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from ml.features.column_profile import ColumnProfile
from ml.quality.histogram import Histogram


@dataclass(frozen=True)
class Profile:
    """Statistics of one day of one stage. Counts are numbers of rows.

    Args:
        rows: All rows.
        columns: Statistics by column.
        histograms: Histograms of ids, by sparse feature or, for raw logs, by a column that a sparse feature uses.
        positives: Rows with label 1.
        bad_labels: Rows whose label is missing or neither 0 nor 1.
        duplicates: Rows that repeat another row's unique columns. Rows with a missing unique column are not counted.
        outside_day: Rows whose event time is not on the day, in the log's time zone.
        out_of_order: Rows whose event time is before the event time of the previous row.
        splits: Rows by split; only for MDS data.
        content: Hash of the rows' values (`ml.quality.content`); only for features and MDS data.
        manifest: The partition's manifest.
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
        """Share of rows with label 1; None without rows."""
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
