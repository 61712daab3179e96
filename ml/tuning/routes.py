"""All calls of the API."""

from __future__ import annotations

from ml.tuning.handlers import experiments

ROUTES = (*experiments.ROUTES,)
