"""Materialises some assets of one day in this process, for commands."""

from collections.abc import Mapping, Sequence
from typing import Any

import click
import dagster as dg

from ml.catalog.spec import DatasetSpec
from orchestration.definitions import build_defs
from orchestration.replay import why_failed

_JOB = "materialize"


def materialize(spec: DatasetSpec, day: str, assets: Sequence[dg.AssetKey], config: Mapping[str, Any] | None = None) -> None:
    """Materialise assets of a day. The run appears in the UI.

    Args:
        spec: The dataset.
        day: The partition key.
        assets: Keys of the assets.
        config: Run configuration, such as `{"ops": {...}}`.

    Raises:
        click.ClickException: The run has failed; the message has the reason.
    """
    whole = dg.define_asset_job(_JOB, dg.AssetSelection.assets(*assets))
    job = dg.Definitions.merge(build_defs([spec]), dg.Definitions(jobs=[whole])).resolve_job_def(_JOB)
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    instance = dg.DagsterInstance.get()
    result = job.execute_in_process(
        partition_key=day, instance=instance, raise_on_error=False, run_config={**quiet, **(config or {})}
    )
    if not result.success:
        raise click.ClickException(f"{spec.name} of {day} failed in run {result.run_id}: {why_failed(result)}")
