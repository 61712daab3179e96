"""Checks of the keys of a catalog entry against each other. Each check raises an error that names the key."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ml.catalog.labels import check_label_type
from ml.catalog.log_spec import RESERVED_COLUMNS
from ml.catalog.strict import fault
from ml.catalog.value_text import ComparedColumn, check_both_unsigned, element_type

if TYPE_CHECKING:
    from ml.catalog.features import SparseColumn
    from ml.catalog.reading import ColumnType
    from ml.catalog.spec import DatasetSpec

NUMBERS = ("int", "float", "bool")
RESERVED_FEATURES = ("event_time", "label", "sample_rate", "oracle")


def check_users_and_items(spec: DatasetSpec) -> None:
    """Checks that a dataset has the user and the item that its other keys need."""
    if spec.label.negatives and (spec.user is None or spec.item is None):
        raise fault("label.negatives", "sampling needs user and item")
    if spec.ranking and (spec.user is None or spec.item is None):
        raise fault("ranking", "ranking items needs user and item")
    if spec.item_columns and spec.item is None:
        raise fault("item_columns", "needs item, the column that identifies it")


def check_joins(spec: DatasetSpec) -> None:
    """Checks that columns from side tables, and computed ones, have names of their own."""
    known = dict.fromkeys(spec.source.columns, "the log") | dict.fromkeys(spec.action_columns, "actions.labels")
    for i, table in enumerate(spec.join):
        for column in table.columns:
            if column in known:
                raise fault(f"join.{i}.columns", f"{column!r} would hide the column with that name of {known[column]}")
            known[column] = f"join.{i}"
    for name in spec.label.negatives.recent if spec.label.negatives else ():
        if name in known:
            raise fault(f"label.negatives.recent.{name}", f"would hide the column with that name of {known[name]}")
        known[name] = "label.negatives.recent"
    if reserved := sorted(set(known) & set(RESERVED_COLUMNS)):
        raise fault("source.columns", f"{reserved} are reserved names; rename these columns")


def check_columns(spec: DatasetSpec) -> None:
    """Checks that every column that is named exists."""
    types = spec.column_types
    raw, known = set(spec.source.columns), set(types)
    named: list[tuple[str, str | None, set[str]]] = [
        *((f"{rule.key}.column", rule.column, known) for rule in spec.label_rules),
        ("user", spec.user, raw if spec.label.negatives else known),  # negatives are sampled before the join
        ("item", spec.item, raw if spec.label.negatives else known),
        ("session.column", spec.session.column if spec.session else None, raw),
        ("oracle", spec.oracle, known),
    ]
    named += [(f"item_columns.{i}", column, raw) for i, column in enumerate(spec.item_columns)]
    named += [(f"dense.{d.name}.column", d.column, known) for d in spec.dense]
    named += [
        (f"sparse.{s.name}.{'cross' if s.cross else 'column'}", column, known) for s in spec.sparse for column in s.inputs
    ]
    named += [(f"slices.{i}", column, known) for i, column in enumerate(spec.slices)]
    named += [(f"join.{i}.log_key", t.log_key, raw) for i, t in enumerate(spec.join)]
    named += [(f"expectations.columns.{c}", c, raw | set(spec.joined_columns)) for c in spec.expectations.columns]
    named += [("expectations.unique", c, raw) for c in spec.expectations.unique if c != "event_time"]
    for path, column, there in named:
        if column is not None and column not in there:
            raise fault(path, f"no column {column!r}; the columns are {sorted(there)}")
        kind = types.get(column or "")
        listed = path.startswith(("expectations.columns", "item_columns")) or re.fullmatch(r"sparse\.[^.]*\.column", path)
        if kind and element_type(kind) and not listed:
            raise fault(path, f"{column!r} is {kind}; lists are read by sparse features of the column alone")


def check_types(spec: DatasetSpec) -> None:
    """Checks that columns have the types that they are used as."""
    types = spec.column_types
    _check_unsigned(spec)
    for dense in spec.dense:
        if types[dense.column] not in NUMBERS:
            raise fault(f"dense.{dense.name}.column", f"{dense.column!r} is {types[dense.column]}, expected a number")
    for sparse in spec.sparse:
        if (kind := types.get(sparse.column or "")) in ("list<float>", "list<bool>"):
            raise fault(f"sparse.{sparse.name}.column", f"{sparse.column!r} is {kind}, expected list<int> or list<string>")
        if sparse.keep == "last" and (sparse.history or not sparse.is_multi_valued(types)):
            raise fault(f"sparse.{sparse.name}.keep", "only with `split`, or a column that is a list")
        if sparse.ids_of:
            _check_ids_of(sparse, spec, types)
        if sparse.split and types[sparse.column or ""] != "string":
            raise fault(f"sparse.{sparse.name}.split", f"column {sparse.column!r} is not a string")
        if sparse.bucketise and types[sparse.column or ""] not in NUMBERS:
            raise fault(f"sparse.{sparse.name}.bucketise", f"column {sparse.column!r} is not a number")
    for rule in spec.label_rules:
        check_label_type(rule, types[rule.column])
    if spec.oracle and types[spec.oracle] not in NUMBERS:
        raise fault("oracle", f"{spec.oracle!r} is {types[spec.oracle]}, expected a number")
    for i, table in enumerate(spec.join):
        log, other = types[table.log_key], table.source.columns[table.table_key]
        if log != other:
            raise fault(f"join.{i}.table_key", f"{table.table_key!r} is {other}, but {table.log_key!r} of the log is {log}")
        check_both_unsigned(
            ComparedColumn("source.unsigned", "the log", table.log_key, spec.source),
            ComparedColumn(f"join.{i}.source.unsigned", table.source.files, table.table_key, table.source),
        )
    for column, expectation in spec.expectations.columns.items():
        if expectation.value and types[column] not in NUMBERS:
            raise fault(f"expectations.columns.{column}.value", f"{column!r} is {types[column]}, expected a number")


def _unsigned(spec: DatasetSpec) -> set[str]:
    """The columns with unsigned ids, those of side tables too."""
    joined = {name for table in spec.join for name in table.source.unsigned or () if name in table.columns}
    return {*(spec.source.unsigned or ()), *joined}


def _check_unsigned(spec: DatasetSpec) -> None:
    """Checks that unsigned ids, whose order is lost, are not read as numbers."""
    ids = _unsigned(spec)
    measured = [(f"dense.{d.name}.column", d.column) for d in spec.dense]
    measured += [(f"sparse.{s.name}.bucketise", s.column) for s in spec.sparse if s.bucketise is not None]
    measured += [(f"{rule.key}.column", rule.column) for rule in spec.label_rules]
    measured += [("label.weight", spec.label.weight)]
    measured += [(f"expectations.columns.{c}.value", c) for c, e in spec.expectations.columns.items() if e.value]
    for path, column in measured:
        if column in ids:
            raise fault(path, f"{column!r} has unsigned ids (source.unsigned), which are not numbers to compare")


def _check_ids_of(sparse: SparseColumn, spec: DatasetSpec, types: Mapping[str, ColumnType]) -> None:
    """Checks that a feature can have the ids of another one: both hash values of one type."""
    path, named = f"sparse.{sparse.name}.ids_of", {one.name: one for one in spec.sparse}
    other = named.get(sparse.ids_of or "")
    if other is None or other is sparse:
        raise fault(path, f"no other sparse feature {sparse.ids_of!r}; the features are {sorted(named)}")
    if not other.column or other.bucketise is not None or other.vocabulary or other.ids_of:
        raise fault(path, f"{other.name!r} does not hash the values of a column, so its ids cannot be shared")
    one, two = (element_type(types[each.column or ""]) or types[each.column or ""] for each in (sparse, other))
    if one != two:
        way_out = f"; declare {sparse.column!r} as list<{two}> with source.list_separator" if sparse.split else ""
        raise fault(path, f"{sparse.column!r} has values of {one}, but {other.name!r} of {two}, whose ids differ{way_out}")
    ids = _unsigned(spec)
    if (sparse.column in ids) != (other.column in ids):
        has, lacks = (sparse.column, other.column) if sparse.column in ids else (other.column, sparse.column)
        at = next((f"join.{i}.source.unsigned" for i, side in enumerate(spec.join) if lacks in side.columns), "source.unsigned")
        raise fault(path, f"{has!r} has unsigned ids, but {lacks!r} has not; add {lacks!r} to {at}")


def check_features(spec: DatasetSpec) -> None:
    """Checks that features have distinct names, do not reveal the label, and have what their histories need."""
    names = [f.name for f in (*spec.dense, *spec.sparse)]
    if double := sorted({n for n in names if names.count(n) > 1}):
        raise fault("sparse", f"{double} are named more than once among dense and sparse")
    for kind, features in (("dense", spec.dense), ("sparse", spec.sparse)):
        if taken := [f.name for f in features if f.name in RESERVED_FEATURES]:
            raise fault(f"{kind}.{taken[0]}", "this name is reserved; rename the feature")
    answers = {*(rule.column for rule in spec.label_rules), spec.oracle, *spec.action_columns} - {None}
    for kind, feature, inputs in (
        *(("dense", d.name, (d.column,)) for d in spec.dense),
        *(("sparse", s.name, s.inputs) for s in spec.sparse),
    ):
        if leaks := answers & set(inputs):
            raise fault(f"{kind}.{feature}", f"column {leaks.pop()!r} holds the answer, so it cannot be a feature")
    for feature in (feature for feature in spec.sparse if isinstance(feature.history, int)):
        if not spec.label.negatives:
            raise fault(f"sparse.{feature.name}.history", "only for logs with label.negatives")
        if spec.item_feature is None:
            raise fault(f"sparse.{feature.name}.history", f"needs a sparse feature of the item's column, {spec.item!r}")
