"""Parameters that fit the recipe of the DLRM."""

from __future__ import annotations

from typing import Any

from ml.recipes.search import Search, SearchedParameter

LR = {
    "name": "lr",
    "key": "dense_optimizer.lr",
    "type": "double",
    "bounds": {"min": 1e-4, "max": 1e-1},
    "transformation": "log",
}
BATCH = {"name": "batch", "key": "batch_size", "type": "int", "grid": [128, 256, 512]}
TOP = {"name": "top", "key": "model.top", "type": "categorical", "categorical_values": ["512-256", "128-64", "64"]}
SHORTCUT = {"name": "wide", "key": "model.linear_shortcut", "type": "categorical", "categorical_values": ["true", "false"]}
UNITS = {"name": "units", "key": "model.top.1", "type": "int", "bounds": {"min": 8, "max": 128}}


def parameters(*found: dict[str, Any]) -> tuple[SearchedParameter, ...]:
    return Search.model_validate({"parameters": found}).parameters
