"""Replays days of a log in one process, so that Spark and torch start once. Each day is a Dagster run.

    python -m orchestration.replay criteo --from 2014-01-01 --to 2014-01-07

Days that are done are skipped, so a killed replay continues where it stopped. Runs and checks appear in the UI.
"""

import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click
import dagster as dg

from assets.preflight import findings_of
from assets.progress import continues, is_done
from assets.resources import LakeResource, LandingResource
from ml.catalog.load import CatalogError
from ml.catalog.spec import DatasetSpec
from ml.days import yesterday
from ml.recipes.changes import recipe_changes
from orchestration.dead_runs import fail_dead_runs
from orchestration.definitions import build_defs
from orchestration.deployments import catalog, home, lake_root, landing_root
from orchestration.jobs import job_name

log = logging.getLogger("evergreen")


class DayFailed(RuntimeError):
    """The run of a day failed; the days after it were not run."""


def replay(spec: DatasetSpec, days: Sequence[str], *, redo: bool = False, fresh: bool = False) -> list[str]:
    """Run days in order.

    Args:
        spec: The dataset.
        days: `YYYY-MM-DD`, ascending.
        redo: Whether to run days that are done, too.
        fresh: Whether the first of the days starts from nothing, as if it were the first of the log. It runs again if it was
            made from earlier days.

    Returns:
        The days that ran.

    Raises:
        DayFailed: A day failed. The days after it were not run.
    """
    lake, logs = LakeResource(root=lake_root()).open(), LandingResource(root=landing_root()).folder(spec.name)
    if fresh and days:
        spec = spec.starting_at(days[0])
    check_entry(spec, logs, days)
    ran: list[str] = []
    job = instance = None
    for day in days:
        continued = fresh and day == days[0] and continues(lake, spec, day)
        if not redo and not continued and is_done(lake, spec, day, logs):
            continue
        if job is None:
            job = build_defs([spec]).resolve_job_def(job_name(spec))
            instance = dg.DagsterInstance.get()
            fail_dead_runs(instance)
        started = time.perf_counter()
        result = job.execute_in_process(
            partition_key=day,
            instance=instance,
            raise_on_error=False,
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        )
        if not result.success:
            raise DayFailed(f"{spec.name} of {day} failed in run {result.run_id}: {why_failed(result)}")
        for warning in _warnings(result):
            log.warning("%s  %s", day, warning)
        log.info("%s  done in %.1f s", day, time.perf_counter() - started)
        ran.append(day)
    return ran


def check_entry(spec: DatasetSpec, logs: str, days: Sequence[str]) -> None:
    """Check a catalog entry against the files of some days, and log the warnings.

    Raises:
        DayFailed: The entry does not fit the files of these days.
    """
    from ml.preflight.finding import errors, of_days, refusal

    found = of_days(findings_of(spec, logs), days)
    if errors(found):
        raise DayFailed(refusal(spec.name, found))
    for finding in found:
        log.warning("%s", finding)


def _warnings(result: dg.ExecuteInProcessResult) -> list[str]:
    """Return the first line of the explanation of each check that failed and did not block."""
    failed = (e for e in result.get_asset_check_evaluations() if not e.passed and "explanation" in e.metadata)
    return [f"warning: {str(e.metadata['explanation'].value).splitlines()[0]}" for e in failed]


def why_failed(result: dg.ExecuteInProcessResult) -> str:
    """Return why a run failed: the explanations of its failed blocking checks, or else its first failure."""
    failed = [e for e in result.get_asset_check_evaluations() if not e.passed and e.severity == dg.AssetCheckSeverity.ERROR]
    if explained := [str(e.metadata["explanation"].value) for e in failed if "explanation" in e.metadata]:
        return "\n".join(explained)
    for event in result.all_events:
        if event.is_step_failure:
            return (
                f"{event.step_key}: {event.step_failure_data.user_failure_data.description}"
                if (event.step_failure_data.user_failure_data)
                else f"{event.step_key}: {event.step_failure_data.error_display_string}"
            )
    return "see the run in the Dagster UI (make ui)"


def quiet_console() -> None:
    """Print only Evergreen's log lines, and warnings of other libraries. Also set Dagster's environment variables."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)
    log.setLevel(logging.INFO)
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)  # its warning concerns TorchRec's own code
    os.environ.setdefault("DAGSTER_HOME", str(Path.cwd()))
    try:
        os.environ.setdefault("EVERGREEN_DAGSTER", str(home() / "dagster"))
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    Path(os.environ["EVERGREEN_DAGSTER"]).mkdir(parents=True, exist_ok=True)


def the_dataset(name: str) -> DatasetSpec:
    """Return a dataset by name.

    Raises:
        click.BadParameter: The catalog has no such dataset; the message lists its datasets.
        click.ClickException: The dataset's entry is wrong, or there is no entry.
    """
    try:
        found = catalog()
    except CatalogError as error:
        raise click.ClickException(str(error)) from error
    if name in found.broken:
        raise click.ClickException(str(found.broken[name]))
    if name not in found.datasets:
        raise click.BadParameter(f"no dataset {name!r} in the catalog; it has {', '.join(found.datasets)}")
    for other, error in found.broken.items():
        log.warning("The catalog entry of %s is not valid and is skipped: %s", other, error)
    return found.datasets[name]


@click.command()
@click.argument("dataset")
@click.option("--from", "first", metavar="DAY", help="First day, YYYY-MM-DD; the log's first by default.")
@click.option("--to", "last", metavar="DAY", help="Last day, included; the log's last, or yesterday for a live log.")
@click.option("--redo", is_flag=True, help="Also run days that are done.")
@click.option("--fresh", is_flag=True, help="Start at --from with new models, without the days before.")
def main(dataset: str, first: str | None, last: str | None, redo: bool, fresh: bool) -> None:
    """Run the days of DATASET in order, in this process."""
    quiet_console()
    spec = the_dataset(dataset)
    if fresh and first is None:
        raise click.UsageError("--fresh needs --from DAY, the first day of the new models")
    days = spec.days(last=yesterday())
    for given in filter(None, (first, last)):
        if given not in days:
            raise click.BadParameter(f"{given!r} is not a day of {dataset}; its days are {days[0]} to {days[-1]}")
    chosen = [day for day in days if (first or days[0]) <= day <= (last or days[-1])]
    try:
        ran = replay(spec, chosen, redo=redo, fresh=fresh)
    except DayFailed as error:
        raise click.ClickException(str(error)) from error
    log.info("%d of %d days ran, %d were already done", len(ran), len(chosen), len(chosen) - len(ran))
    for change in recipe_changes(spec, chosen, LakeResource(root=lake_root()).open()):
        log.info("%s", change.describe(spec, chosen[-1]))


if __name__ == "__main__":
    main()
