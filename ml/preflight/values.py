"""Checks the values of a log's columns against what the catalog entry uses them for: label, user, item and features."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions at import, out of a type checker's sight)

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ml.catalog.spec import DatasetSpec
from ml.logs.labels import POSITIVE, UNKNOWN, label_codes
from ml.logs.quarantine import excerpt
from ml.preflight.finding import Finding, exceeds
from ml.preflight.sample import Sample

ENOUGH = 20  # rows that a statement on a whole column needs
NULLS = ("NULL", "null", r"\N", "N/A", "n/a", "NaN", "nan", "None", "<null>", "undefined")
PARTS = "|,; /"


def check_label(spec: DatasetSpec, table: pa.Table) -> list[Finding]:
    """Checks that labels are there, that they are 0 and 1 or compared with a threshold, and that there are two classes."""
    name, band = spec.label.column, spec.expectations.quarantine_rate
    if name is None or name not in table.column_names or not table.num_rows:
        return []
    label, rows = table[name], table.num_rows
    if exceeds(label.null_count, rows, band) or label.null_count == rows:
        found = f"{label.null_count:,} of {rows:,} sampled labels in {name!r} are missing"
        return [Finding("error", "label.column", found, "set label.column to the column of labels")]
    codes = label_codes(label.drop_null(), spec.label_rules[0])
    values = _shown(label)
    unknown = int((codes == UNKNOWN).sum())
    if exceeds(unknown, len(codes), band) or unknown == len(codes):
        which = "neither 0 nor 1" if spec.label.is_ is None else "in neither is nor is_not"
        found = f"{unknown:,} of {rows:,} sampled labels in {name!r} are {which}; the values are {values}"
        return [
            Finding("error", "label.column" if spec.label.is_ is None else "label.is_not", found, _other_label(spec, label))
        ]
    positive = codes == POSITIVE
    if rows >= ENOUGH and (positive.all() or not positive.any()):
        which = "positive" if positive.all() else "negative"
        key, change = _LABEL_KEYS.get((spec.label.at_least is not None, spec.label.is_ is not None), _LABEL_KEYS[False, False])
        found = f"all {rows:,} sampled rows are {which}; the values of {name!r} are {values}"
        return [Finding("warning", key, found, change)]
    return []


_LABEL_KEYS = {
    (False, False): ("label.column", "correct the label"),
    (True, False): ("label.at_least", "set at_least between the values"),
    (False, True): ("label.is", "list the values that are positive"),
}


def _shown(label: pa.ChunkedArray) -> str:
    """The most frequent texts, or the smallest numbers."""
    if pa.types.is_string(label.type):
        counts = pc.value_counts(label.drop_null()).to_pylist()
        return ", ".join(excerpt(one["values"]) for one in sorted(counts, key=lambda one: -one["counts"])[:8])
    return ", ".join(f"{value:g}" for value in np.unique(label.drop_null().cast(pa.float64(), safe=False).to_numpy())[:8])


def _other_label(spec: DatasetSpec, label: pa.ChunkedArray) -> str:
    """What to change if values are no labels."""
    if spec.label.is_ is not None:
        return "list all negative values in is_not, or remove it if all values but those of `is` are negative"
    if pa.types.is_string(label.type):
        return "list the values that are positive, such as `is: [click]`"
    numbers = label.drop_null().cast(pa.float64(), safe=False).to_numpy()
    if set(numbers.tolist()) == {-1.0, 1.0}:
        return "if -1 is negative, set `is: [1]` and `is_not: [-1]`"
    above = numbers[numbers > numbers.min()]  # at the smallest value, every row would be positive
    threshold = max(np.median(numbers), above.min()) if len(above) else numbers.min()
    return f"set label.column to a column of 0 and 1, or a threshold such as `at_least: {threshold:g}`"


def check_columns(spec: DatasetSpec, sample: Sample, prefix: str = "source", used: set[str] | None = None) -> list[Finding]:
    """Checks the columns of the log or of a side table that features, user and item are made of.

    Args:
        spec: The dataset.
        sample: Of the log or of the side table.
        prefix: Key of the source in the catalog entry.
        used: Columns that count; all by default.
    """
    table = sample.table
    wanted = [name for name in table.column_names if used is None or name in used]
    found = list(_constant(spec, table, wanted)) if prefix == "source" else []
    if table.num_rows >= ENOUGH:
        found += _empty(spec, table, wanted)
        found += _unsplit(spec, table, wanted)
    found += _numbers_as_floats(spec, sample, wanted, prefix)
    found += _null_texts(spec, sample, wanted, prefix)
    return found


def _constant(spec: DatasetSpec, table: pa.Table, wanted: list[str]) -> Iterator[Finding]:
    for key, name in (("user", spec.user), ("item", spec.item)):
        if name in wanted and table.num_rows >= ENOUGH:
            distinct = table[name].drop_null().unique()
            if len(distinct) == 0:
                yield Finding(
                    "error", key, f"all {table.num_rows:,} sampled values of {name!r} are missing", _other_column(key)
                )
            elif len(distinct) == 1:
                found = f"all sampled values of {name!r} are {excerpt(distinct[0].as_py())}"
                yield Finding("warning", key, found, _other_column(key))


def _other_column(key: str) -> str:
    return f"set {key} to the column that identifies it"


def _empty(spec: DatasetSpec, table: pa.Table, wanted: list[str]) -> list[Finding]:
    """Features of columns without a value."""
    empty = {name for name in wanted if table[name].null_count == table.num_rows}
    features = [(f"dense.{d.name}", {d.column}) for d in spec.dense] + [
        (f"sparse.{s.name}", set(s.inputs)) for s in spec.sparse
    ]
    features += [(f"slices.{i}", {name}) for i, name in enumerate(spec.slices)]
    return [
        Finding(
            "warning",
            f"{key}{'' if key.startswith('slices') else '.column'}",
            f"all {table.num_rows:,} sampled values of {', '.join(map(repr, sorted(inputs & empty)))} are missing",
            "use a column that has values, or remove it",
        )
        for key, inputs in features
        if inputs & empty
    ]


def _unsplit(spec: DatasetSpec, table: pa.Table, wanted: list[str]) -> list[Finding]:
    """Separators of multi-valued features that no value contains, while another one is there."""
    found: list[Finding] = []
    for sparse in spec.sparse:
        if not sparse.split or sparse.column not in wanted:
            continue
        texts = table[sparse.column].drop_null().unique()
        if len(texts) < 2 or pc.any(pc.match_substring(texts, sparse.split)).as_py():
            continue
        counts = {part: pc.sum(pc.match_substring(texts, part)).as_py() for part in PARTS if part != sparse.split}
        best = max(counts, key=lambda part: counts[part])
        if counts[best] * 5 > len(texts):
            example = texts.filter(pc.match_substring(texts, best))[0].as_py()
            what = f"no sampled value of {sparse.column!r} contains {sparse.split!r}; one is {excerpt(example)}"
            found.append(Finding("warning", f"sparse.{sparse.name}.split", what, f"set `split: {best!r}`"))
    return found


def _numbers_as_floats(spec: DatasetSpec, sample: Sample, wanted: list[str], prefix: str) -> list[Finding]:
    """Ids, event times and labels that are whole numbers and declared as floats."""
    ids = {spec.user, spec.item, *(side.log_key for side in spec.join), *(side.table_key for side in spec.join)}
    ids |= {spec.time.column, spec.label.column if spec.label.at_least is None else None}
    ids |= {name for s in spec.sparse if not s.bucketise for name in s.inputs} | set(spec.slices)
    texts = sample.text_columns()
    found: list[Finding] = []
    for name in wanted:
        if sample.source.columns.get(name) != "float" or name not in ids or name in sample.file_types:
            continue
        if name in texts:
            values = [text for text in texts[name] if text not in sample.source.null_tokens]
            whole = bool(values) and all(re.fullmatch(r"\s*-?\d+\s*", text) for text in values)
        else:
            numbers = sample.key_values(name)
            whole = bool(numbers) and all(isinstance(value, int) for value in numbers)
        if whole:
            what = f"all sampled values of {name!r} are whole numbers, and it is used as an id, a time or a label"
            found.append(Finding("warning", f"{prefix}.columns.{name}", what, f"declare `{name}: int`"))
    return found


def _null_texts(spec: DatasetSpec, sample: Sample, wanted: list[str], prefix: str) -> list[Finding]:
    """Texts that usually mean a missing value, and are read as values."""
    tokens = pa.array([text for text in NULLS if text not in sample.source.null_tokens])
    table = sample.table
    for name in wanted:
        if not pa.types.is_string(table[name].type):
            continue
        seen = table[name].filter(pc.is_in(table[name], tokens))
        if len(seen) >= 3 and len(seen) > table.num_rows / 200:
            text = seen[0].as_py()
            what = f"{len(seen):,} of {table.num_rows:,} sampled values of {name!r} are {text!r}"
            current = [*sample.source.null_tokens, text]
            return [Finding("warning", f"{prefix}.null_tokens", what, f"set `null_tokens: {current}`")]
    return []


def int_way_out(column: str, texts: Iterable[str], odd: Iterable[str]) -> tuple[str, str] | None:
    """The key to change for texts that are no signed 64-bit integers, and the change; None if they are no integers.

    Args:
        column: The column's name.
        texts: Its values.
        odd: The values that are not integers.
    """
    odd = list(odd)
    if odd and all(re.fullmatch(r"\s*-?\d{1,15}\.0*\s*", text) for text in odd):
        return "decimal_ints", f"set `decimal_ints: true` (values such as {odd[0]!r})"
    large = next((text for text in texts if re.fullmatch(r"\s*\d+\s*", text) and 2**63 <= int(text) < 2**64), None)
    if large and not odd:
        return "unsigned", f"add {column!r} to `unsigned` (values such as {large.strip()})"
    return None
