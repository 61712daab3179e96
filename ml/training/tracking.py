"""MLflow: what a day's training leaves there. Training itself knows `Tracker.follow` alone and works without it.

One experiment per dataset, one run per model and day, named as they are. A day that is trained again is a new run, which takes
the place of the older ones when it has finished: those are deleted (MLflow keeps them in its trash until `mlflow gc`),
so that the list of runs is the list of days. Beside its metrics a run holds its recipe (`recipe.yaml`), what the machine did
(`system/*`) and the day's model, which is a version in the registry too.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient

from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.recipes.recipe import Recipe
from ml.training.logged_model import log_model
from ml.training.loop import Step
from ml.training.registry import DAY, DIGEST, MODEL, register
from ml.training.system_metrics import system_metrics

if TYPE_CHECKING:
    from ml.training.daily import TrainedDay

_POINTS = 200  # of a curve over a day
_SECONDS_BETWEEN_BATCHES = 30.0
_BATCH = 500  # metrics in one request; servers take at most 1000


@dataclass(frozen=True)
class Tracker:
    """Where runs go. home: a local folder for the SQLite store and the artifacts, unless `MLFLOW_TRACKING_URI` is set.

    tags: on every run, beside dataset and day; the id of the Dagster run belongs here. log_model: whether to log the
    model of each day as a loadable `pyfunc`, and register it.
    """

    home: Path
    tags: Mapping[str, str] = field(default_factory=dict)
    log_model: bool = True

    @property
    def server(self) -> str | None:
        """An MLflow server or store of the user's own."""
        return os.environ.get("MLFLOW_TRACKING_URI") or None

    @property
    def uri(self) -> str:
        return self.server or f"sqlite:///{(self.home / 'mlflow.db').absolute()}"

    def client(self) -> MlflowClient:
        return MlflowClient(self.uri)

    @contextmanager
    def follow(self, lake: Lake, spec: DatasetSpec, model: str, day: str, recipe: Recipe, total_steps: int) -> Iterator[DayRun]:
        """A run for one day's training. It ends FINISHED by `DayRun.finish`, FAILED by an error and KILLED by a signal."""
        client = self.client()
        experiment = self._experiment(client, spec)
        tags = {"evergreen.dataset": spec.name, MODEL: model, DAY: day, **self.tags}
        run = client.create_run(experiment, tags=tags, run_name=f"{model} {day}")
        following = DayRun(self, client, experiment, run.info.run_id, lake, spec, model, day, max(1, total_steps // _POINTS))
        try:
            params = {"fingerprint": recipe.fingerprint} | flatten(recipe.model_dump(mode="json"))
            client.log_batch(run.info.run_id, params=[Param(legal(key), str(value)) for key, value in params.items()])
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

    def _experiment(self, client: MlflowClient, spec: DatasetSpec) -> str:
        found = client.get_experiment_by_name(spec.name)
        if found is not None:
            if found.lifecycle_stage == "deleted":
                client.restore_experiment(found.experiment_id)
            return found.experiment_id
        artifacts = None
        if self.server is None:
            artifacts = (self.home / "mlflow-artifacts" / spec.name).absolute().as_uri()
        return client.create_experiment(spec.name, artifact_location=artifacts)


@dataclass
class DayRun:
    """One run. every: how many steps a point of the curves stands for."""

    tracker: Tracker
    client: MlflowClient
    experiment: str
    run_id: str
    lake: Lake
    spec: DatasetSpec
    model: str
    day: str
    every: int
    _metrics: list[Metric] = field(default_factory=list)
    _loss: float = 0.0
    _terms: int = 0
    _sent: float = field(default_factory=time.monotonic)

    def step(self, step: Step) -> None:
        """Take note of a step; every so often a point of the curves, and more seldom still a request."""
        self._loss, self._terms = self._loss + step.loss * step.terms, self._terms + step.terms
        if (step.index + 1) % self.every:
            return
        now = int(time.time() * 1000)
        point = {f"lr_{name}": rate for name, rate in step.learning_rates.items()}
        if self._terms:
            point["running_loss"] = self._loss / self._terms
        self._metrics += [Metric(name, value, now, step.index + 1) for name, value in point.items()]
        self._loss, self._terms = 0.0, 0
        if time.monotonic() - self._sent > _SECONDS_BETWEEN_BATCHES:
            self._send()

    def finish(self, trained: TrainedDay) -> None:
        """The day's figures and its model; older runs of the day make room."""
        now = int(time.time() * 1000)
        self._metrics += [Metric(name, value, now, trained.report.steps) for name, value in trained.metrics.items()]
        self.client.set_tag(self.run_id, DIGEST, trained.digest)
        self.client.set_tag(self.run_id, "evergreen.parent_day", trained.parent or "")
        if self.tracker.log_model:
            logged = log_model(self.client, self.run_id, self.lake, self.spec, self.day, self.model)
            register(self.client, self.spec.name, logged, self.model, self.day, trained.digest)
        same = f"tags.`{MODEL}` = '{self.model}' and tags.`{DAY}` = '{self.day}'"
        where = f"{same} and attributes.run_id != '{self.run_id}'"
        for older in self.client.search_runs([self.experiment], where):
            self.client.delete_run(older.info.run_id)
            if self.tracker.log_model:  # else their models may still be versions in the registry
                for output in older.outputs.model_outputs if older.outputs else ():
                    self.client.delete_logged_model(output.model_id)

    def end(self, status: str) -> None:
        self._send()
        self.client.set_terminated(self.run_id, status)

    def _send(self) -> None:
        for first in range(0, len(self._metrics), _BATCH):
            self.client.log_batch(self.run_id, metrics=self._metrics[first : first + _BATCH])
        self._metrics.clear()
        self._sent = time.monotonic()


def legal(key: str) -> str:
    """A name as MLflow allows it: other letters than Latin ones, and signs, become their code points.

    >>> legal("tables.features.größe|x.rows")
    'tables.features.gr_f6__df_e_7c_x.rows'
    """
    return re.sub(r"[^A-Za-z0-9_\-. :/]", lambda found: f"_{ord(found[0]):x}_", key)


def flatten(mapping: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Nested mappings as one, keys joined by dots.

    >>> flatten({"model": {"kind": "dlrm", "top": [64]}})
    {'model.kind': 'dlrm', 'model.top': [64]}
    """
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        flat |= flatten(value, f"{path}{key}.") if isinstance(value, Mapping) and value else {f"{path}{key}": value}
    return flat
