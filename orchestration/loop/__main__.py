"""`make loop`: a closed loop of service, joiner, online training and simulated users whose tastes change.

Users are divided by hash among arms: one is served by the model that is trained online, one by a model that is retrained every
simulated day, and one by a model that is never updated.
"""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console

from ml.locks import exclusive
from ml.loop.settings import ARMS, ONLINE, Settings
from orchestration.deployments import home
from orchestration.loop.display import shown
from orchestration.loop.folders import Folders
from orchestration.loop.running import Loop, NotReady
from orchestration.signals import stopped_by_signals


@click.command()
@click.option("--days", type=click.IntRange(min=1, max=14), help="Simulated days; tastes then drift, with no sudden change.")
@click.option(
    "--day-seconds", type=click.FloatRange(min=20), default=150.0, show_default=True, help="Seconds per simulated day."
)
@click.option("--rate", type=click.FloatRange(min=0.1), default=15.0, show_default=True, help="Requests a second.")
@click.option("--drift", type=click.FloatRange(min=0), default=5.0, show_default=True, help="Speed of the drift with --days.")
@click.option("--arms", default=",".join(ARMS), show_default=True, help="Arms that are served; the first must be online.")
def main(days: int | None, day_seconds: float, rate: float, drift: float, arms: str) -> None:
    """Run a closed loop with simulated users, and report how fast recommendations adapt to their tastes.

    Without --days, tastes change at once within the first of three days. With it, they drift all the time, and the report has
    the improvement of online training by day. Ctrl-C ends the loop and reports what there is.
    """
    chosen = tuple(arms.split(","))
    if chosen[0] != ONLINE or not set(chosen) <= set(ARMS) or len(set(chosen)) < len(chosen):
        raise click.BadParameter(f"--arms {arms}: expected {ONLINE}, and others of {', '.join(ARMS)}")
    settings = Settings(day_seconds=day_seconds, rate=rate, arms=chosen)
    if days is not None:
        settings = replace(settings, days=days, change_hours=None, drift=drift)
    folders, console = Folders(Path(home()) / "loop", settings), Console(highlight=False, soft_wrap=True)
    with exclusive(folders.root / "lock", click.ClickException(f"another loop runs in {folders.root}")):
        run(folders, console)


def run(folders: Folders, console: Console) -> None:
    """Run a loop, show it, and write its report."""
    if not (folders.base / "ready").exists():
        console.print(f"simulating and training the days before the loop in {folders.base}")
    try:
        folders.prepare_base()
    except subprocess.CalledProcessError as error:
        raise click.ClickException(f"the days before the loop could not be simulated and trained: {error}") from error
    folders.prepare_run()
    with stopped_by_signals() as stop:
        loop = Loop(folders, stop)
        console.print(f"starting the processes; their output is in {folders.run / 'logs'}; Ctrl-C ends the loop")
        try:
            loop.start()
            with shown(loop, console) as refresh:
                while not loop.wait():
                    refresh()
        except NotReady as error:
            raise click.ClickException(str(error)) from error
        finally:
            loop.end()
    from ml.loop.report import write_report

    for line in write_report(folders.settings, folders.run, loop.watcher.restarts):
        console.print(line)


if __name__ == "__main__":
    main()
