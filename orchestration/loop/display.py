"""Shows a running loop: a table that is updated in place on a terminal, otherwise a line from time to time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ml.loop.quality import Requests, freshness, read_requests
from orchestration.loop.running import Loop

TABLE_SECONDS, LINE_SECONDS = 3.0, 10.0
RECENT_HOURS = 3
BAR = 30


def _recent(loop: Loop, requests: Requests) -> Requests:
    now = loop.clock.now()
    return requests.between(now - RECENT_HOURS * 3_600_000_000, now + 1)


def _when(loop: Loop) -> str:
    change, now = loop.settings.change, loop.clock.now()
    told = "" if change is None else ", tastes have changed" if now >= change else ""
    return f"simulated {datetime.fromtimestamp(now / 1e6, UTC):%Y-%m-%d %H:%M}{told}"


def _fresh(loop: Loop) -> str:
    found = freshness(loop.folders.run / "records", loop.settings)
    whole, apart = found.quantiles((0.5,))
    if not len(found.seconds):
        return "no event has reached the served weights yet"
    return f"from event to served weights: median {whole[0]:.1f} s, {apart[0]:.1f} s apart from waiting for clicks"


def table(loop: Loop) -> Group:
    """Draw quality by arm, and the processes."""
    arms = Table(title=_when(loop), title_justify="left")
    for title in ("arm", f"quality, {RECENT_HOURS} h", "", "requests", "failed"):
        arms.add_column(title, justify="left" if title in ("arm", "") else "right", no_wrap=True)
    for arm in loop.settings.arms:
        requests = read_requests(loop.folders.run / "records", arm)
        recent = _recent(loop, requests)
        bar = "█" * round(BAR * recent.quality) if len(recent) else ""
        arms.add_row(arm, f"{recent.quality:.3f}", bar, f"{len(requests):,}", f"{requests.failed:,}")
    processes = Table()
    for title in ("process", "pid", "starts", "runs for, s"):
        processes.add_column(title, justify="left" if title == "process" else "right", no_wrap=True)
    for process in loop.watcher.processes:
        runs = f"{time.monotonic() - process.began:,.0f}" if process.pid else "–"
        processes.add_row(process.name, str(process.pid or "–"), str(process.starts), runs)
    return Group(arms, processes, Text(f"{_fresh(loop)}; Ctrl-C ends the loop"))


def line(loop: Loop) -> str:
    """Describe the loop in a line."""
    found = {arm: read_requests(loop.folders.run / "records", arm) for arm in loop.settings.arms}
    qualities = ", ".join(f"{arm} {_recent(loop, of).quality:.3f}" for arm, of in found.items())
    starts, failed = sum(process.starts - 1 for process in loop.watcher.processes), sum(of.failed for of in found.values())
    return f"{_when(loop)}: quality {qualities}; {_fresh(loop)}; {starts} restarts, {failed:,} failed requests"


@contextmanager
def shown(loop: Loop, console: Console) -> Iterator[Callable[[], None]]:
    """Yield a function that shows the loop if it is time to, in the way that suits the console."""
    due = time.monotonic()
    every = TABLE_SECONDS if console.is_terminal else LINE_SECONDS
    live = Live(console=console, auto_refresh=False) if console.is_terminal else None

    def refresh() -> None:
        nonlocal due
        if time.monotonic() < due:
            return
        due = time.monotonic() + every
        if live is None:
            console.print(line(loop))
        else:
            live.update(table(loop), refresh=True)

    if live is None:
        yield refresh
        return
    with live:
        yield refresh
