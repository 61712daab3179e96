"""The catalog entry of the dataset of a closed loop: a log of impressions and one of clicks, on which a DLRM is trained."""

from __future__ import annotations

from typing import Any

from ml.days import shift_day
from ml.loop.settings import DATASET, WAIT_MINUTES, Settings

REQUEST, ITEM, USER = "request", "item", "user"
ITEM_COLUMNS = {"category": "string", "price": "float", "tags": "string"}
CONTEXT_COLUMNS = {"country": "string", "age_group": "string", "device": "string"}
_LIVE_HOURS = 744.0  # items are never born, and do not die


def loop_entry(settings: Settings) -> dict[str, Any]:
    """Return the catalog entry of the dataset.

    All items are candidates, by their clicks in the history, so the quality of recommendations depends on the ranking model.

    Args:
        settings: Days, and the pace, which says how late an event can be.
    """
    key = {REQUEST: "string", ITEM: "int"}
    return {
        "name": DATASET,
        "description": "Simulated: requests and clicks of a closed loop, in simulated time.",
        "source": {
            "files": "impressions/%Y-%m-%d-*.parquet",
            "format": "parquet",
            "columns": {"shown_at": "int", **key, USER: "int", **CONTEXT_COLUMNS, **ITEM_COLUMNS},
        },
        "time": {"column": "shown_at", "unit": "us"},
        "partitions": {"start": settings.first_day, "end": shift_day(settings.first_day, 30)},
        "actions": {
            "source": {"files": "actions/%Y-%m-%d-*.parquet", "format": "parquet", "columns": {"at": "int", **key}},
            "time": {"column": "at", "unit": "us"},
            "key": list(key),
            "lateness_minutes": settings.lateness_minutes,
            "labels": {"clicked": {"within_minutes": WAIT_MINUTES}},
        },
        "label": {"column": "clicked"},
        "user": USER,
        "item": ITEM,
        "item_columns": list(ITEM_COLUMNS),
        "dense": [{"name": "price", "log1p": True}],
        "sparse": [
            USER,
            ITEM,
            "category",
            *CONTEXT_COLUMNS,
            {"name": "tags", "split": "|", "max_values": 8},
            {"name": "country_x_category", "cross": ["country", "category"]},
            {"name": "age_x_category", "cross": ["age_group", "category"]},
            {"name": "country_x_item", "cross": ["country", ITEM]},
        ],
        "ranking": {"live_hours": _LIVE_HOURS, "popularity_minutes": [60 * _LIVE_HOURS]},
        "recipe": {
            "advice": "explain",
            "overrides": {
                "model": {"embedding_dim": 8, "bottom": [16], "top": [32]},
                "batch_size": 128,
                "online": {"batch_size": 64, "learning_rate": 3.0},
            },
        },
    }
