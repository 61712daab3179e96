"""What the page of an experiment shows, read from the tables in one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import sqlalchemy as sa

from ml.tuning import budget, schema
from ml.tuning.best import best, compromise
from ml.tuning.call import Call
from ml.tuning.definition import Metric, Observation, Study
from ml.tuning.engine import stopping_reasons
from ml.tuning.engine.front import feasible
from ml.tuning.experiment import Experiment
from ml.tuning.records import experiments, studies


@dataclass(frozen=True)
class Trial:
    """One observation.

    Attributes:
        number: Its position among the observations, from 1.
        id: Its id.
        result: Its assignments and values.
        state: `best`, `feasible`, `infeasible`, `failed`, or `stopped` early.
        knee: Whether it is the best compromise of two metrics.
        note: What the metadata of a failed observation says.
    """

    number: int
    id: int
    result: Observation
    state: str
    knee: bool = False
    note: str = ""


@dataclass(frozen=True)
class Results:
    """An experiment and its observations.

    Attributes:
        experiment: The experiment.
        trials: The observations, in order.
        importances: Share of a metric's variance by parameter, by optimized metric; without metrics whose shares are unknown.
        open: Number of suggestions that workers are trying.
        reasons: Why the experiment could stop.
    """

    experiment: Experiment
    trials: Sequence[Trial]
    importances: Mapping[str, Mapping[str, float]]
    open: int
    reasons: Sequence[str]

    def of(self, *states: str) -> list[Trial]:
        """Return the trials in some states."""
        return [trial for trial in self.trials if trial.state in states]


@dataclass(frozen=True)
class Listed:
    """An experiment in the list of all.

    Attributes:
        experiment: The experiment.
        observations: Number of its observations.
    """

    experiment: Experiment
    observations: int


def listed(call: Call) -> list[Listed]:
    """List the active experiments that the caller may see, of both modules, newest first."""
    table, observed = schema.experiments, schema.observations
    counts = sa.select(observed.c.experiment, sa.func.count()).where(observed.c.deleted.is_(False))
    count = {experiment: number for experiment, number in call.connection.execute(counts.group_by(observed.c.experiment))}
    query = sa.select(table).where(table.c.client == call.caller.client, table.c.state == "active")
    if call.caller.experiment is not None:
        query = query.where(table.c.id == call.caller.experiment)
    rows = call.connection.execute(query.order_by(table.c.id.desc()))
    return [Listed(experiments.from_row(row), count.get(row.id, 0)) for row in rows]


def read(call: Call) -> tuple[Results, Study]:
    """Read the results of the experiment that the path names, without its importances, and the study that gives them.

    Raises:
        ApiError: 404 if there is no such experiment of the caller.
    """
    found = experiments.requested(call)
    rows, study = studies.rows(call, found), studies.study(call, found)
    observed = [studies.observation(row) for row in rows]
    full = studies.full_cost(found, rows)
    comparable = [studies.observation(row) for row in full]
    chosen, middle = {full[n].id for n in best(found, comparable)}, compromise(found, comparable)
    knee = None if middle is None else full[middle].id
    trials = [
        Trial(n, row.id, one, _state(found.metrics, one, row.id in chosen), row.id == knee, _note(row.metadata))
        for n, (row, one) in enumerate(zip(rows, observed, strict=True), start=1)
    ]
    consumed = budget.consumed(call, found)
    return Results(found, trials, {}, round(consumed.held), stopping_reasons(study)), study


def with_importances(results: Results, study: Study) -> Results:
    """Return results with the importances, which take seconds to compute."""
    from ml.tuning.engine.importances import importances  # imports Optuna

    metrics = results.experiment.optimized or results.experiment.metrics
    shares = {metric.name: importances(study, metric.name) for metric in metrics}
    return replace(results, importances={name: found for name, found in shares.items() if found})


def _state(metrics: Sequence[Metric], one: Observation, chosen: bool) -> str:
    if one.failed:
        return "stopped" if one.stopped else "failed"
    return "best" if chosen else "feasible" if feasible(metrics, one) else "infeasible"


def _note(metadata: Mapping[str, object] | None) -> str:
    return str((metadata or {}).get("log", ""))
