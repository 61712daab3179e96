"""Reports on several labels and on sample weights."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from ml.catalog.spec import DatasetSpec
from ml.evaluation.evaluate import evaluate_day
from ml.evaluation.scores import ScoredModel
from ml.lake import Lake
from tests.helpers.shop_days import put_day, shop_day, spec_of

DAY = "2026-01-03"
FACTS = {"recipe": "dlrm", "snapshot_day": "2026-01-02"}
COLUMNS = {"time": "int", "user": "int", "item": "int", "place": "string", "price": "float", "tags": "string"}


def entry(**changes: Any) -> DatasetSpec:
    source = {
        "files": "*.csv",
        "format": "csv",
        "columns": COLUMNS | {"clicked": "int", "truth": "float", "spent": "float", "trust": "float"},
    }
    return spec_of(**{"source": source, "labels": {"bought": {"column": "spent", "at_least": 10}}} | changes)


def day_of(spec: DatasetSpec, rows: int = 3_000) -> pa.Table:
    rng = np.random.default_rng(5)
    further = {"label:bought": (rng.random(rows) < 0.2).astype(np.float32)}
    return shop_day(spec, DAY, rows, **further, **{"sample:weight": rng.integers(0, 4, rows).astype(np.float32)})


def predict(table: pa.Table) -> np.ndarray:
    """Good for the main label, and somewhat above chance and twice too high for the further one."""
    noise = np.abs(np.sin(1e3 * table["price"].to_numpy()))
    bought = 0.3 + 0.2 * noise + 0.05 * table["label:bought"].to_numpy()
    return np.stack([table["oracle"].to_numpy(), bought], 1).astype(np.float32)


def test_each_label_has_its_own_metrics(lake: Lake) -> None:
    spec = entry()
    table = day_of(spec)
    put_day(lake, spec, DAY, table)
    models = {"dlrm": ScoredModel(predict, FACTS), "two_tower": ScoredModel(lambda t: predict(t)[:, 0], FACTS)}
    done = evaluate_day(spec, DAY, lake, models)
    main, bought = done.metrics["labels"]
    assert [label["name"] for label in (main, bought)] == ["label", "bought"]
    assert (bought["column"], bought["at_least"], bought["weight"]) == ("spent", 10, None)
    assert main["models"]["dlrm"]["auc"] == done.metrics["model"]["auc"] and list(bought["models"]) == ["dlrm"]
    labels, found = table["label:bought"].to_numpy(), predict(table)[:, 1]
    of = bought["models"]["dlrm"]
    assert bought["clicks"] == labels.sum() and of["weighted"] is None
    assert of["auc"] == pytest.approx(roc_auc_score(labels, found))
    assert of["log_loss"] == pytest.approx(log_loss(labels, found), rel=1e-6)
    assert of["calibration"] == pytest.approx(found.sum() / labels.sum(), rel=1e-5)
    for metric, (low, high) in of["intervals"].items():
        assert low < of[metric] < high
    assert f"For the label bought, the AUC is {100 * of['auc']:.1f}" in done.verdict and "predicts too many" in done.verdict
    html = done.report.read_text()
    assert "<h2>Labels</h2>" in html and "spent at least 10" in html and "weighted AUC" not in html
    json.loads((done.report.parent / "metrics.json").read_text())


def test_sample_weights_weigh_the_metrics_of_the_labels(lake: Lake) -> None:
    """The model learns the weighted rows: its unweighted calibration is off by design, and the verdict does not blame it."""
    spec = entry(label={"column": "clicked", "weight": "trust"}, labels={})
    table = day_of(spec)
    labels = table["label"].to_numpy()
    weights = np.where(labels > 0, 3.0, 1.0).astype(np.float32)
    weights[:100] = 0.0
    table = table.set_column(table.column_names.index("sample:weight"), table.schema.field("sample:weight"), pa.array(weights))
    put_day(lake, spec, DAY, table)

    def weighted_odds(rows: pa.Table) -> np.ndarray:
        odds = rows["oracle"].to_numpy() / (1 - rows["oracle"].to_numpy())
        return 3 * odds / (1 + 3 * odds)

    found = weighted_odds(table)
    done = evaluate_day(spec, DAY, lake, {"dlrm": ScoredModel(weighted_odds, FACTS)})
    (main,) = done.metrics["labels"]
    weighted = main["models"]["dlrm"]["weighted"]
    assert weighted["auc"] == pytest.approx(roc_auc_score(labels, found, sample_weight=weights))
    assert weighted["log_loss"] == pytest.approx(log_loss(labels, found, sample_weight=weights), rel=1e-6)
    assert weighted["calibration"] == pytest.approx((weights @ found) / (weights @ labels), rel=1e-5)
    assert done.metrics["model"]["calibration"] > 1.3 and 0.9 < weighted["calibration"] < 1.1
    assert "Predicted weighted clicks" in done.verdict and "well calibrated" in done.verdict
    assert "sample weights in trust" in done.report.read_text()


def test_a_dataset_with_one_label_has_no_metrics_of_labels(lake: Lake) -> None:
    spec = spec_of()
    put_day(lake, spec, DAY, shop_day(spec, DAY, 200))
    done = evaluate_day(spec, DAY, lake, {"dlrm": ScoredModel(lambda t: t["oracle"].to_numpy(), FACTS)})
    assert "labels" not in done.metrics and "<h2>Labels</h2>" not in done.report.read_text()


def test_a_first_day_counts_the_labels(lake: Lake) -> None:
    spec = entry()
    put_day(lake, spec, DAY, day_of(spec))
    done = evaluate_day(spec, DAY, lake, {})
    assert [label["models"] for label in done.metrics["labels"]] == [{}, {}] and done.metrics["labels"][1]["clicks"] > 0
    assert "For the label" not in done.verdict


def test_predictions_of_a_wrong_number_of_labels_are_refused(lake: Lake) -> None:
    spec = entry()
    put_day(lake, spec, DAY, day_of(spec, 50))
    with pytest.raises(ValueError, match=r"predictions of shape \(25, 3\)"):
        evaluate_day(spec, DAY, lake, {"dlrm": ScoredModel(lambda t: np.zeros((t.num_rows, 3)), FACTS)})
