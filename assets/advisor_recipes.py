"""The day's recipes: how each model is trained, and where each value comes from."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from assets.days import each_day
from assets.partitions import days_before
from assets.policy import daily_asset, key
from assets.resources import LakeResource, MlflowResource
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
    def advisor_recipes(context: dg.AssetExecutionContext, lake: LakeResource, mlflow: MlflowResource) -> dg.MaterializeResult:
        from ml.advisor.advice import Suggestion
        from ml.advisor.day import advise_day
        from ml.advisor.explain import suggestion_line
        from ml.recipes.edits import flat

        def work(day: str) -> dict[str, Any]:
            done = advise_day(spec, model, day, lake.open(), Path(mlflow.home))
            suggestions = [suggestion_line(Suggestion(**each)) for each in done.advice.suggestions]
            overrode = [{"key": of.key, "replaced": f"{_text(of.value)} ({of.origin})", "by": of.by} for of in done.overrode]
            return {
                **({"advice": _advice(done.advice.values, done.origins)} if done.advice.values else {}),
                **({"warnings": _lines("warning", done.advice.warnings)} if done.advice.warnings else {}),
                **({"suggestions": _lines("suggestion", suggestions)} if suggestions else {}),
                **({"overrode": _table(overrode)} if overrode else {}),
                **({"refused": dg.MetadataValue.json(dict(done.refused))} if done.refused else {}),
                "recipe": _values(flat(done.recipe.model_dump(mode="json")), done.origins),
                "sigopt": _search(done.search.section, done.origins),
                "fingerprint": done.recipe.fingerprint,
                "path": dg.MetadataValue.path(str(done.folder)),
            }

        return each_day(context, work)

    return advisor_recipes


def _advice(values: Sequence[Mapping[str, Any]], origins: Mapping[str, str]) -> dg.TableMetadataValue:
    """One row per advised value with its reason. Tables with the same advice share a row."""
    from ml.advisor.advice import Advised
    from ml.advisor.explain import shown, together

    rows = []
    for keys, of in together(Advised(**value) for value in values):
        applied = "" if origins.get(of.key, "").startswith("advice") else "; not applied"
        advised = f"{shown(of.value)}; without advice {shown(of.shipped)}{applied}"
        rows.append({"key": keys, "advised": advised, "reason": of.reason})
    return _table(rows)


def _values(values: Mapping[str, Any], origins: Mapping[str, str]) -> dg.TableMetadataValue:
    """One row per value of a recipe."""
    return _table({"key": key, "value": value, "origin": origins[key]} for key, value in values.items())


def _search(section: Mapping[str, Any], origins: Mapping[str, str]) -> dg.TableMetadataValue:
    """One row per key of the section `sigopt`, and per parameter and metric, with the origins of all its values."""
    rows = {name: value for name, value in section.items() if name not in ("metrics", "parameters")}
    for part in ("metrics", "parameters"):
        for one in section[part]:
            rows[f"{part}.{one['name']}"] = {key: value for key, value in one.items() if key != "name"}
    return _table({"key": name, "value": value, "origin": _origin(f"sigopt.{name}", origins)} for name, value in rows.items())


def _origin(key: str, origins: Mapping[str, str]) -> str:
    own = (origin for of, origin in origins.items() if f"{of}.".startswith(f"{key}."))
    return "; ".join(dict.fromkeys(own))


def _table(rows: Iterable[Mapping[str, Any]]) -> dg.TableMetadataValue:
    """A table of text. Three columns leave room for long ones beside Dagster's list of partitions."""
    rows = [{key: _text(value) for key, value in row.items()} for row in rows]
    return table(dict.fromkeys(rows[0], "string"), rows)


def _text(value: Any) -> str:
    """A value as YAML has it."""
    import yaml

    if isinstance(value, str):
        return value
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000).split("\n")[0]


def _lines(name: str, lines: Iterable[str]) -> dg.TableMetadataValue:
    """One row per line of text. Dagster does not wrap short Markdown, which would widen all other tables."""
    return _table({name: line} for line in lines)
