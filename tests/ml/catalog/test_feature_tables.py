"""Keys of feature tables: the columns that they give, and what is refused."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from ml.catalog.feature_tables import FeatureTable, FeatureValue
from ml.catalog.load import CatalogError, load_dataset
from ml.catalog.spec import DatasetSpec
from tests.helpers.joined_logs import feed
from tests.helpers.shop_features import shop

TABLES: list[dict[str, Any]] = [
    {
        "name": "item",
        "entity": ["item"],
        "known_after_minutes": 30,
        "values": [
            {"name": "shown_1h", "count": {"hours": 1}},
            {"name": "ctr_24h", "rate": {"column": "click", "hours": 24, "prior": 0.05}},
            {"name": "idle", "recency": {"hours": 48}},
            {"name": "together", "covisitation": {"session": "user", "hours": 24}},
        ],
    },
    {
        "name": "clicks",
        "entity": ["user"],
        "where": {"column": "click", "equals": 1},
        "values": [{"name": "clicked", "last": {"column": "item", "most": 3, "hours": 168}}],
    },
    {"name": "taste", "entity": ["user", "country"], "values": [{"name": "here", "count": {"hours": 24}}]},
]
NEGATIVES = {"label": {"negatives": {"window_hours": 6}}}


def changed(path: str, value: Any) -> list[dict[str, Any]]:
    tables: Any = deepcopy(TABLES)
    at = tables
    *steps, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    for step in steps:
        at = at[step]
    at[last] = value
    return tables


def entry(**changes: Any) -> dict[str, Any]:
    return shop().model_dump(mode="json", exclude_unset=True) | {"feature_tables": TABLES} | changes


def refusal(folder: Path, **changes: Any) -> str:
    path = folder / "shop.yaml"
    path.write_text(yaml.safe_dump(entry(**changes), sort_keys=False))
    with pytest.raises(CatalogError) as refused:
        load_dataset(path)
    return str(refused.value)


def test_values_are_columns_of_features() -> None:
    sparse = [
        *entry()["sparse"],
        {"name": "history", "history": "clicked"},
        {"name": "shown", "column": "shown_1h", "bucketise": [1, 9]},
    ]
    spec = shop(feature_tables=TABLES, dense=[{"name": "ctr_24h"}, {"name": "idle", "log1p": True}], sparse=sparse)
    types = {name: kind for name, kind in spec.column_types.items() if name in spec.table_values}
    assert types == {"shown_1h": "int", "ctr_24h": "float", "idle": "float", "together": "float", "here": "int"}
    assert spec.history_of(next(s for s in spec.sparse if s.name == "history")) == ("item", 3)


def test_a_table_states_its_columns_and_how_far_it_looks_back() -> None:
    spec = shop(feature_tables=TABLES)
    item, clicks, taste = spec.feature_tables
    assert item.columns == ("item", "click", "user") and clicks.columns == ("user", "click", "item")
    assert (item.look_back_hours, clicks.look_back_hours, taste.look_back_hours) == (48, 168, 24)
    assert (spec.known_after(item), spec.known_after(clicks)) == (30 * 60 * 1_000_000, 0)


def test_an_event_whose_label_is_joined_is_known_after_the_wait() -> None:
    values = [{"name": "ctr", "rate": {"column": "clicked", "hours": 24}}]
    tables = [{"name": "labels", "entity": ["item"], "values": values}]
    tables += [{"name": "shown", "entity": ["item"], "values": [{"name": "shown_1h", "count": {"hours": 1}}]}]
    spec = feed(feature_tables=tables)
    assert spec.actions is not None
    assert [spec.known_after(table) for table in spec.feature_tables] == [spec.actions.wait, 0]


def test_a_table_changes_the_fingerprint_and_none_does_not() -> None:
    assert shop(feature_tables=[]).fingerprint == shop().fingerprint
    others = [TABLES, TABLES[:1], changed("0.known_after_minutes", 31)]
    assert len({shop(feature_tables=tables).fingerprint for tables in [[], *others]}) == 4


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("0.entity", ["nowhere"], "feature_tables.0.entity.0: no column 'nowhere'"),
        ("0.entity", [], "feature_tables.0.entity: "),
        ("2.entity", ["user", "user"], "feature_tables.2.entity: expected distinct columns"),
        ("1.name", "item", "feature_tables.1.name: more than one table is named 'item'"),
        ("1.name", "Item", "feature_tables.1.name: expected lower-case letters"),
        ("0.values.0.name", "price", "feature_tables.0.values.0.name: 'price' would hide the column with that name of the log"),
        ("0.values.0.name", "row", "feature_tables.0.values.0.name: 'row' is a reserved name"),
        ("2.values.0.name", "idle", "feature_tables.2.values.0.name: 'idle' would hide"),
        ("0.values.0", {"name": "shown_1h"}, "feature_tables.0.values.0: give one of count, rate, recency"),
        ("0.values.0.recency", {"hours": 1}, "feature_tables.0.values.0: give one of"),
        ("0.values.0.count.hours", 0, "feature_tables.0.values.0.count.hours: expected greater than 0"),
        ("0.values.0.count.hours", 5000, "feature_tables.0.values.0.count.hours: expected at most 2208"),
        ("0.values.1.rate.column", "country", "feature_tables.0.values.1.rate.column: 'country' is string, expected a number"),
        ("0.values.1.rate.column", "ctr", "feature_tables.0.values.1.rate.column: no column 'ctr'"),
        ("0.values.1.rate.strength", 0, "feature_tables.0.values.1.rate.strength: expected greater than 0"),
        ("0.values.3.covisitation.session", "visit", "feature_tables.0.values.3.covisitation.session: no column 'visit'"),
        ("0.values.3.covisitation.session", "item", "feature_tables.0.values.3.covisitation.session: is the entity itself"),
        ("0.entity", ["item", "country"], "feature_tables.0.values.3.covisitation: needs an entity of one column"),
        ("1.where.column", "kind", "feature_tables.1.where.column: no column 'kind'"),
        ("1.where.equals", "yes", "feature_tables.1.where.equals: 'click' is int, expected such a value, found 'yes'"),
        ("1.where.equals", True, "feature_tables.1.where.equals: 'click' is int, expected such a value, found True"),
        ("1.values.0.last.most", 101, "feature_tables.1.values.0.last.most: expected at most 100"),
        ("1.values", [], "feature_tables.1.values: "),
        ("0.known_after_minutes", -1, "feature_tables.0.known_after_minutes: expected at least 0"),
        ("0.window", 3, "feature_tables.0.window: unknown key"),
    ],
)  # fmt: skip
def test_faults_name_the_key(path: str, value: Any, said: str, tmp_path: Path) -> None:
    assert said in refusal(tmp_path, feature_tables=changed(path, value))


@pytest.mark.parametrize(
    ("history", "said"),
    [
        ("seen", "no `last` value 'seen' in feature_tables; expected one of ['clicked']"),
        ("shown_1h", "no `last` value 'shown_1h'"),
        (0, "expected an integer from 1 to 100, or the name of a `last` value of a feature table, found 0"),
        (True, "expected an integer from 1 to 100"),
    ],
)
def test_a_history_names_a_list(history: Any, said: str, tmp_path: Path) -> None:
    sparse = [*entry()["sparse"], {"name": "history", "history": history}]
    assert f"sparse.history.history: {said}" in refusal(tmp_path, sparse=sparse)


def test_a_history_needs_the_ids_of_its_column(tmp_path: Path) -> None:
    sparse = [{"name": "country"}, {"name": "history", "history": "clicked"}]
    assert "needs a sparse feature of the column 'item'" in refusal(tmp_path, sparse=sparse)


def test_a_feature_cannot_read_a_list_as_a_value(tmp_path: Path) -> None:
    assert "sparse.clicked.column: no column 'clicked'" in refusal(tmp_path, sparse=[*entry()["sparse"], "clicked"])


@pytest.mark.parametrize(
    ("entity", "value", "said"),
    [
        (["item", "user"], {"count": {"hours": 1}}, "crosses the item with its user or session"),
        (["item"], {"rate": {"column": "price", "hours": 6}}, "expected less than label.negatives.window_hours"),
        (["item"], {"last": {"column": "price", "hours": 6}}, "expected less than label.negatives.window_hours"),
    ],
)
def test_what_would_reveal_sampled_negatives_is_refused(entity: list[str], value: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        shop(**NEGATIVES, feature_tables=[{"name": "t", "entity": entity, "values": [{"name": "n", **value}]}])


def test_a_value_has_one_kind() -> None:
    value = FeatureValue.model_validate({"name": "n", "count": {"hours": 2}})
    assert (value.hours, value.column_type) == (2, "int")
    table = FeatureTable.model_validate({"name": "t", "entity": ["user"], "values": [value.model_dump()]})
    assert isinstance(shop(feature_tables=[table]), DatasetSpec)
