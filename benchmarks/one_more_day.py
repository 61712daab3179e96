"""One more day of the built-in log in a new process: the share of time that Evergreen's own code takes.

The rest is the start of the process, imports, the start of Spark, and Dagster. The time of Evergreen's own code is the time
that the assets and the checks measure around their work.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.result import Result

OWN = """
import dagster as dg, sys
day = sys.argv[1]
total = 0.0
with dg.DagsterInstance.get() as instance:
    run = instance.get_runs(limit=1)[0]
    for entry in instance.all_logs(run.run_id):
        event = entry.dagster_event
        if event and event.is_step_materialization:
            total += float(event.materialization.metadata["seconds"].value)
    checks = {}
    for entry in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION):
        found = entry.dagster_event.asset_check_evaluation_data
        if "seconds" in found.metadata:
            checks[found.asset_key] = float(found.metadata["seconds"].value)
print(total + sum(checks.values()))
"""


def run() -> list[Result]:
    root = Path(__file__).parents[1]
    with tempfile.TemporaryDirectory() as home:
        env = os.environ | {"EVERGREEN_HOME": home, "DAGSTER_HOME": str(root), "EVERGREEN_DAGSTER": f"{home}/dagster"}

        def python(*arguments: str) -> str:
            return subprocess.run(
                [sys.executable, *arguments], env=env, cwd=root, check=True, capture_output=True, text=True
            ).stdout

        replay = ("-m", "orchestration.replay", "synthetic")
        python(*replay, "--from", "2026-01-01", "--to", "2026-01-02")
        started = time.perf_counter()
        python(*replay, "--from", "2026-01-03", "--to", "2026-01-03")
        wall = time.perf_counter() - started
        own = float(python("-c", OWN, "2026-01-03"))
    note = f"{wall:.0f} s in total; the rest is the start of the process, imports, the start of Spark, Dagster"
    return [Result("one more day: Evergreen's own code", "share", own / wall, 1 - own / wall, "share of the rest", 1.0, note)]
