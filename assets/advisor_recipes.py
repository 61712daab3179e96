"""The day's recipes: how each model is trained, and where each value comes from."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from assets.days import each_day
from assets.partitions import days_before
from assets.policy import daily_asset, key
from assets.resources import LakeResource
from assets.tables import table
from ml import stages
from ml.advisor.window import WINDOW
from ml.catalog.spec import DatasetSpec


def build(spec: DatasetSpec, model: str) -> dg.AssetsDefinition:
    """Build the asset of one model of a dataset."""
    stage = stages.advisor_recipes(model)

    @daily_asset(
        spec,
        stage,
        kinds={"yaml"},
        deps=[
            dg.AssetDep(key(spec, stage), partition_mapping=days_before(1, 1)),
            dg.AssetDep(key(spec, stages.FEATURE_PROFILES), partition_mapping=days_before(WINDOW, 1)),
            key(spec, stages.tuning_results(model)),
        ],
        description=f"Recipe that trains {model} on the day. Your edits: catalog/recipes/{spec.name}/{model}.yaml.",
    )
    def advisor_recipes(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
        from ml.advisor.advice import Suggestion
        from ml.advisor.day import advise_day
        from ml.advisor.explain import suggestion_line
        from ml.recipes.edits import flat

        def work(day: str) -> dict[str, Any]:
            done = advise_day(spec, model, day, lake.open())
            reasons = {value["key"]: value["reason"] for value in done.advice.values}
            suggestions = [f"- {suggestion_line(Suggestion(**each))}" for each in done.advice.suggestions]
            return {
                "recipe": _values(flat(done.recipe.model_dump(mode="json")), done.origins, reasons),
                **({"suggestions": dg.MetadataValue.md("\n".join(suggestions))} if suggestions else {}),
                "fingerprint": done.recipe.fingerprint,
                **(
                    {"overrode": dg.MetadataValue.json({each.key: each.value for each in done.overrode})}
                    if done.overrode
                    else {}
                ),
                **({"refused": dg.MetadataValue.json(dict(done.refused))} if done.refused else {}),
                "path": dg.MetadataValue.path(str(done.folder)),
            }

        return each_day(context, work)

    return advisor_recipes


def _values(values: Mapping[str, Any], origins: Mapping[str, str], reasons: Mapping[str, str]) -> dg.TableMetadataValue:
    """One row per value of the recipe, with the reason of an advised value."""
    rows = []
    for name, value in values.items():
        origin = origins.get(name, "")
        reason = reasons.get(name, "") if origin.startswith("advice") else ""
        rows.append({"key": name, "value": str(value), "origin": origin, "reason": reason})
    return table(dict.fromkeys(("key", "value", "origin", "reason"), "string"), rows)
