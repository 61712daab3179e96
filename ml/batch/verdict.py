"""Whether a day of batch recommendations is complete: enough items for every user, none twice, and finite scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from upath import UPath

from ml.batch.part import USER
from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.parquet import read_parquet
from ml.serving.choice import choose_models
from ml.serving.recommender import CONTEXT
from ml.stages import BATCH_RECOMMENDATIONS


@dataclass(frozen=True)
class BatchVerdict:
    """What a check of a day found.

    Attributes:
        users: Number of users that should have recommendations.
        least: Rows that each of them must have: k, or fewer if so few items are live that a user may have seen some of k.
        short: Number of users with fewer rows.
        repeated: Number of rows whose item the same user has in another row.
        not_finite: Number of rows whose score is not finite.
        has_towers: Whether two towers find candidates.
    """

    users: int
    least: int
    short: int
    repeated: int
    not_finite: int
    has_towers: bool

    @property
    def reasons(self) -> list[str]:
        """Why the day fails; empty if it does not."""
        way_out = "set a smaller `k` in the configuration of the run"
        if not self.has_towers:
            way_out += ", or add the recipe two_tower to `models` of the catalog entry, which finds more candidates"
        found = {
            f"{self.short:,} of {self.users:,} users have fewer than {self.least} items; {way_out}": self.short,
            f"{self.repeated:,} rows repeat an item of their user": self.repeated,
            f"{self.not_finite:,} scores are not finite": self.not_finite,
        }
        return [text for text, count in found.items() if count]


def batch_verdict(spec: DatasetSpec, day: str, lake: Lake) -> BatchVerdict:
    """Check a day, file by file; all rows of a user are in one file.

    Raises:
        MissingPartition: The day has no recommendations.
    """
    manifest = lake.manifest(BATCH_RECOMMENDATIONS, spec.name, day)
    seen = CONTEXT if manifest["options"]["exclude_seen"] else 0
    least = min(manifest["options"]["k"], max(0, manifest["live_items"] - seen))
    complete = repeated = not_finite = 0
    for part in _parts(lake.partition(BATCH_RECOMMENDATIONS, spec.name, day)):
        rows = read_parquet(part, [USER, "item", "score"])
        complete += int((_counts(rows, [USER]) >= least).sum())
        repeated += len(rows) - len(_counts(rows, [USER, "item"]))
        not_finite += int((~np.isfinite(rows["score"].to_numpy())).sum())
    users = manifest["users"]
    has_towers = choose_models(spec).towers is not None
    return BatchVerdict(users, least, max(0, users - complete) if least else 0, repeated, not_finite, has_towers)


def _parts(folder: UPath) -> list[UPath]:
    return sorted((folder / "rows").iterdir(), key=lambda path: path.name)


def _counts(rows: pa.Table, keys: list[str]) -> np.ndarray:
    """Number of rows of each distinct key, int64."""
    return rows.select(keys).group_by(keys).aggregate([([], "count_all")])["count_all"].to_numpy()
