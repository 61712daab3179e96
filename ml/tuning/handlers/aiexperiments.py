"""Experiments of the AI module, where runs take the place of suggestions and observations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ml.tuning import schema
from ml.tuning.best import best
from ml.tuning.call import Call
from ml.tuning.errors import missing
from ml.tuning.experiment import Experiment
from ml.tuning.handlers import experiments as core
from ml.tuning.handlers import projects
from ml.tuning.handlers.training_runs import read_new
from ml.tuning.pages import flag
from ml.tuning.parse import experiments as parser
from ml.tuning.records import experiments, studies
from ml.tuning.router import Route
from ml.tuning.runs import outcome
from ml.tuning.runs import table as runs
from ml.tuning.sorted_pages import sort_key, sorted_page
from ml.tuning.values import Reader


def create(call: Call) -> dict[str, Any]:
    """Create an experiment of a project."""
    project = projects.find(call).id
    core.require_production(call)
    return core.show(call, core.store(call, replace(parser.experiment(call.data, in_project=True), project=project)))


def fetch(call: Call) -> dict[str, Any]:
    """Fetch an experiment."""
    return core.show(call, _requested(call))


def update(call: Call) -> dict[str, Any]:
    """Change an experiment: only the keys that are given."""
    _requested(call)
    return core.update(call)


def delete(call: Call) -> dict[str, Any]:
    """Archive an experiment; with `include_runs`, also its runs."""
    found = _requested(call)
    if flag(call.data, "include_runs"):
        columns = runs.table.c
        for run in runs.selected(call, columns.experiment == found.id, columns.deleted.is_(False)):
            outcome.set_deleted(call, run, deleted=True)
            runs.save(call, run["id"], {"deleted": True})
    return core.delete(call)


def listed(call: Call) -> dict[str, Any]:
    """List experiments of a client or project, by default the active ones."""
    if "project" in call.arguments:
        projects.find(call)
    return core.page_of(call, schema.experiments.c.runs_only.is_(True))


def create_run(call: Call) -> dict[str, Any]:
    """Create a run of an experiment, which tries the next suggestion unless the request has assignments or a result."""
    columns = read_new(Reader(call.data))
    found = _requested(call, lock=True)
    parser.require_active(found, "training runs")
    run = outcome.create(call, found, columns)
    experiments.touch(call, found.id)
    return runs.shown(call, [run])[0]


def best_runs(call: Call) -> dict[str, Any]:
    """List the runs with the best results that meet all thresholds: one, or the Pareto front of two optimized metrics."""
    found = _requested(call)
    rows = studies.full_cost(found, studies.rows(call, found))
    chosen = {rows[index].id for index in best(found, [studies.observation(row) for row in rows])}
    columns = runs.table.c
    selected = runs.selected(call, columns.experiment == found.id, columns.deleted.is_(False))
    selected = [run for run in selected if run["observation"] in chosen]
    page = sorted_page(((sort_key(run["id"], run["id"]), run) for run in selected), call.data, lambda run: {"run": run})
    return {**page, "data": runs.shown(call, [item["run"] for item in page["data"]])}


def _requested(call: Call, *, lock: bool = False) -> Experiment:
    found = experiments.requested(call, lock=lock)
    if not found.runs_only:
        raise missing("experiment of the AI module", found.id)
    return found


ROUTES = (
    Route("POST", "clients/{client}/projects/{project}/aiexperiments", create),
    Route("GET", "clients/{client}/projects/{project}/aiexperiments", listed),
    Route("GET", "clients/{client}/aiexperiments", listed),
    Route("GET", "aiexperiments", listed),
    Route("GET", "aiexperiments/{experiment}", fetch),
    Route("PUT", "aiexperiments/{experiment}", update),
    Route("DELETE", "aiexperiments/{experiment}", delete),
    Route("POST", "aiexperiments/{experiment}/training_runs", create_run),
    Route("GET", "aiexperiments/{experiment}/best_training_runs", best_runs),
)
