"""Settings that all studies share, and tables and pictures for their metadata."""

from base64 import b64encode
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.policy import OWNERS, TRAINING_POOL
from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.stages import FEATURE_PROFILES, MDS_DATASETS, STUDIES

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


def batch_and_online_days(
    lake: Lake, spec: DatasetSpec, model: str, batch_days: int, online_days: int
) -> tuple[list[str], list[str]]:
    """Choose the days of a study of online training from the days that the lake has.

    Args:
        lake: Where `mds_datasets` are stored.
        spec: The dataset.
        model: One of its models.
        batch_days: Number of days of batch training; 0 for all but the online days.
        online_days: Number of days after them.

    Returns:
        The days of batch training and the days after them.

    Raises:
        dg.Failure: The dataset has no such model, or the lake has too few days.
    """
    if model not in spec.models:
        raise dg.Failure(f"model: {spec.name} has no model {model!r}; it has {list(spec.models)}", allow_retries=False)
    there = lake.days(MDS_DATASETS, spec.name)
    batch = batch_days or len(there) - online_days
    if batch < 1 or batch + online_days > len(there):
        raise dg.Failure(
            f"{batch} batch_days and {online_days} online_days requested, mds_datasets has {len(there)} days",
            allow_retries=False,
        )
    return there[:batch], there[batch : batch + online_days]


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
