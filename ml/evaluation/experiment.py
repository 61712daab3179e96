"""Results of an experiment: clicks per impression of each variant, and how the challengers differ from the champion.

The rows are those that the service has noted with a variant. With a log of actions, labels come from the joined examples. Rows
of one user are not independent, so errors are computed by user.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute creates its functions at import, so type checkers do not see them)

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from upath import UPath

from ml.catalog.experiment import EXPERIMENT, VARIANT, VARIANTS, Experiment
from ml.catalog.spec import DatasetSpec
from ml.days import day_bounds
from ml.evaluation.compare import Estimate, LabelledRows
from ml.features.hashing import hash_values
from ml.lake import Lake
from ml.logs.read import raw_table
from ml.parquet import read_parquet
from ml.retrieval.interactions import positive
from ml.schema import ARROW_TYPES, EVENT_TIME
from ml.stages import JOINED_EXAMPLES


@dataclass(frozen=True)
class VariantResult:
    """Results of one variant.

    Attributes:
        impressions: Number of impressions.
        users: Number of users who had one.
        clicks: Number of impressions with a positive label.
        rate: Clicks per impression; None without impressions.
        gain: Clicks per impression minus those of the champion; None for the champion, and if either has no impressions.
    """

    impressions: int
    users: int
    clicks: int
    rate: Estimate | None
    gain: Estimate | None


def results_of(
    experiment: Experiment, variants: NDArray[Any], users: NDArray[np.int64], clicked: NDArray[np.bool_]
) -> dict[str, VariantResult]:
    """Compare the variants of an experiment.

    Args:
        experiment: The experiment.
        variants: Name of the variant of N impressions, [N].
        users: Ids of their users, int64 [N].
        clicked: Whether they were clicked, bool [N].

    Returns:
        The result of each variant, the champion first.

    Example:
        >>> both, users = Experiment(name="a", shares={"x": 0.5, "y": 0.5}), np.arange(400)
        >>> variants, clicked = np.repeat(["x", "y"], 200), np.concatenate([users[:200] % 10 == 0, users[:200] % 2 == 0])
        >>> found = results_of(both, variants, users, clicked)
        >>> round(found["y"].gain.value, 3), found["y"].gain.is_above()
        (0.4, True)
    """
    rows, masks = LabelledRows(clicked, groups=users), {name: variants == name for name in experiment.shares}
    rates = {name: rows.click_rate(mask) for name, mask in masks.items()}
    champion = rates[experiment.champion]
    found: dict[str, VariantResult] = {}
    for name, mask in masks.items():
        own, other = rates[name], champion if name != experiment.champion else None
        found[name] = VariantResult(
            impressions=int(mask.sum()),
            users=len(np.unique(users[mask])),
            clicks=int(clicked[mask].sum()),
            rate=rows.estimate(own) if own is not None else None,
            gain=rows.compare(own, other) if own is not None and other is not None else None,
        )
    return found


def experiment_results(spec: DatasetSpec, day: str, lake: Lake, stream: UPath) -> Mapping[str, VariantResult]:
    """Compare the variants on what was shown from the beginning of the experiment to the end of a day.

    Args:
        spec: A dataset with an experiment.
        day: `YYYY-MM-DD`.
        lake: Where joined examples are stored, for a dataset with a log of actions. Days without them are left out.
        stream: The dataset's folder of arriving events.

    Raises:
        ValueError: The dataset has no experiment.
    """
    if spec.experiment is None or spec.user is None:
        raise ValueError(f"{spec.name} has no experiment")
    rows = _shown(spec, spec.experiment, day_bounds(day, spec.zone)[1], stream)
    if spec.actions is not None:
        rows = _labelled(spec, rows, day, lake)
    if spec.label.column is not None:
        rows = rows.filter(pc.field(spec.label.column).is_valid())
    users = hash_values("user", rows[spec.user].combine_chunks())
    return results_of(spec.experiment, np.array(rows[VARIANT].to_pylist(), dtype=object), users, positive(spec, rows))


def _shown(spec: DatasetSpec, experiment: Experiment, end: int, stream: UPath) -> pa.Table:
    """Read the noted rows of the experiment before a point in time, whose variant is still part of it."""
    kinds = {EVENT_TIME: pa.int64()} | {name: ARROW_TYPES[kind] for name, kind in spec.log.source.columns.items()}
    empty = pa.schema([*kinds.items(), (EXPERIMENT, pa.string()), (VARIANT, pa.string())]).empty_table()
    folder = stream / VARIANTS
    files = sorted(folder.glob("journal-*.parquet")) if folder.exists() else []
    rows = pa.concat_tables([empty, *(read_parquet(file).select(empty.column_names) for file in files)])
    is_part = pc.field(VARIANT).isin(list(experiment.shares)) & (pc.field(EXPERIMENT) == experiment.name)
    return rows.filter(is_part & (pc.field(EVENT_TIME) < end))


def _labelled(spec: DatasetSpec, shown: pa.Table, day: str, lake: Lake) -> pa.Table:
    """Join impressions with the labels that actions gave them. An impression that was reported twice counts once."""
    assert spec.actions is not None and spec.user is not None
    keys, label = list(spec.actions.key), spec.label.column
    assert label is not None
    first = int(shown[EVENT_TIME].to_numpy().min()) if len(shown) else 0
    days = [held for held in lake.days(JOINED_EXAMPLES, spec.name) if held <= day and day_bounds(held, spec.zone)[1] > first]
    joined = [raw_table(lake, spec.name, held, JOINED_EXAMPLES).select([*keys, label]) for held in days]
    if not joined:
        return shown.slice(0, 0).append_column(label, pa.array([], pa.int64()))
    others = [name for name in (VARIANT, spec.user) if name not in keys]
    once = shown.group_by(keys, use_threads=False).aggregate([(name, "first") for name in others])
    once = once.rename_columns({f"{name}_first": name for name in others})
    return once.join(pa.concat_tables(joined), keys, join_type="inner")
