"""Settings that all daily assets share: key, group, owner, partitions, backfill policy and retries."""

from collections.abc import Callable, Sequence
from typing import Any

import dagster as dg

from assets.days import RETRY
from assets.partitions import daily
from ml.catalog.spec import DatasetSpec

OWNERS = ["team:evergreen"]
SPARK_POOL = "spark"  # dagster.yaml lets one Spark-heavy step run at a time
TRAINING_POOL = "training"


def key(spec: DatasetSpec, stage: str) -> dg.AssetKey:
    """Returns the key of the asset that writes a stage of the lake for one dataset."""
    return dg.AssetKey([spec.name, *stage.split("/")])


def _group(spec: DatasetSpec, stage: str) -> str:
    """Models have a group for each of their stages, because the UI titles a node with the last part of its key, the model."""
    return "_".join([spec.name, *stage.split("/")[:-1]])


def daily_asset(
    spec: DatasetSpec,
    stage: str,
    *,
    kinds: set[str],
    deps: Sequence[Any] = (),
    pool: str | None = None,
    description: str,
    check_specs: Sequence[dg.AssetCheckSpec] = (),
) -> Callable[[Callable[..., dg.MaterializeResult]], dg.AssetsDefinition]:
    """Decorate the function of one stage of one dataset; takes the arguments of `dg.asset`."""
    simulated = " The log is simulated." if spec.simulation else ""
    return dg.asset(
        key=key(spec, stage),
        group_name=_group(spec, stage),
        partitions_def=daily(spec),
        deps=deps,
        check_specs=check_specs,
        owners=OWNERS,
        kinds=kinds,
        tags={"dataset": spec.name} | ({"simulated": "true"} if spec.simulation else {}),
        backfill_policy=dg.BackfillPolicy.single_run(),
        retry_policy=RETRY,
        pool=pool,
        description=description + simulated,
    )
