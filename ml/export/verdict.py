"""Whether an export is as good as the trained model: the loss, the recall of two towers, and the time of predictions.

An export with a loss that is significantly above the limit is refused before it is written; see `ml.export.day`. What is judged
here was written and is served.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ml.export.latency import Latency
from ml.recipes.export import ExportRecipe


@dataclass(frozen=True)
class ExportVerdict:
    """The verdict on an export.

    Attributes:
        values: Measured values by name; what was not measured is left out.
        reasons: What is worse than the recipe asks for; empty if nothing is.
    """

    values: dict[str, float]
    reasons: list[str]


def judge_export(manifest: Mapping[str, Any], latency: Latency | None) -> ExportVerdict:
    """Judge an export by the limits of the recipe that it was written with.

    Args:
        manifest: The manifest of the export.
        latency: Time of predictions; None if it was not measured.
    """
    recipe = ExportRecipe.model_validate(manifest["export"])
    values: dict[str, float] = {}
    reasons: list[str] = []
    if (lost := manifest.get("lost")) is not None:
        values["lost"] = lost["all"]
        if lost["all"] > recipe.max_auc_loss:
            reasons.append(
                f"{lost['metric']} lost {lost['all']:.5f}, more than export.max_auc_loss of {recipe.max_auc_loss}, although "
                "not significantly"
            )
    if (towers := manifest.get("towers")) is not None:
        values |= {"tower_recall": towers["recall"], "tower_recall_at": towers["at"], "tower_items": towers["items"]}
        if towers["recall"] < recipe.min_tower_recall:
            reasons.append(
                f"the exported towers find {towers['recall']:.3f} of the {towers['at']} nearest items of the trained towers, "
                f"less than export.min_tower_recall of {recipe.min_tower_recall}; give the tables more bits (export.rows)"
            )
    if latency is not None:
        values |= {"latency_ms": latency.milliseconds, "latency_rows": latency.rows, "latency_threads": latency.threads}
        if recipe.max_latency_ms is not None and latency.milliseconds > recipe.max_latency_ms:
            reasons.append(
                f"a batch of {latency.rows} rows takes {latency.milliseconds:.2f} ms, more than export.max_latency_ms of "
                f"{recipe.max_latency_ms:g}"
            )
    return ExportVerdict(values, reasons)
