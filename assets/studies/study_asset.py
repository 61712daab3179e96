"""What all studies share: settings of the asset, the choice of days and recipes, the partition, and tables and pictures."""

from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import dagster as dg
from pydantic import Field

from assets.owner import own_run
from assets.policy import OWNERS, TRAINING_POOL, key
from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.stages import FEATURE_PROFILES, MDS_DATASETS, STUDIES

if TYPE_CHECKING:
    from upath import UPath

    from ml.advisor.profiles.profile import FeatureProfile
    from ml.recipes.recipe import Recipe

Found = TypeVar("Found")
Study = Callable[..., dg.MaterializeResult]


class OnlineStudy(dg.Config):
    """Model, days and number of runs of a study of online training."""

    model: str = Field(default="", description="One of the dataset's models; by default the first.")
    batch_days: int = Field(default=0, ge=0, description="Days of batch training; by default all but the days after them.")
    seeds: int = Field(default=3, ge=1, description="Number of runs of every case.")


def study_asset(
    name: str,
    spec: DatasetSpec | None = None,
    *,
    stages: Sequence[str] = (),
    kinds: Sequence[str] = ("pytorch", "matplotlib"),
    description: str,
) -> Callable[[Study], dg.AssetsDefinition]:
    """Decorate the function of one study. The asset is materialised on demand.

    Args:
        name: Name of the study.
        spec: The dataset, whose name precedes the name of the study in the key; None for a study on logs of its own.
        stages: Stages of the dataset that the study reads.
        kinds: Libraries that the UI shows.
        description: What the study measures.
    """

    def decorate(study: Study) -> dg.AssetsDefinition:
        @wraps(study)
        def owned(context: dg.AssetExecutionContext, **arguments: Any) -> dg.MaterializeResult:
            own_run(context)
            return study(context, **arguments)

        return dg.asset(
            key=[STUDIES, f"{spec.name}_{name}" if spec else name],
            group_name=STUDIES,
            owners=OWNERS,
            kinds=set(kinds),
            deps=[key(spec, stage) for stage in stages] if spec else [],
            pool=TRAINING_POOL,
            description=description,
        )(owned)

    return decorate


def write_result(
    lake: Lake, name: str, dataset: str, settings: Mapping[str, Any], write: "Callable[[UPath], Found]"
) -> tuple[Found, dg.MetadataValue]:
    """Write the partition of a study.

    Args:
        lake: Where the partition is written.
        name: Name of the study.
        dataset: Name of the dataset.
        settings: What the result depends on, for the manifest.
        write: Writes the result into a folder.

    Returns:
        What `write` returned, and the path of the partition as metadata.
    """
    with lake.write(STUDIES, name, dataset) as folder:
        found = write(folder)
        lake.write_manifest(folder, dict(settings))
    return found, dg.MetadataValue.path(str(lake.partition(STUDIES, name, dataset)))


def recipes(spec: DatasetSpec, model: str, changes: Mapping[str, Any] | None = None) -> "Callable[[int], Recipe]":
    """Return a function of a seed that returns the recipe of a model with this seed, and with changes."""
    from ml.recipes.recipe import recipe_of

    return lambda seed: recipe_of(spec, model, {"seed": seed, **(changes or {})})


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
