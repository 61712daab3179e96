"""All calls of the API."""

from __future__ import annotations

from ml.tuning.handlers import experiments, observations, queued_suggestions, results, suggestions

ROUTES = (*experiments.ROUTES, *suggestions.ROUTES, *queued_suggestions.ROUTES, *observations.ROUTES, *results.ROUTES)
