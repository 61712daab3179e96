"""What Dagster shows of a day's recipe: the advice with its reasons, and each value with its origin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets import advisor_recipes
from assets.resources import LakeResource, MlflowResource
from ml.advisor.day import advise_day
from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.recipes.recipe import RECIPES
from tests.helpers.training_days import made_spec


@pytest.fixture
def spec(tmp_path: Path) -> DatasetSpec:
    edits = tmp_path / "made" / "dlrm.yaml"
    edits.parent.mkdir()
    edits.write_text("training: {seed: 3}\nsigopt: {observation_budget: 7, parameters: [{name: top, remove: true}]}")
    spec = made_spec()
    return spec.model_copy(update={"models": {"dlrm": spec.models["dlrm"].found_in(RECIPES, edits)}})


def metadata(spec: DatasetSpec, home: Path) -> dict[str, Any]:
    resources = {"lake": LakeResource(root=str(home)), "mlflow": MlflowResource(home=str(home))}
    asset = advisor_recipes.build(spec, "dlrm")
    done = dg.materialize([asset], partition_key=spec.days()[0], resources=resources, selection=[asset.key])
    [event] = done.asset_materializations_for_node(asset.node_def.name)
    return dict(event.metadata)


def rows(table: Any) -> list[dict[str, Any]]:
    return [dict(record.data) for record in table.records]


def test_each_value_is_shown_with_its_origin_in_three_columns(spec: DatasetSpec, tmp_path: Path) -> None:
    shown = metadata(spec, tmp_path)
    done = advise_day(spec, "dlrm", spec.days()[0], Lake.at(tmp_path))
    recipe = {row["key"]: row for row in rows(shown["recipe"])}
    assert recipe["seed"] == {"key": "seed", "value": "3", "origin": "edits, made/dlrm.yaml"}
    assert recipe["early_stop"]["value"] == "null" and recipe["model.linear_shortcut"]["value"] == "true"
    search = {row["key"]: row for row in rows(shown["sigopt"])}
    assert search["observation_budget"] == {"key": "observation_budget", "value": "7", "origin": "edits, made/dlrm.yaml"}
    assert search["parameters.dense_lr"]["value"].startswith("{key: dense_optimizer.lr, type: double, bounds: {min: ")
    assert search["parameters.dense_lr"]["origin"] == "advice, search"
    assert {f"parameters.{one.name}" for one in done.search.parameters} <= search.keys()
    replaced = {row["key"]: row for row in rows(shown["overrode"])}
    assert replaced["seed"] == {"key": "seed", "replaced": "0 (recipe dlrm)", "by": "3"}
    assert replaced["sigopt.parameters.top"]["by"] == "null"


@pytest.mark.parametrize(("use", "said"), [("apply", ""), ("explain", "; not applied")])
def test_advice_is_shown_with_reasons_also_if_it_is_only_explained(
    spec: DatasetSpec, tmp_path: Path, use: str, said: str
) -> None:
    rules = tmp_path / "mine.yaml"
    rules.write_text(
        "rules:\n"
        "  - {name: small, set: {batch_size: 64}, reason: Days of a test are small., source: a measurement}\n"
        "  - {name: few, for: table, set: {table.min_count: 2}, reason: Ids of a test are rare., source: a measurement}\n"
        "  - {name: more, suggest: 'log more rows', reason: Days of a test are small., source: a measurement}\n"
    )
    spec = spec.model_copy(update={"recipe": spec.recipe.model_copy(update={"advice": use, "rules": (str(rules),)})})
    shown = metadata(spec, tmp_path)
    of = {row["key"]: row for row in rows(shown["advice"])}
    reason = "Days of a test are small."
    assert of["batch_size"] == {"key": "batch_size", "advised": f"64; without advice 256{said}", "reason": reason}
    assert of["tables.features.{a, b, tags}.min_count"]["advised"] == f"2; without advice 1{said}", "tables share a row"
    assert any("log more rows" in row["suggestion"] for row in rows(shown["suggestions"]))
