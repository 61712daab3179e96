"""The process of daily retraining: lands each simulated day when it is over, and trains and exports the daily model of it.

    python -m orchestration.loop.daily <home>/loop/run

It runs the assets of the day, from raw logs to the export, that a schedule would run.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

import click
from upath import UPath

from assets.policy import key
from ml.catalog.spec import DatasetSpec
from ml.days import day_bounds, shift_day
from ml.lake import Lake
from ml.loop.history import land_served, write_history
from ml.loop.settings import CLOCK, DATASET, ONLINE, Settings
from ml.serving.clock import Clock
from ml.stages import FEATURE_PROFILES, exported_models, stages_of
from orchestration.deployments import lake_root, landing_root
from orchestration.materialize import materialize
from orchestration.replay import quiet_console, the_dataset

POLL_SECONDS = 0.5
log = logging.getLogger("evergreen")


def train(spec: DatasetSpec, day: str) -> None:
    """Make a day from its landing files to the export of its model."""
    made, began = stages_of(spec), time.monotonic()
    last = made.index(exported_models(spec.primary))
    materialize(spec, day, [key(spec, stage) for stage in made[: last + 1] if stage != FEATURE_PROFILES])
    log.info("%s trained and exported in %.1f s", day, time.monotonic() - began)


def retrain(spec: DatasetSpec, settings: Settings, clock: Clock, stream: UPath, landing: Path) -> None:
    """Train each day of the loop but the last, as soon as the clicks of its last impressions are known."""
    assert spec.actions is not None
    lake = Lake.at(lake_root())
    for day in settings.served_days[:-1]:
        if lake.has(exported_models(spec.primary), spec.name, day):
            continue
        known = day_bounds(day, spec.zone)[1] + spec.actions.wait + spec.actions.lateness
        while clock.now() < known:
            time.sleep(POLL_SECONDS)
        rows = land_served(spec, stream, landing, day)
        land_served(spec, stream, landing, shift_day(day, 1))  # the clicks of the last impressions
        log.info("%s: %d impressions have landed", day, rows)
        if rows:
            train(spec, day)


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--history", is_flag=True, help="Simulate and train the days before the loop instead.")
def main(folder: Path, history: bool) -> None:
    """Retrain the daily model of the loop in FOLDER after each simulated day."""
    quiet_console()
    settings, spec, landing = Settings.read(folder / "settings.json"), the_dataset(DATASET), Path(landing_root()) / DATASET
    if history:
        write_history(settings, spec, landing)
        for day in settings.history:
            train(spec, day)
        return
    retrain(spec, settings, Clock.wait_for(folder / CLOCK), UPath(folder / ONLINE / "stream" / DATASET), landing)
    while True:  # the watcher starts a process again that has ended
        time.sleep(3600)


if __name__ == "__main__":
    main()
