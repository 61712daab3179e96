"""The process of the simulated population: `python -m orchestration.loop.visitors <home>/loop/run --ports …`."""

from __future__ import annotations

from pathlib import Path

import click

from ml.loop.settings import CLOCK, Settings
from ml.loop.visitors import simulate
from ml.serving.clock import Clock
from orchestration.signals import stopped_by_signals


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--ports", required=True, help="Ports of the services of the arms, separated by commas.")
def main(folder: Path, ports: str) -> None:
    """Let the simulated users of the loop in FOLDER visit until Ctrl-C."""
    settings = Settings.read(folder / "settings.json")
    of_arms = dict(zip(settings.arms, map(int, ports.split(",")), strict=True))
    clock = Clock.wait_for(folder / CLOCK)
    with stopped_by_signals() as stop:
        simulate(settings, clock, of_arms, folder, stop)


if __name__ == "__main__":
    main()
