"""Opens stores in forked processes that are killed, or may write files of a limited size.

    python -m tests.helpers.first_opens mlflow <JSON: list of [home, seconds, signal, bytes]>

Each process opens the store of `home`. It receives `signal` after `seconds`, unless that is null. If `bytes` is not null, the
process cannot write files beyond that size (`RLIMIT_FSIZE`), which stands for a disk that is full. Prints how each process
ended, as JSON: [exit status, seconds]. Imports happen once, before the forks.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from pathlib import Path


def open_mlflow(home: Path) -> None:
    from ml.tracking.run import Tracker

    Tracker(home).client().search_experiments()


def open_dagster(home: Path) -> None:
    from dagster import DagsterInstance

    os.environ["EVERGREEN_DAGSTER"] = str(home)
    os.environ["DAGSTER_HOME"] = str(Path(__file__).parents[2])
    home.mkdir(parents=True, exist_ok=True)
    with DagsterInstance.get() as instance:
        instance.get_runs(limit=1)
        instance.create_run_for_job(_job())


def _job():  # type: ignore[no-untyped-def]
    from dagster import job

    @job
    def nothing() -> None:
        pass

    return nothing


def main(kind: str, trials: list[list]) -> None:
    opener = {"mlflow": open_mlflow, "dagster": open_dagster}[kind]
    if kind == "mlflow":
        import ml.tracking.local_store as local_store
        import ml.tracking.run  # noqa: F401

        local_store._head()
    else:
        import dagster

        with dagster.DagsterInstance.local_temp():  # imports the SQLite storage
            pass
    ended = []
    for home, seconds, number, size in trials:
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            if size is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
            status = 0
            try:
                opener(Path(home))
            except BaseException as error:
                status = 1
                os.write(2, f"{type(error).__name__}: {error}\n".encode())
            os._exit(status)
        if seconds is not None:
            time.sleep(seconds)
            os.kill(child, number)
        _, status = os.waitpid(child, 0)
        ended.append([os.waitstatus_to_exitcode(status), time.monotonic() - began])
    sys.stdout.write(json.dumps(ended))


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
