"""Tables of `make demo`, from the content of reports."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from ml.catalog.spec import DatasetSpec
from orchestration.report_tables import blank_metrics, label_tables, metrics_table, ranking_tables, recent_line


def cells(table: Any) -> list[list[str]]:
    return [[str(column.header), *column.cells] for column in table.columns]


def test_a_ranking_has_a_column_for_each_model_and_source(catalog: dict[str, DatasetSpec]) -> None:
    systems = {
        "requests": 1234,
        "models": {"dlrm": {"recall@20": 0.5}},
        "sources": {"popularity_60m": {"recall@20": 0.25}, "co_visitation": {"recall@20": None}},
    }
    first = systems | {"models": {}}
    [table] = ranking_tables(catalog["globo"], {"2017-10-01": {"ranking": first}, "2017-10-02": {"ranking": systems}})
    assert cells(table) == [
        ["day", "2017-10-01", "2017-10-02"],
        ["clicks", "1,234", "1,234"],
        ["dlrm", "–", "0.5000"],
        ["most clicked, 1 hour", "0.2500", "0.2500"],
        ["co-visitation", "–", "–"],
    ]
    assert ranking_tables(catalog["criteo"], {"2014-01-01": {"ranking": None}, "2014-01-02": {}}) == []


@pytest.mark.parametrize("count", [1, 3, 8])
def test_rankings_fit_a_terminal_of_80_columns(count: int, catalog: dict[str, DatasetSpec]) -> None:
    models = [f"wide_and_deep_{n}" for n in range(count)]
    sources = ["popularity_60m", "popularity_10m", "popularity_10080m", "co_visitation"]
    of = {
        "requests": 1_234_567,
        "models": {name: {"recall@20": 0.5} for name in models},
        "sources": {name: {"recall@20": 0.25} for name in sources},
    }
    console = Console(width=80, file=io.StringIO(), record=True)
    tables = ranking_tables(catalog["globo"], {"2017-10-01": {"ranking": of}})
    for table in tables:
        console.print(table)
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80 and "…" not in "".join(lines)
    words = " ".join(lines).split()
    assert all(words.count(model) == 1 for model in models) and words.count("co-visitation") == 1
    assert words.count("0.5000") == count and words.count("0.2500") == len(sources)
    assert words.count("1,234,567") == words.count("2017-10-01") == len(tables)


def test_the_means_of_the_primary_model(catalog: dict[str, DatasetSpec]) -> None:
    mean = {"mean": 0.75, "standard_error": 0.002, "days": 3}
    recent = {"days": ["a", "b", "c"], "systems": {"dlrm": {"auc": mean, "log_loss": mean | {"standard_error": None}}}}
    assert recent_line(catalog["criteo"], {"recent": recent}) == "Mean of the last 3 days: AUC 0.7500 ± 0.0020."
    assert recent_line(catalog["criteo"], {}) is None


def test_a_report_of_a_day_without_a_model_shows_dashes(catalog: dict[str, DatasetSpec]) -> None:
    table = metrics_table(catalog["criteo"], {"2014-01-01": {"data": {"rows": 10}}})
    assert [column[1] for column in cells(table)] == ["2014-01-01", "10", "–", "–", "–", "–", "–"]


def test_each_further_label_has_a_table(catalog: dict[str, DatasetSpec]) -> None:
    spec = catalog["movielens"].model_copy(update={"labels": {"loved": None}})
    scored = {"auc": 0.75, "log_loss": 0.5, "normalised_entropy": 0.9, "calibration": 1.0}
    days = {
        "1997-09-20": {},
        "1997-09-21": {"labels": [{}, {"clicks": 1_200, "models": {}}]},
        "1997-09-22": {"labels": [{}, {"clicks": 1_300, "models": {"dlrm": scored}}]},
    }
    (table,) = label_tables(spec, days)
    assert "loved" in str(table.title)
    assert cells(table) == [
        ["day", *days],
        ["positive", "–", "1,200", "1,300"],
        ["AUC", "–", "–", "0.7500"],
        ["log loss", "–", "–", "0.5000"],
        ["NE", "–", "–", "0.9000"],
        ["pred/obs", "–", "–", "1.0000"],
    ]
    assert label_tables(catalog["movielens"], days) == []


def test_a_blank_metric_has_a_reason() -> None:
    """A day after many empty ones has no baseline, and a day of one class has no AUC."""
    week = {"days": ["2025-03-05", "2025-03-11"], "reason": "no earlier rows"}
    unfitted = {"model": {"auc": 0.6, "log_loss": 0.5}, "baselines": {"logistic_regression": {"auc": None, "facts": week}}}
    fitted = {"model": {"auc": 0.6, "log_loss": 0.5}, "baselines": {"logistic_regression": {"auc": 0.6}}}
    metrics = {
        "2025-03-01": {"data": {"rows": 300, "clicks": 90}, "model": {"auc": None, "log_loss": None}, "baselines": {}},
        "2025-03-02": {"data": {"rows": 300, "clicks": 90}, **fitted},
        "2025-03-11": {"data": {"rows": 0, "clicks": 0}, **unfitted},
        "2025-03-12": {"data": {"rows": 300, "clicks": 90}, **unfitted},
        "2025-03-13": {
            "data": {"rows": 5, "clicks": 5},
            "model": {"auc": None, "log_loss": 0.5},
            "baselines": unfitted["baselines"],
        },
        "2025-03-14": {
            "data": {"rows": 5, "clicks": 0},
            "model": {"auc": None, "log_loss": 0.5},
            "baselines": fitted["baselines"],
        },
    }
    assert blank_metrics(metrics) == [
        "2025-03-12: No LR: no earlier rows (2025-03-05 to 2025-03-11).",
        "2025-03-13, 2025-03-14: No AUC: all rows of the day have the same label.",
    ]
