"""The days that a tuning uses, which are the last ones with rows before the day that it serves.

The window has three parts, in order: days that trials only train on, days that they score before they train on them
(`scored_days`), and days that no trial sees (`judged_days`). The best of many trials owes a part of its score to chance, so the
verdict whether its recipe is used comes from the last part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date

from ml.catalog.spec import DatasetSpec
from ml.days import trailing_days
from ml.lake import Lake, StalePartition
from ml.recipes.edits import read_edits
from ml.recipes.search import LONGEST_WINDOW, Search
from ml.stages import MDS_DATASETS


class NothingToTune(ValueError):
    """The search has no parameters, or its window is not full."""


def declared_window(spec: DatasetSpec, model: str) -> int:
    """Returns the number of days that the edits of a recipe state for tuning, or the default."""
    edits = read_edits(spec.models[model].edits)
    stated = edits.sigopt.get("window_days") if edits else None
    return stated if isinstance(stated, int) else Search.model_fields["window_days"].default


def window_of(spec: DatasetSpec, day: str, days: int, lake: Lake) -> tuple[str, ...]:
    """Returns the last days before a day that have rows, in order.

    Args:
        spec: The dataset.
        day: The day that is served.
        days: Number of days.
        lake: Where `mds_datasets` are stored.

    Raises:
        NothingToTune: There are too few days before the day, or too few of the last `LONGEST_WINDOW` have rows.
        MissingPartition: The data of a day is not in the lake.
    """
    before = [known for known in trailing_days(day, max(days, LONGEST_WINDOW)) if known >= spec.first_day]
    need = f"{spec.name} of {day}: tuning needs {days} days before it (sigopt.window_days), and there are"
    if len(before) < days:
        raise NothingToTune(f"{need} {len(before)}")
    found: list[str] = []
    empty: list[str] = []
    for known in reversed(before):
        (found if has_rows(spec, known, lake) else empty).append(known)
        if len(found) == days:
            return tuple(reversed(found))
    raise NothingToTune(f"{need} {len(found)} with rows from {before[0]} on; without rows: {', '.join(reversed(empty))}")


def has_rows(spec: DatasetSpec, day: str, lake: Lake) -> bool:
    """Whether a day has rows. Raises `MissingPartition`."""
    return lake.manifest(MDS_DATASETS, spec.name, day)["rows"] > 0


def check_window(spec: DatasetSpec, days: Sequence[str], scored: Sequence[str], lake: Lake) -> None:
    """Checks that a trial trains on each day with rows once, in order, and scores the last ones. Raises `ValueError`."""
    known = spec.days(date.fromisoformat(days[-1])) if days else []  # the days of a live log have no end
    between = [day for day in known if days[0] <= day <= days[-1]] if days else []
    skipped = set(between) - set(days)
    in_order = [day for day in between if day not in skipped] == list(days)
    if not days or not in_order or any(_may_have_rows(spec, day, lake) for day in skipped):
        raise ValueError(f"days: expected consecutive days of {spec.name} with rows, each once, found {list(days)}")
    if not scored or list(days[-len(scored) :]) != list(scored) or len(scored) >= len(days):
        raise ValueError(f"scored: expected the last of the days {list(days)}, found {list(scored)}")


def _may_have_rows(spec: DatasetSpec, day: str, lake: Lake) -> bool:
    return not lake.has(MDS_DATASETS, spec.name, day) or has_rows(spec, day, lake)


def check_data(spec: DatasetSpec, digests: Mapping[str, str], lake: Lake) -> None:
    """Checks that the data of days is what a tuning has started with.

    Args:
        spec: The dataset.
        digests: Digests of `mds_datasets` by day, as `Lake.digest` gives them.
        lake: Where `mds_datasets` are stored.

    Raises:
        StalePartition: A day was materialised again with other contents.
        MissingPartition: A day was removed.
    """
    for day, digest in digests.items():
        if lake.digest(MDS_DATASETS, spec.name, day) != digest:
            raise StalePartition(
                f"{spec.name}/{MDS_DATASETS} of {day} has changed since the tuning started. Trials on other data cannot be "
                "compared: tune again"
            )
