"""Chooses the days whose profiles a recipe, a tuning or a user is advised from."""

from __future__ import annotations

from ml.advisor.window import WINDOW
from ml.catalog.spec import DatasetSpec
from ml.days import day_before
from ml.lake import Lake
from ml.stages import FEATURE_PROFILES


def days_to_profile(spec: DatasetSpec, lake: Lake, before: str | None = None, most: int | None = WINDOW) -> list[str]:
    """Return the newest profiled days in a row, without days that have no rows.

    A day whose profile is missing, or was made under another version of the catalog entry, ends the row. The newest profile is
    always in it, so that `profile_of` raises if it is outdated.

    Args:
        spec: The dataset.
        lake: Where profiles are stored.
        before: `YYYY-MM-DD`. Only days before it are chosen; by default, all days.
        most: Largest number of days; None for as many as there are.

    Returns:
        The days in order; the newest one if no day has rows, and none if no day has a profile.
    """
    known = lake.days(FEATURE_PROFILES, spec.name)
    found: list[str] = []
    for day in reversed([day for day in known if spec.first_day <= day and (before is None or day < before)]):
        follows = not found or day == day_before(found[-1])
        if len(found) == most or not follows or (found and not _current(spec, lake, day)):
            break
        found.append(day)
    days = found[::-1]
    if len(days) < 2:
        return days
    return [day for day in days if lake.manifest(FEATURE_PROFILES, spec.name, day)["rows"]] or days[-1:]


def _current(spec: DatasetSpec, lake: Lake, day: str) -> bool:
    return lake.is_current(FEATURE_PROFILES, spec.name, day, spec.fingerprint)
