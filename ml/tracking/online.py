"""Logs a day of online training in MLflow, and registers its state, to which the aliases of the dataset then point."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from mlflow.entities import Metric

from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.stages import online_updates
from ml.tracking.model import log_model
from ml.tracking.registry import DAY, DIGEST, register
from ml.tracking.run import Tracker

ONLINE = "evergreen.online"  # tag of the runs of online training: name of the model
_log = logging.getLogger("evergreen")


def log_online_day(tracker: Tracker, lake: Lake, spec: DatasetSpec, model: str, day: str, metrics: Mapping[str, float]) -> None:
    """Log the metrics and the state of a day that was trained online, in place of an earlier run of the same day.

    The registry's version of the day becomes the online state. The day is in the lake by then, so errors are logged and not
    raised.

    Args:
        tracker: Where to log.
        lake: Where the day is stored.
        spec: The dataset.
        model: Name of the model, which the entry serves online.
        day: `YYYY-MM-DD`.
        metrics: Metrics of the day by name.
    """
    try:
        client, stage = tracker.client(), online_updates(model)
        digest, experiment = lake.digest(stage, spec.name, day), tracker.experiment(client, spec)
        same = {ONLINE: model, DAY: day}
        older = client.search_runs([experiment], " and ".join(f"tags.`{key}` = '{value}'" for key, value in same.items()))
        tags = {"evergreen.dataset": spec.name, DIGEST: digest, **same, **tracker.tags}
        run = client.create_run(experiment, tags=tags, run_name=f"{model} {day} online").info
        now = int(time.time() * 1000)
        client.log_batch(run.run_id, metrics=[Metric(name, value, now, 0) for name, value in metrics.items()])
        if tracker.log_model:
            logged = log_model(client, run.run_id, lake, spec, day, model, tracker.example_rows, stage)
            register(client, spec.name, logged, model, day, digest)
        for before in older:
            client.delete_run(before.info.run_id)
            for output in before.outputs.model_outputs if tracker.log_model and before.outputs else ():
                client.delete_logged_model(output.model_id)
        client.set_terminated(run.run_id, "FINISHED")
    except Exception as error:  # each kind of store raises its own errors
        _log.warning(
            "MLflow: the online training of %s of %s may be missing; the day itself is trained. Materialise it again to log it "
            "(%s: %s)", *(model, day, type(error).__name__, error),
        )  # fmt: skip
