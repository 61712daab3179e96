"""CPU, memory, disk, network and GPU of the machine while a run lasts: MLflow's readings, at a pace for runs of seconds.

MLflow's monitor asks the server for the run's state before every point and leaves the last one out; here the points lie close
at first and ever further apart, there is one more at the end, and nothing is asked for.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow.environment_variables import MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL

_SECONDS = 1.0  # between two points,
_SHARE = 0.01  # or this share of the time since the first, where that is longer
_PATIENCE = 10.0  # seconds, for the last point
_log = logging.getLogger(__name__)


@contextmanager
def system_metrics(uri: str, run_id: str) -> Iterator[None]:
    """Points of the run's `system/*` metrics while the block lasts. What goes wrong with them is warned of, and not raised."""
    over = threading.Event()
    thread = threading.Thread(target=_watch, args=(uri, run_id, over), name="system-metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(_PATIENCE)
        if thread.is_alive():
            _log.warning("MLflow run %s: the store takes the last system metrics late or never", run_id)


def _watch(uri: str, run_id: str, over: threading.Event) -> None:
    try:
        # These need psutil, which MLflow does without until it is asked for them.
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        monitor = SystemMetricsMonitor(run_id, tracking_uri=uri)
        pause = MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL.get() or _SECONDS
        began, ended = time.monotonic(), False
        monitor.collect_metrics()  # a rate is since the reading before, and this is the first
        for part in monitor.monitors:
            part.clear_metrics()
        while not ended:
            ended = over.wait(max(pause, _SHARE * (time.monotonic() - began)))
            monitor.collect_metrics()
            monitor.publish_metrics(monitor.aggregate_metrics())
        monitor.mlflow_logger.flush()
    except Exception as error:  # figures of the machine are no reason to lose a day's training
        _log.warning("no (more) system metrics of MLflow run %s: %s: %s", run_id, type(error).__name__, error)
