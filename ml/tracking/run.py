"""MLflow runs of trained days: metrics, recipe, system metrics, and the model, registered as a version.

There is one experiment per dataset and one run per model and day, named after them. When a day is trained again, older runs of
the day are deleted once the new run has finished, so that there is one run per day (MLflow keeps deleted runs until `mlflow
gc`). A run has the day's metrics, its recipe (`recipe.yaml`), system metrics (`system/*`) and its model, which is also a
version in the registry.

If MLflow is unreachable when a run starts, the run fails; later errors are only logged.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from mlflow.entities import Metric, Param, Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.validation import MAX_ENTITY_KEY_LENGTH

from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.recipes.recipe import Recipe
from ml.tracking.local_store import open_store, store_uri
from ml.tracking.model import EXAMPLE_ROWS, log_model
from ml.tracking.registry import DAY, DIGEST, MODEL, register
from ml.tracking.system_metrics import system_metrics
from ml.training.report import Step, TrainedDay

_POINTS = 200  # points of a curve over a day
_SECONDS_BETWEEN_BATCHES = 30.0
_BATCH = 500  # metrics in one request; servers take at most 1000
_PAUSE = 10  # pause after a failed request, as a multiple of its duration
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tracker:
    """Opens an MLflow run for each day that is trained; implements `ml.training.tracker.Tracker`.

    Attributes:
        home: Local folder of the SQLite store and the artifacts, unless `MLFLOW_TRACKING_URI` is set.
        tags: Tags of every run, besides dataset and day, such as the id of the Dagster run.
        log_model: Whether to log each day's model as a loadable `pyfunc`, and register it.
        example_rows: Number of raw log rows that are stored with a model as an example of its input.

    Example:
        >>> tracker = Tracker(Path("/data/mlflow"), tags={"team": "ads"}, log_model=False)
        >>> tracker.tags["team"]
        'ads'
    """

    home: Path
    tags: Mapping[str, str] = field(default_factory=dict)
    log_model: bool = True
    example_rows: int = EXAMPLE_ROWS

    @property
    def server(self) -> str | None:
        """URI of the user's own MLflow server or store, if there is one."""
        return os.environ.get("MLFLOW_TRACKING_URI") or None

    @property
    def uri(self) -> str:
        """URI of the store that runs are written to."""
        return self.server or store_uri(self.home)

    def client(self) -> MlflowClient:
        """Connect to the store. A local store is created, or migrated to the installed MLflow, if necessary.

        Raises:
            StoreUnusable: The local store cannot be created, read or migrated, for example because the disk is full.
        """
        if self.server:
            return MlflowClient(self.uri)
        with open_store(self.home) as uri:
            return MlflowClient(uri)

    @contextmanager
    def follow(self, lake: Lake, spec: DatasetSpec, model: str, day: str, recipe: Recipe, total_steps: int) -> Iterator[DayRun]:
        """Open a run for the training of one day; see `ml.training.tracker.Tracker.follow`.

        The run ends as FINISHED, as FAILED after an error, or as KILLED after a signal.

        Raises:
            MlflowException: The store is unreachable when the run starts.
        """
        client = self.client()
        experiment = self.experiment(client, spec)
        tags = {"evergreen.dataset": spec.name, MODEL: model, DAY: day, **self.tags}
        run = client.create_run(experiment, tags=tags, run_name=f"{model} {day}")
        following = DayRun(self, client, run, lake, spec, model, day, max(1, total_steps // _POINTS))
        try:
            params = {"fingerprint": recipe.fingerprint} | flatten(recipe.model_dump(mode="json"))
            keys = legal_keys(params)
            client.log_batch(run.info.run_id, params=[Param(keys[name], str(value)) for name, value in params.items()])
            written = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
            client.log_text(run.info.run_id, written, "recipe.yaml")
            with system_metrics(self.uri, run.info.run_id):
                yield following
        except Exception:
            following.end("FAILED")
            raise
        except BaseException:
            following.end("KILLED")
            raise
        following.end("FINISHED")

    def experiment(self, client: MlflowClient, spec: DatasetSpec) -> str:
        """Return the id of the MLflow experiment of a dataset, which is created or restored if necessary."""
        found = client.get_experiment_by_name(spec.name)
        if found is not None:
            if found.lifecycle_stage == "deleted":
                client.restore_experiment(found.experiment_id)
            return found.experiment_id
        artifacts = None
        if self.server is None:
            artifacts = (self.home / "mlflow-artifacts" / spec.name).absolute().as_uri()
        try:
            return client.create_experiment(spec.name, artifact_location=artifacts)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return self.experiment(client, spec)  # another run created it in the meantime


@dataclass
class DayRun:
    """One MLflow run; implements `ml.training.tracker.DayObserver`.

    Attributes:
        tracker: The tracker that opened the run.
        client: MLflow's client.
        run: MLflow's run.
        lake: Where the day is stored.
        spec: The dataset.
        model: Name of the model.
        day: `YYYY-MM-DD`.
        every: Number of steps that one point of the curves covers.
    """

    tracker: Tracker
    client: MlflowClient
    run: Run
    lake: Lake
    spec: DatasetSpec
    model: str
    day: str
    every: int
    _metrics: list[Metric] = field(default_factory=list)
    _loss: float = 0.0
    _terms: int = 0
    _warned: bool = False
    _next: float = field(default_factory=lambda: time.monotonic() + _SECONDS_BETWEEN_BATCHES)

    def step(self, step: Step) -> None:
        """Record a step. Points of the curves cover several steps, and are sent in batches."""
        self._loss, self._terms = self._loss + step.loss * step.num_losses, self._terms + step.num_losses
        if (step.index + 1) % self.every:
            return
        now = int(time.time() * 1000)
        point = {f"lr_{name}": rate for name, rate in step.learning_rates.items()}
        if self._terms:
            point["running_loss"] = self._loss / self._terms
        self._metrics += [Metric(name, value, now, step.index + 1) for name, value in point.items()]
        self._loss, self._terms = 0.0, 0
        if time.monotonic() > self._next:
            self._send()

    def finish(self, trained: TrainedDay) -> None:
        """Log the day's metrics and model, and delete older runs of the day.

        The day is in the lake by then, so errors are logged and not raised.
        """
        now = int(time.time() * 1000)
        self._metrics += [Metric(name, value, now, trained.report.steps) for name, value in trained.metrics.items()]
        try:
            self._publish(trained)
        except Exception as error:  # each kind of store raises its own errors
            missing = "its model, or its version in the registry," if self.tracker.log_model else "its tags"
            self._warn(f"{missing} may be missing; the day itself is trained. Materialise it again to log it", error)

    def _publish(self, trained: TrainedDay) -> None:
        own = self.run.info
        self.client.set_tag(own.run_id, DIGEST, trained.digest)
        self.client.set_tag(own.run_id, "evergreen.base", "/".join(trained.base or ()))
        if self.tracker.log_model:
            rows = self.tracker.example_rows
            logged = log_model(self.client, own.run_id, self.lake, self.spec, self.day, self.model, rows)
            if self.spec.models[self.model].serve == "daily":
                register(self.client, self.spec.name, logged, self.model, self.day, trained.digest)
        same = f"tags.`{MODEL}` = '{self.model}' and tags.`{DAY}` = '{self.day}'"
        # A run that started later is in progress, or has replaced this one.
        where = f"{same} and attributes.run_id != '{own.run_id}' and attributes.start_time <= {own.start_time}"
        for older in self.client.search_runs([own.experiment_id], where):
            self.client.delete_run(older.info.run_id)
            if self.tracker.log_model:  # otherwise their models may still be versions in the registry
                for output in older.outputs.model_outputs if older.outputs else ():
                    self.client.delete_logged_model(output.model_id)

    def end(self, status: str) -> None:
        """Mark the run as FINISHED, FAILED or KILLED; errors are logged and not raised."""
        self._send()
        try:
            self.client.set_terminated(self.run.info.run_id, status)
        except MlflowException as error:
            self._warn(f"it is not marked as {status}", error)
        if self._metrics:
            _log.warning("MLflow run %s of %s %s: %d metrics are lost", *self._which, len(self._metrics))

    def _send(self) -> None:
        """Send the metrics recorded so far. Metrics that the store does not accept are kept for the next attempt."""
        begin = time.monotonic()
        pause = _SECONDS_BETWEEN_BATCHES
        try:
            while self._metrics:
                self.client.log_batch(self.run.info.run_id, metrics=self._metrics[:_BATCH])
                del self._metrics[:_BATCH]
        except MlflowException as error:
            if not self._warned:
                self._warn("metrics are kept until the store accepts them", error)
            self._warned, pause = True, max(pause, _PAUSE * (time.monotonic() - begin))
        self._next = time.monotonic() + pause

    @property
    def _which(self) -> tuple[str, str, str]:
        return self.run.info.run_id, self.model, self.day

    def _warn(self, what: str, error: Exception) -> None:
        _log.warning("MLflow run %s of %s %s: %s (%s: %s)", *self._which, what, type(error).__name__, error)


def legal_keys(names: Iterable[str]) -> dict[str, str]:
    """Convert distinct names to distinct keys that MLflow allows.

    Characters except ASCII letters, digits and `_-. :/` become code points. Keys that are then too long, or that equal the key
    of another name, are shortened and end in a hash of the name.

    >>> legal_keys(["tables.features.größe|x.rows"])
    {'tables.features.größe|x.rows': 'tables.features.gr_f6__df_e_7c_x.rows'}
    """
    escaped = {name: re.sub(r"[^A-Za-z0-9_\-. :/]", lambda found: f"_{ord(found[0]):x}_", name) for name in names}
    shared = Counter(escaped.values())
    return {
        name: key if len(key) <= MAX_ENTITY_KEY_LENGTH and (shared[key] == 1 or key == name) else _hashed(name, key)
        for name, key in escaped.items()
    }


def _hashed(name: str, key: str) -> str:
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"{key[: MAX_ENTITY_KEY_LENGTH - len(digest) - 1]}-{digest}"


def flatten(mapping: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Flatten nested mappings, joining their keys by dots.

    >>> flatten({"model": {"kind": "dlrm", "top": [64]}})
    {'model.kind': 'dlrm', 'model.top': [64]}
    """
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        flat |= flatten(value, f"{path}{key}.") if isinstance(value, Mapping) and value else {f"{path}{key}": value}
    return flat
