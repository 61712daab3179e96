"""Evaluation of a day, from features to report: documented keys, strict JSON, escaped HTML, and empty or first days."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import ml.evaluation.evaluate
from ml.catalog.spec import DatasetSpec
from ml.evaluation import plots
from ml.evaluation.baselines import fit_baselines
from ml.evaluation.evaluate import EvaluatedDay, evaluate_day
from ml.evaluation.scores import ScoredModel
from ml.lake import Lake, MissingPartition
from ml.metrics import METRICS, ClickSums
from tests.helpers.shop_days import put_day, shop_day, spec_of

DAYS = [(date(2026, 1, 1) + timedelta(days=i)).isoformat() for i in range(4)]
FACTS = {"recipe": "dlrm", "snapshot_day": "2026-01-03", "rows_trained": 6_000}
SCORED = {"rows", "clicks", "label_rate", *METRICS}


def guess(table: pa.Table) -> np.ndarray:
    """A good model: the true probabilities with noise."""
    blur = np.random.default_rng(table.num_rows).normal(size=table.num_rows)
    truth = table["oracle"].to_numpy()
    return (1 / (1 + np.exp(-np.log(truth / (1 - truth)) - 0.1 * blur))).astype(np.float32)


def evaluate(
    lake: Lake, spec: DatasetSpec, table: pa.Table, predict: Callable[..., Any] | None = guess, earlier: int = 2_000
) -> EvaluatedDay:
    """Score `table` as the fourth day, after three days of `earlier` rows each."""
    for day in DAYS[:3]:
        put_day(lake, spec, day, shop_day(spec, day, earlier))
    put_day(lake, spec, DAYS[3], table)
    return evaluate_day(spec, DAYS[3], lake, {"dlrm": ScoredModel(predict, FACTS)} if predict else {})


def strict(text: str) -> Any:
    def refuse(name: str) -> Any:
        raise ValueError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_figures_hold_every_documented_key_in_strict_json(lake: Lake) -> None:
    spec = spec_of()
    done = evaluate(lake, spec, shop_day(spec, DAYS[3], 2_000), earlier=100)
    folder = lake.require("evaluation_reports", "shop", DAYS[3])
    figures = strict((folder / "metrics.json").read_text())
    assert figures == done.metrics
    documented = re.findall(r"^    (\w+(?:, \w+)*) {2,}\w", ml.evaluation.evaluate.__doc__ or "", re.MULTILINE)
    assert {key for line in documented for key in line.split(", ")} == {*figures, "labels"}, "labels: see test_labels"
    for scored in (figures["model"], figures["oracle"], *figures["baselines"].values()):
        assert set(scored) == SCORED | {"facts", "intervals"}
        assert all(low <= scored[name] <= high for name, (low, high) in scored["intervals"].items())
        assert all(isinstance(scored[name], int | float) for name in SCORED)
    assert set(figures["baselines"]) == {"constant_prior", "logistic_regression"}
    assert figures["model"]["facts"] == FACTS
    same = {name: figures["model"][name] for name in ("rows", "clicks", "label_rate")}
    assert figures["data"] == {**same, "earlier_days": DAYS[:3]} and same["rows"] == 2_000
    assert figures["baselines"]["logistic_regression"]["facts"]["days"] == DAYS[:3]
    assert figures["baselines"]["constant_prior"]["auc"] == 0.5
    assert [(pair["one"], pair["other"]) for pair in figures["comparisons"]] == [
        ("dlrm", "constant_prior"),
        ("dlrm", "logistic_regression"),
    ]
    for pair in figures["comparisons"]:
        assert set(pair["auc"]) == set(pair["log_loss"]) == {"value", "error", "df", "p_above"}
        assert pair["auc"]["value"] == figures["model"]["auc"] - figures["baselines"][pair["other"]]["auc"]
    assert figures["beats"] == {"constant_prior": True, "logistic_regression": True}
    assert all(0.8 < share < 1.1 for share in figures["attained"].values())
    assert set(figures["calibration_bins"][0]) == {"rows", "predicted", "observed", "error"}
    assert set(figures["history"][-1]) == {"day", "model", "models", "logistic_regression", "oracle", "ranking"}
    assert {*figures["slices"][0]["values"][0]} == SCORED | {"value", "logistic_regression_auc"}


def test_the_report_is_one_file_with_small_figures_and_a_plain_verdict(lake: Lake) -> None:
    spec = spec_of()
    done = evaluate(lake, spec, shop_day(spec, DAYS[3], 2_000), earlier=100)
    html = done.report.read_text()
    assert not re.findall(r"""(?:src|href)=["'](?!data:)|url\(|@import|<script""", html)
    assert re.search(r"trained until 2026-01-03 ranks a clicked impression above an unclicked one \d\d\.\d times in 100", html)
    assert "beats both baselines" in html and "simulated" in html
    for name in ("roc", "calibration", "scores"):
        png = (done.report.parent / "figures" / f"{name}.png").read_bytes()
        assert png == done.plots[name] and png.startswith(b"\x89PNG") and len(png) < 60_000


@pytest.mark.parametrize("rows", [10, 50])
def test_a_day_of_few_clicks_is_not_judged(rows: int, lake: Lake) -> None:
    spec = spec_of()
    done = evaluate(lake, spec, shop_day(spec, DAYS[3], rows))
    assert done.metrics["verdict"]["word"] == "unknown" and "too few to judge a model (30 are enough)" in done.verdict
    assert done.metrics["beats"] == {"constant_prior": None, "logistic_regression": None}
    assert "Too few clicks to judge" in done.report.read_text()


def test_a_model_that_ranks_little_better_than_chance_is_not_good(lake: Lake) -> None:
    spec = spec_of(oracle=None, simulation=None)

    def weak(table: pa.Table) -> np.ndarray:
        return 1 / (1 + np.exp(1.5 - np.sign(table["price"].to_numpy()) * (np.arange(table.num_rows) % 3 == 0)))

    table = shop_day(spec, DAYS[3], 20_000)
    done = evaluate(lake, spec, table, weak)
    assert 0.5 < done.metrics["model"]["auc"] < 0.6
    assert done.metrics["verdict"]["word"] != "good" and "only weakly" in done.verdict


def test_a_baseline_is_beaten_only_significantly(lake: Lake) -> None:
    """A model that is the logistic regression, blurred a little, is neither better nor worse on few rows."""
    spec = spec_of(oracle=None, simulation=None)
    for day in DAYS[:3]:
        put_day(lake, spec, day, shop_day(spec, day, 2_000))
    regression = fit_baselines(lake, spec, DAYS[:3])["logistic_regression"].predict
    assert regression is not None
    put_day(lake, spec, DAYS[3], shop_day(spec, DAYS[3], 300))

    def same(table: pa.Table) -> np.ndarray:
        blur = np.random.default_rng(1).normal(scale=0.02, size=table.num_rows)
        return np.clip(regression(table) + blur, 0, 1)

    done = evaluate_day(spec, DAYS[3], lake, {"dlrm": ScoredModel(same, FACTS)})
    assert done.metrics["beats"] == {"constant_prior": True, "logistic_regression": False}
    assert "beats the constant prior" in done.verdict and "no significant difference" in done.verdict
    assert done.metrics["verdict"]["word"] == "mixed"


def truth(table: pa.Table) -> np.ndarray:
    return table["oracle"].to_numpy()


def test_rows_of_one_user_count_as_one(lake: Lake) -> None:
    spec = spec_of()
    table = shop_day(spec, DAYS[3], 500, **{"key:user": np.arange(2, 502)})
    alone = evaluate(lake, spec, table, truth).metrics["model"]
    repeated = evaluate(lake, spec, pa.concat_tables([table] * 4).sort_by("event_time"), truth).metrics["model"]
    assert repeated["auc"] == pytest.approx(alone["auc"])
    for metric in ("auc", "log_loss", "calibration"):
        assert repeated["intervals"][metric] == pytest.approx(alone["intervals"][metric], abs=0.002), "no more is known"


def test_the_words_of_the_entry_are_used(lake: Lake) -> None:
    spec = spec_of(words={"positive": "liked", "negative": "disliked", "noun": "like"}, oracle=None, simulation=None)

    def by_price(table: pa.Table) -> np.ndarray:
        return 1 / (1 + np.exp(1.5 - 0.8 * table["price"].to_numpy()))

    html = evaluate(lake, spec, shop_day(spec, DAYS[3], 2_000), by_price).report.read_text()
    assert "ranks a liked impression above a disliked one" in html and "times the observed likes" in html
    assert "click" not in re.sub(r"base64,[\w+/=]+", "", html).lower()


def test_bins_without_clicks_are_not_drawn() -> None:
    labels, probabilities = np.array([0.0] * 11 + [1.0]), np.linspace(0.01, 0.5, 12)
    sums = ClickSums.of(labels, probabilities)
    only = ClickSums.of(labels[11:], probabilities[11:])
    assert len(sums.calibration_bins()) == 12 and len(only.calibration_bins()) == 1
    drawn = plots.calibration({"model": sums})
    assert drawn == plots.calibration({"model": only}), "of twelve bins only the one with a click is drawn"


def test_a_rerun_gives_the_same_bytes(lake: Lake) -> None:
    spec = spec_of()
    table = shop_day(spec, DAYS[3], 500)

    def all_bytes() -> dict[str, bytes]:
        folder = Path(evaluate(lake, spec, table).report.parent)
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    first = all_bytes()
    assert len(first) == 7 and all_bytes() == first


def test_text_from_logs_is_escaped(lake: Lake) -> None:
    spec = spec_of()
    hostile = ["<script>alert(1)</script>", "'\"><img src=x onerror=alert(1)>", "{{ 7 * 7 }}", "–\u202e&amp;", "x" * 3_000]
    table = shop_day(spec, DAYS[3], 500, **{"slice:place": [hostile[i % 5] for i in range(500)]})
    html = evaluate(lake, spec, table).report.read_text()
    assert "<script" not in html and "<img src=x" not in html and "<visitors>" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html and "{{ 7 * 7 }}" in html and "&amp;amp;" in html


@pytest.mark.parametrize(("label", "word"), [(0.0, "unclicked"), (1.0, "clicked")])
def test_a_day_of_one_class_has_dashes_and_says_why(label: float, word: str, lake: Lake) -> None:
    spec = spec_of()
    done = evaluate(lake, spec, shop_day(spec, DAYS[3], 300, label=np.full(300, label)))
    assert done.metrics["model"]["auc"] is None and done.metrics["model"]["log_loss"] is not None
    assert f"All rows of the day are {word}" in done.verdict
    assert "<strong>–</strong>" in done.report.read_text()


def test_an_empty_day_says_so(lake: Lake) -> None:
    spec = spec_of()
    done = evaluate(lake, spec, shop_day(spec, DAYS[3], 0))
    assert done.rows == 0 and done.plots == {} and "no rows" in done.verdict
    assert all(done.metrics["model"][name] is None for name in METRICS)
    strict((done.report.parent / "metrics.json").read_text())


def test_a_first_day_has_data_facts_and_no_model(lake: Lake) -> None:
    spec = spec_of()
    put_day(lake, spec, DAYS[0], shop_day(spec, DAYS[0], 400))
    done = evaluate_day(spec, DAYS[0], lake, {})
    assert "No model was trained before this day" in done.verdict
    assert done.metrics["model"] == {**done.metrics["model"], "auc": None, "facts": None}
    assert done.metrics["data"]["rows"] == 400 and done.metrics["slices"][0]["values"]
    assert done.metrics["beats"] == {"constant_prior": None, "logistic_regression": None}


def test_a_model_without_earlier_features_stands_alone(lake: Lake) -> None:
    spec = spec_of()
    put_day(lake, spec, DAYS[3], shop_day(spec, DAYS[3], 400))
    done = evaluate_day(spec, DAYS[3], lake, {"dlrm": ScoredModel(guess, FACTS)})
    assert done.metrics["model"]["auc"] is not None and "no earlier days" in done.verdict


def test_the_report_of_a_log_without_oracle_does_not_mention_one(lake: Lake) -> None:
    spec = spec_of(oracle=None, simulation=None)
    done = evaluate(lake, spec, shop_day(spec, DAYS[3], 500), lambda table: np.full(table.num_rows, 0.3, np.float32))
    assert done.metrics["oracle"]["auc"] is None and done.metrics["attained"] == {"auc": None, "log_loss": None}
    html = done.report.read_text()
    assert "best possible" not in html and "simulated" not in done.verdict
    assert done.metrics["beats"] == {"constant_prior": False, "logistic_regression": False}
    assert "does not beat" in done.verdict


def test_baselines_do_not_learn_from_the_scored_day(lake: Lake) -> None:
    spec = spec_of()
    table = shop_day(spec, DAYS[3], 1_000)
    plain = evaluate(lake, spec, table).metrics["baselines"]
    flipped = table.set_column(1, table.schema.field(1), pa.array(1 - table["label"].to_numpy(), pa.float32()))
    turned = evaluate(lake, spec, flipped).metrics["baselines"]
    for name in plain:
        assert plain[name]["facts"] == turned[name]["facts"]
        assert plain[name]["mean_prediction"] == turned[name]["mean_prediction"]


def test_later_days_change_nothing(lake: Lake) -> None:
    spec = spec_of()
    table = shop_day(spec, DAYS[3], 500)
    before = evaluate(lake, spec, table).metrics
    put_day(lake, spec, "2026-01-05", shop_day(spec, "2026-01-05", 500))
    evaluate_day(spec, "2026-01-05", lake, {"dlrm": ScoredModel(guess, FACTS)})
    assert evaluate(lake, spec, table).metrics == before


def test_auc_by_day_follows_the_reports(lake: Lake) -> None:
    spec = spec_of()
    for day in DAYS:
        put_day(lake, spec, day, shop_day(spec, day, 500))
    evaluate_day(spec, DAYS[0], lake, {})
    second = evaluate_day(spec, DAYS[1], lake, {"dlrm": ScoredModel(guess, FACTS)}).metrics
    fourth = evaluate_day(spec, DAYS[3], lake, {"dlrm": ScoredModel(guess, FACTS)})
    entries = fourth.metrics["history"]
    assert [row["day"] for row in entries] == [DAYS[0], DAYS[1], DAYS[3]]
    assert entries[0]["model"] is None and entries[1]["model"] == second["model"]["auc"]
    assert "auc_by_day" in fourth.plots


def test_the_history_has_days_that_were_reported_late_or_again(lake: Lake) -> None:
    spec = spec_of()
    for day in DAYS:
        put_day(lake, spec, day, shop_day(spec, day, 500))
    fair = {"dlrm": ScoredModel(guess, FACTS)}
    blind = {"dlrm": ScoredModel(lambda table: np.full(table.num_rows, 0.3, np.float32), FACTS)}
    for day in (DAYS[0], DAYS[2]):
        evaluate_day(spec, day, lake, blind)
    late = evaluate_day(spec, DAYS[1], lake, fair).metrics
    again = evaluate_day(spec, DAYS[0], lake, fair).metrics
    entries = evaluate_day(spec, DAYS[3], lake, fair).metrics["history"]
    assert [row["day"] for row in entries] == DAYS
    assert [row["model"] for row in entries[:3]] == [again["model"]["auc"], late["model"]["auc"], 0.5]


@pytest.mark.parametrize("wrong", [np.array([0.5]), np.full(500, 1.5), np.full(500, np.nan)])
def test_invalid_predictions_are_refused_and_nothing_is_written(wrong: np.ndarray, lake: Lake) -> None:
    spec = spec_of()
    with pytest.raises(ValueError, match="shop 2026-01-04: model dlrm gave"):
        evaluate(lake, spec, shop_day(spec, DAYS[3], 500), lambda table: wrong)
    assert not lake.has("evaluation_reports", "shop", DAYS[3])


def test_a_day_without_features_is_an_error(lake: Lake) -> None:
    with pytest.raises(MissingPartition, match="cleaned_features of 2026-01-04"):
        evaluate_day(spec_of(), DAYS[3], lake, {"dlrm": ScoredModel(guess, FACTS)})


def test_evaluation_does_not_import_torch() -> None:
    code = "import sys, ml.evaluation.evaluate; sys.exit(bool({'torch', 'pyspark'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_model_that_only_ranks_has_an_auc_and_no_more(lake: Lake) -> None:
    spec = spec_of()
    evaluate(lake, spec, shop_day(spec, DAYS[3], 2_000))
    both = {"dlrm": ScoredModel(guess, FACTS), "two_tower": ScoredModel(guess, FACTS, ranks_only=True)}
    done = evaluate_day(spec, DAYS[3], lake, both)
    first, second = done.metrics["models"].values()
    assert first["auc"] == second["auc"] and first["log_loss"] is not None
    assert second["log_loss"] is second["calibration"] is second["normalised_entropy"] is second["mean_prediction"] is None
    assert {n: of["auc"] for n, of in done.metrics["history"][-1]["models"].items()} == dict.fromkeys(both, first["auc"])
    assert done.metrics["standing"] == {"champion": "dlrm", "challenger": None}
    assert "two_tower" in done.report.read_text() and "champion" not in done.report.read_text()


def test_predictions_of_a_model_that_only_ranks_are_not_shown_as_probabilities(lake: Lake) -> None:
    spec = spec_of()
    evaluate(lake, spec, shop_day(spec, DAYS[3], 2_000), earlier=100)
    ranker = ScoredModel(lambda table: guess(table) ** 3, FACTS, ranks_only=True)
    done = evaluate_day(spec, DAYS[3], lake, {"two_tower": ranker, "dlrm": ScoredModel(guess, FACTS)})
    assert done.metrics["verdict"]["word"] == "good" and "Predicted clicks" not in done.verdict
    assert done.metrics["calibration_bins"] == [] and set(done.plots) == {"roc"}
    entries = [done.metrics["model"], *(value for part in done.metrics["slices"] for value in part["values"])]
    assert all(of[name] is None for of in entries for name in METRICS if name != "auc") and entries[0]["auc"] is not None
    assert done.metrics["models"]["dlrm"]["calibration"] is not None


def test_the_champion_is_named_beside_its_challenger(lake: Lake) -> None:
    spec = spec_of()
    for day in DAYS:
        put_day(lake, spec, day, shop_day(spec, day, 300))
    assert evaluate_day(spec, DAYS[0], lake, {}).metrics["standing"] == {"champion": None, "challenger": None}
    both = {"dlrm": ScoredModel(lambda table: guess(table) / 2 + 0.25, FACTS), "deepfm": ScoredModel(guess, FACTS)}
    for day in DAYS[1:3]:
        assert evaluate_day(spec, day, lake, both).metrics["standing"] == {"champion": "dlrm", "challenger": "deepfm"}
    done = evaluate_day(spec, DAYS[3], lake, both)
    assert done.metrics["standing"] == {"champion": "deepfm", "challenger": "dlrm"}, "equal AUC, better probabilities"
    assert "deepfm (champion)" in done.report.read_text()
