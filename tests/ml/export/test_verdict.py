"""The limits of an export that was written: what is above or below them is named with its key."""

from __future__ import annotations

from typing import Any

import pytest

from ml.export.latency import Latency
from ml.export.verdict import judge_export
from ml.recipes.export import ExportRecipe

TOWERS = {"recall": 0.85, "at": 100, "queries": 512, "items": 2000}


def manifest(**limits: Any) -> dict[str, Any]:
    lost = {"metric": "AUC", "all": 0.0003, "error": 0.0002, "by_tables": 0.0003, "by_layers": 0.0}
    return {"export": ExportRecipe(**limits).model_dump(mode="json"), "lost": lost, "towers": TOWERS}


@pytest.mark.parametrize(
    ("limits", "reasons"),
    [
        ({"min_tower_recall": 0.85, "max_latency_ms": 2.0}, []),
        ({"min_tower_recall": 0.8}, []),
        ({}, ["find 0.850 of the 100 nearest items of the trained towers, less than export.min_tower_recall of 0.9"]),
        ({"min_tower_recall": 0, "max_auc_loss": 0.0002}, ["AUC lost 0.00030, more than export.max_auc_loss of 0.0002"]),
        ({"min_tower_recall": 0, "max_latency_ms": 1.5}, ["takes 2.00 ms, more than export.max_latency_ms of 1.5"]),
        ({"max_auc_loss": 0, "max_latency_ms": 1}, ["max_auc_loss", "min_tower_recall", "max_latency_ms"]),
    ],
)
def test_every_limit_is_judged(limits: dict[str, Any], reasons: list[str]) -> None:
    found = judge_export(manifest(**limits), Latency(2.0, 1000, 8, 1))
    assert len(found.reasons) == len(reasons) and all(text in real for text, real in zip(reasons, found.reasons, strict=True))
    assert found.values == {
        "lost": 0.0003,
        "tower_recall": 0.85,
        "tower_recall_at": 100,
        "tower_items": 2000,
        "latency_ms": 2.0,
        "latency_rows": 1000,
        "latency_threads": 1,
    }


def test_what_was_not_measured_is_left_out() -> None:
    found = judge_export({"export": ExportRecipe(max_latency_ms=1e-9).model_dump(mode="json")}, None)
    assert found.values == {} and found.reasons == []
