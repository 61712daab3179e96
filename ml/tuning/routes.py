"""All calls of the API."""

from __future__ import annotations

from ml.tuning.handlers import (
    accounts,
    aiexperiments,
    checkpoints,
    experiments,
    files,
    observations,
    projects,
    queued_suggestions,
    results,
    suggestion_checkpoints,
    suggestions,
    tags,
    training_runs,
)

ROUTES = (
    *accounts.ROUTES,
    *projects.ROUTES,
    *experiments.ROUTES,
    *suggestions.ROUTES,
    *suggestion_checkpoints.ROUTES,
    *queued_suggestions.ROUTES,
    *observations.ROUTES,
    *results.ROUTES,
    *aiexperiments.ROUTES,
    *training_runs.ROUTES,
    *checkpoints.ROUTES,
    *files.ROUTES,
    *tags.ROUTES,
)
