"""Online training of a retrieval model: each slice's clicks are ranked by the synchronised copy, which learns new items."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ml.artifacts.predictor import TorchPredictor
from ml.catalog.spec import DatasetSpec
from ml.compute.runner import LocalRunner
from ml.datasets.write import write_day
from ml.days import day_bounds
from ml.evaluation import plots
from ml.evaluation.evaluate import evaluate_day
from ml.evaluation.online import day_by_slice, headline_of
from ml.evaluation.ranking.item_scorers import item_scorer
from ml.evaluation.ranking.report import rank_day
from ml.lake import Lake
from ml.online import day as module
from ml.online.day import OnlineDay, OnlineOptions, online_day
from ml.online.ranking import unranked
from ml.online.record import SLICES_FILE
from ml.recipes.recipe import Recipe, load_recipe
from ml.schema import FeatureSchema
from ml.training.day import DayOptions, train_day
from tests.helpers.kiosk_days import DAYS, kiosk, kiosk_day, put_features

TOWERS = {"user": ["user", "place", "history"], "item": ["item", "clicks_1h"], "embedding_dim": 8, "out": 8, "hidden": [8]}
SPEC = kiosk(models={"two_tower": {}, "dlrm": {}})
MINUTE, NEW = 60_000_000, 1000


def recipe_of(kind: str = "two_tower", **online: Any) -> Recipe:
    model = {"model": TOWERS | {"uniform_negatives": 8}} if kind == "two_tower" else {}
    tables = {"init_scale": 0.1, "features": {"history": {"kind": "shared", "of": "item"}}}
    chosen = {"minutes": 60, **online}
    return load_recipe(kind, {**model, "tables": tables, "batch_size": 32, "online": chosen, "checkpoints": {"minutes": 1e-6}})


def put(lake: Lake, spec: DatasetSpec, day: str, table: pa.Table) -> None:
    put_features(lake, spec, day, table)
    write_day(spec, day, lake, LocalRunner())


def with_new_item(spec: DatasetSpec, day: str) -> tuple[pa.Table, int]:
    """A day in which every click from noon on is on an item that does not exist before. Returns the day, and noon."""
    table = kiosk_day(spec, day)
    begin, _ = day_bounds(day, spec.zone)
    noon = begin + 12 * 60 * MINUTE
    late = (table["event_time"].to_numpy() >= noon) & (table["label"].to_numpy() > 0.5)
    for name in ("item", "key:item"):
        values = np.where(late, NEW, table[name].to_numpy())
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), pa.array(values))
    return table, noon


@pytest.fixture
def days(lake: Lake) -> list[str]:
    for day in DAYS[:2]:
        put(lake, SPEC, day, kiosk_day(SPEC, day))
        train_day(SPEC, day, lake, "two_tower", DayOptions(recipe=recipe_of(), progress=False))
    put(lake, SPEC, DAYS[2], with_new_item(SPEC, DAYS[2])[0])
    return list(DAYS)


def run(lake: Lake, day: str, recipe: Recipe | None = None, model: str = "two_tower") -> OnlineDay:
    return online_day(SPEC, day, lake, model, OnlineOptions(recipe or recipe_of(), progress=False))


def test_the_daily_models_are_ranked_as_the_report_ranks_them(lake: Lake, days: list[str]) -> None:
    ranking = run(lake, days[2]).manifest["ranking"]
    predictor = TorchPredictor.load(lake.partition("tuned_models/two_tower", SPEC.name, days[1]))
    scorer = item_scorer(SPEC, predictor.model, predictor.recipe, FeatureSchema.of(SPEC))
    report = rank_day(SPEC, days[2], lake, days[:2], {"retrained": scorer})
    assert report is not None and set(ranking["models"]) == {"online", "stale", "retrained"}
    assert ranking["models"]["retrained"] == ranking["models"]["stale"] == report["models"]["retrained"]
    assert ranking["sources"] == report["sources"] and ranking["requests"] == report["requests"] == 300
    assert ranking["filled_in"] == report["filled_in"] > 0


def test_an_item_is_retrievable_as_soon_as_it_was_trained_on(lake: Lake, days: list[str]) -> None:
    """Of the item's first hour nothing is known; from the second hour on, the serving model ranks it before the others."""
    record = run(lake, days[2], recipe_of(minutes=30, learning_rate=3.0)).record
    _, noon = with_new_item(SPEC, days[2])
    late = [row for row in record.slices if row["event_from"] >= noon]
    assert late[0]["online_recall@20"] == 0.0, "the item is not live before its first slice has ended"
    assert all(row["online_recall@100"] == 1.0 for row in late[1:])
    clicks = [row["clicks"] for row in late[1:]]
    by_model = {m: np.average([row[f"{m}_mrr@20"] for row in late[1:]], weights=clicks) for m in ("online", "retrained")}
    assert by_model["online"] > 0.95 > by_model["retrained"] + 0.1


def test_slices_add_up_to_the_day(lake: Lake, days: list[str]) -> None:
    done = run(lake, days[2])
    rows, whole = done.record.slices_table().to_pylist(), done.manifest["ranking"]
    clicks = [row["clicks"] for row in rows]
    assert sum(clicks) == whole["requests"]
    of_day = {**whole["models"], "popularity": whole["sources"]["popularity_60m"]}
    for system, of in of_day.items():
        for metric in ("recall@20", "recall@100", "mrr@20"):
            assert np.average([row[f"{system}_{metric}"] for row in rows], weights=clicks) == pytest.approx(of[metric])
    so_far, of_slice = done.record.so_far(), done.record.of_slice()
    assert list(so_far) == list(of_slice) == ["online", "stale", "retrained", "popularity"]
    assert so_far == pytest.approx({system: of["recall@20"] for system, of in of_day.items()})
    assert of_slice["online"] == rows[-1]["online_recall@20"]
    for other in ("stale", "retrained"):
        gain, models = done.manifest["gains"][other]["recall@20"], whole["models"]
        assert gain["value"] == pytest.approx(models["online"]["recall@20"] - models[other]["recall@20"]) and gain["error"] >= 0
    assert done.metrics["recall_at_20_online"] == whole["models"]["online"]["recall@20"]
    assert done.metrics["recall_at_20_popularity_60m"] == whole["sources"]["popularity_60m"]["recall@20"]


def test_an_interrupted_day_ends_with_the_same_ranking(lake: Lake, days: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The slices are cut by rows, so that they end inside the ranking's own slices of time."""
    recipe = recipe_of(minutes=None, slices=7)
    whole = run(lake, days[2], recipe)
    expected, table = whole.manifest["ranking"], Path(str(whole.folder), SLICES_FILE).read_bytes()
    steps, left = module.online_slices, [3]

    def stopping(*args: Any, before_training: Any, **kwargs: Any) -> Any:
        def hook(part: Any, stats: Any) -> None:
            before_training(part, stats)
            if part.number == left[0]:
                raise KeyboardInterrupt

        return steps(*args, before_training=hook, **kwargs)

    monkeypatch.setattr(module, "online_slices", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(lake, days[2], recipe)
    monkeypatch.undo()
    again = run(lake, days[2], recipe)
    assert again.resumed_at == 3
    assert again.manifest["ranking"] == expected
    assert Path(str(again.folder), SLICES_FILE).read_bytes() == table


def test_rankers_are_not_ranked_within_the_day(lake: Lake, days: list[str]) -> None:
    """They score each pair of a click and an item, which takes longer than training."""
    for day in days[:2]:
        train_day(SPEC, day, lake, "dlrm", DayOptions(recipe=recipe_of("dlrm"), progress=False))
    done = run(lake, days[2], recipe_of("dlrm"), "dlrm")
    assert done.manifest["ranking"] is None and done.record.slices_table()["clicks"].null_count == len(done.record.slices)


def test_the_report_says_why_a_followed_day_is_not_ranked(lake: Lake, days: list[str]) -> None:
    reason = unranked(SPEC, recipe_of())
    assert reason is not None and unranked(SPEC, recipe_of("dlrm")) is None
    path = Path(str(run(lake, days[2]).folder), "manifest.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"ranking": None, "unranked": reason}))
    html = evaluate_day(SPEC, days[2], lake, {}).report.read_text()
    assert f"Not ranked within the day: {reason}." in html and "AUC by slice" in html


def test_the_report_shows_the_ranking_by_slice(lake: Lake, days: list[str]) -> None:
    run(lake, days[2])
    shown = day_by_slice(lake, SPEC, "two_tower", days[2])
    assert shown is not None and headline_of(shown) == "recall@20"
    done = evaluate_day(SPEC, days[2], lake, {})
    assert done.metrics["online"]["two_tower"] == shown and "online_two_tower" in done.plots
    html = done.report.read_text()
    for text in ("Ranking of all live items for 300 clicks", "most clicked, 1 hour", "Recall@20 by slice", "true times"):
        assert text in html
    assert plots.online_day(shown["slices"], "recall@20") != plots.online_day(shown["slices"])
