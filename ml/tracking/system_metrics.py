"""System metrics of the machine during a run: CPU, memory, disk, network and GPU, sampled often enough for runs of seconds.

MLflow's own monitor requests the state of the run from the server before every point, and drops the last point. This one sends
no such requests and records a last point. The first points are close together, and the intervals grow with the length of the
run.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow.environment_variables import MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL

_SECONDS = 1.0  # shortest interval between two points
_SHARE = 0.01  # interval as a fraction of the time since the first point, if that is longer
_PATIENCE = 10.0  # seconds to wait for the last point
_log = logging.getLogger(__name__)


@contextmanager
def system_metrics(uri: str, run_id: str) -> Iterator[None]:
    """Record `system/*` metrics of a run within the block. Errors are logged and not raised.

    Args:
        uri: URI of the MLflow store.
        run_id: The run.
    """
    over = threading.Event()
    thread = threading.Thread(target=_watch, args=(uri, run_id, over), name="system-metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(_PATIENCE)
        if thread.is_alive():
            _log.warning("MLflow run %s: the last system metrics are late or lost", run_id)


def _watch(uri: str, run_id: str, over: threading.Event) -> None:
    try:
        # Needs psutil, which MLflow imports only for system metrics.
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        monitor = SystemMetricsMonitor(run_id, tracking_uri=uri)
        pause = MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL.get() or _SECONDS
        began, ended = time.monotonic(), False
        monitor.collect_metrics()  # rates are relative to the previous reading, and this is the first
        for part in monitor.monitors:
            part.clear_metrics()
        while not ended:
            ended = over.wait(max(pause, _SHARE * (time.monotonic() - began)))
            monitor.collect_metrics()
            monitor.publish_metrics(monitor.aggregate_metrics())
        monitor.mlflow_logger.flush()
    except Exception as error:  # system metrics are no reason to lose a day's training
        _log.warning("MLflow run %s: system metrics stopped (%s: %s)", run_id, type(error).__name__, error)
