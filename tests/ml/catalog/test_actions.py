"""An entry with two logs: what it declares, what it refuses, and what changes its fingerprints."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from ml.catalog.explain import explain
from ml.catalog.spec import DatasetSpec
from ml.days import MICROSECONDS_PER_HOUR, MICROSECONDS_PER_MINUTE
from ml.features.clean_task import read_columns
from ml.schema import FeatureSchema
from ml.stages import CLEANED_FEATURES, JOINED_EXAMPLES, RAW_ACTIONS, RAW_LOGS, stages_of
from tests.helpers.joined_logs import feed, feed_entry
from tests.helpers.paths import ROOT

CATALOG = ROOT / "catalog"


def test_an_entry_with_actions_has_three_logs() -> None:
    spec = feed()
    assert spec.actions and spec.actions_log
    assert (spec.log.stage, spec.actions_log.stage, spec.examples_log.stage) == (RAW_LOGS, RAW_ACTIONS, JOINED_EXAMPLES)
    assert list(spec.examples_log.source.columns.items())[-4:] == [
        ("clicked", "int"),
        ("clicked_delay", "float"),
        ("bought", "int"),
        ("bought_delay", "float"),
    ]
    assert spec.actions.labels["clicked"].wait == 30 * MICROSECONDS_PER_MINUTE
    assert spec.actions.wait == 2 * MICROSECONDS_PER_HOUR and spec.actions.lateness == 10 * MICROSECONDS_PER_MINUTE
    assert spec.examples_log.label and spec.examples_log.label.column == "clicked" and spec.log.label is None
    assert stages_of(spec)[:4] == [RAW_LOGS, RAW_ACTIONS, JOINED_EXAMPLES, CLEANED_FEATURES]
    assert FeatureSchema.of(spec).dense == ("price",)


def test_actions_give_further_labels_and_sample_weights() -> None:
    weighted = {"labels": {"clicked": {"weights": {"click": 2}}}}
    spec = feed(actions=weighted, label={"weight": "clicked_weight"}, labels={"bought": {}})
    assert [rule.column for rule in spec.label_rules] == ["clicked", "bought"]
    assert spec.log.weight is None and not spec.log.label_columns, "impressions have neither labels nor their weights"
    assert spec.examples_log.weight == "clicked_weight"
    assert [column.column for column in spec.examples_log.label_columns] == ["clicked", "bought"]
    schema = FeatureSchema.of(spec)
    assert (schema.labels, schema.weighted) == (("label", "bought"), True)
    assert {"clicked", "bought", "clicked_weight"} <= set(read_columns(spec))


def test_an_entry_without_actions_is_read_from_its_log(catalog: dict[str, DatasetSpec]) -> None:
    for spec in catalog.values():
        assert spec.examples_log == spec.log and spec.actions_log is None and not spec.action_columns
        assert JOINED_EXAMPLES not in stages_of(spec)


def test_days_that_were_made_before_actions_existed_stay_current(catalog: dict[str, DatasetSpec]) -> None:
    assert {name: spec.log.fingerprint for name, spec in catalog.items()} == {
        "criteo": "c807cdf74bb60b2a",
        "globo": "7371f608f2936b13",
        "movielens": "d35ed57ccd7f499f",
        "synthetic": "1db5c0f830cdcce6",
    }


def test_actions_have_the_time_zone_of_the_impressions() -> None:
    spec = feed(time={"timezone": "America/Sao_Paulo"})
    assert spec.actions_log and spec.actions_log.time.timezone == "America/Sao_Paulo"


def test_an_undated_log_of_actions_has_no_missing_days() -> None:
    spec = feed(partitions={"missing_days": "skip"}, actions={"source": {"files": "all.jsonl"}})
    assert spec.log.partitions.missing_days == "skip"
    assert spec.actions_log and spec.actions_log.partitions.missing_days == "error"
    assert spec.examples_log.partitions.missing_days == "error"


def test_ranges_of_columns_are_expanded() -> None:
    columns = {"A{1..3}": "int"}
    spec = feed(actions={"source": {"columns": columns}})
    assert spec.actions and list(spec.actions.source.columns)[-3:] == ["A1", "A2", "A3"]


@pytest.mark.parametrize(
    ("change", "stages"),
    [
        ({"actions": {"lateness_minutes": 20}}, set()),
        ({"actions": {"labels": {"clicked": {"within_minutes": 31}}}}, {JOINED_EXAMPLES, CLEANED_FEATURES}),
        ({"actions": {"source": {"files": "a-%Y-%m-%d.jsonl"}}}, {RAW_ACTIONS, JOINED_EXAMPLES, CLEANED_FEATURES}),
        ({"source": {"files": "i-%Y-%m-%d.jsonl"}}, {RAW_LOGS, JOINED_EXAMPLES, CLEANED_FEATURES}),
        ({"sparse": ["user"]}, {CLEANED_FEATURES}),
        ({"partitions": {"end": "2026-03-09"}}, set()),
    ],
)
def test_a_change_makes_the_stages_stale_that_it_shapes(change: dict[str, Any], stages: set[str]) -> None:
    before, after = feed(), feed(**change)
    changed = {s for s in stages_of(before) if before.fingerprint_of(s) != after.fingerprint_of(s)}
    assert {s for s in changed if s in (RAW_LOGS, RAW_ACTIONS, JOINED_EXAMPLES, CLEANED_FEATURES)} == stages


LABEL = {"types": ["click"], "within_minutes": 30}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"actions": {"key": ["request", "position"]}}, "actions.key.1: no column 'position' in the impressions"),
        ({"actions": {"key": ["request", "price"]}}, "actions.key.1: no column 'price' in the actions"),
        ({"actions": {"key": ["item", "item"]}}, "actions.key: a column is named more than once"),
        (
            {"source": {"unsigned": ["item"]}},
            "actions.source.unsigned: 'item' of the impressions has unsigned ids, but 'item' of the actions has not",
        ),
        (
            {"actions": {"source": {"columns": {"item": "string"}}}},
            "actions.source.columns.item: is string, but 'item' of the impressions is int",
        ),
        (
            {"actions": {"key": ["price"], "source": {"columns": {"price": "float"}}}},
            "actions.key.0: 'price' is float, expected a column of int or string or bool",
        ),
        ({"actions": {"type": "sort"}}, "actions.type: no column 'sort'"),
        ({"actions": {"type": None}}, "actions.labels.clicked.types: needs actions.type"),
        (
            {"actions": {"labels": {"clicked": {"types": None}}}},
            "actions.labels.clicked.types: name the types of 'kind' that count",
        ),
        ({"actions": {"labels": {"price": LABEL}}}, "actions.labels.price: would hide the column 'price' of the impressions"),
        ({"actions": {"labels": {"row": LABEL}}}, "actions.labels.row: 'row' is a reserved name"),
        (
            {"actions": {"labels": {"clicked": {"weights": {"view": 2}}}}},
            "actions.labels.clicked.weights: ['view'] are not among the types ['click']",
        ),
        ({"actions": {"labels": {"clicked": {"weights": {"click": 0}}}}}, "actions.labels.clicked.weights.click"),
        (
            {"actions": {"labels": {"clicked": {"weights": {"click": 2}}, "clicked_weight": LABEL}}},
            "actions.labels.clicked_weight: is also the weight of the label 'clicked'",
        ),
        ({"label": {"weight": "clicked_delay"}}, "label.weight: 'clicked_delay' is missing without an action"),
        ({"actions": {"labels": {"clicked_delay": LABEL}}}, "actions.labels.clicked_delay: is also the delay of the label"),
        (
            {"actions": {"labels": {"clicked": {"within_hours": 1}}}},
            "actions.labels.clicked: give either within_minutes or within_hours",
        ),
        ({"actions": {"labels": {"clicked": {"within_minutes": 0}}}}, "actions.labels.clicked.within_minutes"),
        ({"actions": {"labels": {"clicked": {"within_minutes": "soon"}}}}, "expected a number, found 'soon'"),
        ({"actions": {"time": {"column": "when"}}}, "actions.time.column: no column 'when'"),
        ({"actions": {"time": {"unit": "iso8601"}}}, "actions.time.column: 'at' is int; unit iso8601 needs string"),
        ({"actions": {"time": {"column": None, "by_position": True}}}, "actions.time.by_position: joining actions needs"),
        (
            {"source": {"files": "i.jsonl"}, "time": {"column": None, "by_position": True}},
            "time.by_position: joining actions needs",
        ),
        ({"actions": {"time": {"timezone": "Europe/Berlin"}}}, "actions.time.timezone: expected 'UTC'"),
        ({"actions": {"source": {"columns": {"row": "int"}}}}, "actions.source.columns: ['row'] are reserved names"),
        ({"actions": {"source": {"files": "impressions-%Y-%m-%d.jsonl"}}}, "actions.source.files: "),
        ({"actions": {"source": {"files": "/logs/*.jsonl"}}}, "actions.source.files: '/logs/*.jsonl' is outside"),
        ({"actions": {"labels": {}}, "sparse": ["user", "clicked"]}, "sparse.clicked: column 'clicked' holds the answer"),
        ({"dense": ["price", "bought_delay"]}, "dense.bought_delay: column 'bought_delay' holds the answer"),
        ({"label": {"column": "liked"}}, "label.column: no column 'liked'"),
        ({"label": {"column": None, "negatives": {}}}, "actions: a log of positives"),
        ({"simulation": {"seed": 1}}, "actions: a simulated log has its label already"),
        ({"actions": {"wait": 3}}, "actions.wait: unknown key, found 3"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_key(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        DatasetSpec.model_validate(feed_entry(**change))
    assert message in str(explain(CATALOG / "feed.yaml", caught.value, DatasetSpec))
