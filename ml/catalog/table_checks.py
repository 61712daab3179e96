"""Checks of the feature tables of a catalog entry: names, columns, types, and values that would reveal the label."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ml.catalog.dataset_checks import NUMBERS
from ml.catalog.feature_tables import EventFilter, FeatureTable
from ml.catalog.log_spec import RESERVED_COLUMNS
from ml.catalog.reading import is_of_type
from ml.catalog.strict import fault
from ml.catalog.value_text import element_type

if TYPE_CHECKING:
    from ml.catalog.spec import DatasetSpec


def check_feature_tables(spec: DatasetSpec) -> None:
    """Checks the feature tables, and the histories that read them. Raises a fault that names the key."""
    known = dict.fromkeys(spec.source.columns, "the log") | dict.fromkeys(spec.action_columns, "actions.labels")
    known |= dict.fromkeys(spec.joined_columns, "join")
    known |= dict.fromkeys(spec.label.negatives.recent if spec.label.negatives else (), "label.negatives.recent")
    tables: set[str] = set()
    for i, table in enumerate(spec.feature_tables):
        if table.name in tables:
            raise fault(f"feature_tables.{i}.name", f"more than one table is named {table.name!r}")
        tables.add(table.name)
        for j, value in enumerate(table.values):
            path = f"feature_tables.{i}.values.{j}.name"
            if value.name in known:
                raise fault(path, f"{value.name!r} would hide the column with that name of {known[value.name]}")
            if value.name in RESERVED_COLUMNS:
                raise fault(path, f"{value.name!r} is a reserved name; rename the value")
            known[value.name] = f"feature_tables.{i}"
        _check_columns(table, f"feature_tables.{i}", spec)
        _check_sampling(table, f"feature_tables.{i}", spec)
    _check_histories(spec)


def _check_columns(table: FeatureTable, path: str, spec: DatasetSpec) -> None:
    """Checks that the columns of a table are columns of the log, with the types that they are used as."""
    types = spec.source.columns | spec.action_columns
    named = [(f"{path}.entity.{i}", column) for i, column in enumerate(table.entity)]
    named += [(f"{path}.where.column", table.where.column)] if table.where else []
    for j, value in enumerate(table.values):
        parts = {"rate": value.rate and value.rate.column, "last": value.last and value.last.column}
        named += [(f"{path}.values.{j}.{kind}.column", column) for kind, column in parts.items() if column]
        if value.covisitation:
            named.append((f"{path}.values.{j}.covisitation.session", value.covisitation.session))
    for key, column in named:
        if column not in types:
            raise fault(key, f"no column {column!r}; the columns are {sorted(types)}")
        if element_type(types[column]):
            raise fault(key, f"{column!r} is {types[column]}, expected a column with one value")
    if table.where:
        _check_filter(table.where, f"{path}.where", spec)
    for j, value in enumerate(table.values):
        if value.rate and types[value.rate.column] not in NUMBERS:
            kind = types[value.rate.column]
            raise fault(f"{path}.values.{j}.rate.column", f"{value.rate.column!r} is {kind}, expected a number")


def _check_filter(where: EventFilter, path: str, spec: DatasetSpec) -> None:
    kind, value = spec.column_types[where.column], where.equals
    if not is_of_type(value, kind):
        raise fault(f"{path}.equals", f"{where.column!r} is {kind}, expected such a value, found {value!r:.80}")


def _check_sampling(table: FeatureTable, path: str, spec: DatasetSpec) -> None:
    """Checks that values do not reveal which rows are sampled negatives."""
    negatives = spec.label.negatives
    if negatives is None or spec.item not in table.entity:
        return
    if {spec.user, spec.session.column if spec.session else None} & set(table.entity):
        why = "which reveals the label: sampled negatives are never the user's own items"
        raise fault(f"{path}.entity", f"crosses the item with its user or session, {why}")
    for j, value in enumerate(table.values):
        kind = "rate" if value.rate else "last" if value.last else None
        if kind and table.entity == (spec.item,) and not table.where and value.hours >= negatives.window_hours:
            what = f"expected less than label.negatives.window_hours ({negatives.window_hours:g})"
            why = "each sampled item has an event in that window, so an item without one would reveal the label"
            raise fault(f"{path}.values.{j}.{kind}.hours", f"{what}: {why}")


def _check_histories(spec: DatasetSpec) -> None:
    values = spec.table_values
    for feature in spec.sparse:
        if not isinstance(feature.history, str):
            continue
        path, value = f"sparse.{feature.name}.history", values.get(feature.history)
        if value is None or value.last is None:
            names = sorted(name for name, one in values.items() if one.last)
            raise fault(path, f"no `last` value {feature.history!r} in feature_tables; expected one of {names}")
        if spec.feature_of(value.last.column) is None:
            raise fault(path, f"needs a sparse feature of the column {value.last.column!r}, whose ids the history has")
