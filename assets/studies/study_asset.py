"""Settings that all studies share, and tables and pictures for their metadata."""

from base64 import b64encode
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.policy import OWNERS, TRAINING_POOL
from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.stages import FEATURE_PROFILES, STUDIES

if TYPE_CHECKING:
    from ml.advisor.profiles.profile import FeatureProfile


def study_asset(
    name: str, *, kinds: set[str], description: str, deps: Sequence[Any] = ()
) -> Callable[[Callable[..., dg.MaterializeResult]], dg.AssetsDefinition]:
    """Decorate the function of one study. The asset is materialised on demand."""
    return dg.asset(
        key=[STUDIES, name],
        group_name=STUDIES,
        owners=OWNERS,
        kinds=kinds,
        deps=deps,
        pool=TRAINING_POOL,
        description=description,
    )


def first_days(spec: DatasetSpec, count: int | None, *, least: int) -> tuple[str, ...]:
    """Return the first days of a dataset, by default as many as its demo has. Raises `dg.Failure` if there are too few."""
    days = tuple(spec.days()[: count or spec.demo_days])
    if len(days) < max(least, count or 0):
        raise dg.Failure(f"days: {count or least} requested, {spec.name} has {len(days)}", allow_retries=False)
    return days


def profile_of_days(spec: DatasetSpec, days: Sequence[str], lake: Lake) -> "FeatureProfile | None":
    """Return the profile of the days; None if one of them has none, so that only rules that need none apply."""
    from ml.advisor.profiles.day import profile_of

    known = all(lake.is_current(FEATURE_PROFILES, spec.name, day, spec.fingerprint) for day in days)
    return profile_of(spec, days, lake) if known else None


def picture(png: bytes) -> dg.MetadataValue:
    """Return a PNG as metadata that the UI shows."""
    return dg.MetadataValue.md(f"![figure](data:image/png;base64,{b64encode(png).decode()})")


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> dg.MetadataValue:
    """Return a table as metadata that the UI shows."""
    lines = [columns, ["---"] * len(columns), *rows]
    return dg.MetadataValue.md("\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines))
