"""The join of impressions and actions again, in Polars and in plain Python, to compare the joiner with."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import polars as pl
import pyarrow as pa

from ml.catalog.actions import Actions

Row = dict[str, Any]


def distinct_impressions(rules: Actions, impressions: pl.DataFrame) -> pl.DataFrame:
    """Keeps the earliest impression of each key, or of each stretch of impressions that are less than the wait apart."""
    columns = impressions.columns
    order = [*rules.key, "event_time", *(c for c in columns if c not in (*rules.key, "event_time"))]
    by = [_as_text(name) if isinstance(impressions.schema[name], pl.List) else pl.col(name) for name in order]
    rows = impressions.drop_nulls(list(rules.key)).sort(by, nulls_last=True)
    since = pl.col("event_time") - pl.col("event_time").shift(1).over(rules.key)
    return rows.filter(since.is_null() | (since >= rules.wait)).select(columns)


def _as_text(column: str) -> pl.Expr:
    return pl.col(column).map_elements(lambda values: json.dumps(values.to_list()), return_dtype=pl.String)


def reference_examples(rules: Actions, impressions: pa.Table, actions: pa.Table) -> list[Row]:
    """The examples of complete logs, sorted by time and values."""
    examples = distinct_impressions(rules, pl.DataFrame(pl.from_arrow(impressions))).with_row_index("_n")
    done = pl.DataFrame(pl.from_arrow(actions)).drop_nulls(list(rules.key)).rename({"event_time": "_at"})
    for name, label in rules.labels.items():
        typed = done.filter(pl.col(rules.type).cast(pl.String).is_in(list(label.types))) if rules.type else done
        first = (
            examples.select("_n", "event_time", *rules.key)
            .join(typed.select("_at", *rules.key), on=list(rules.key))
            .filter((pl.col("_at") >= pl.col("event_time")) & (pl.col("_at") - pl.col("event_time") < label.wait))
            .group_by("_n")
            .agg((pl.col("_at") - pl.col("event_time")).min().alias("_delay"))
        )
        examples = examples.join(first, on="_n", how="left").with_columns(
            pl.col("_delay").is_not_null().cast(pl.Int64).alias(name), (pl.col("_delay") / 1_000_000).alias(f"{name}_delay")
        )
        examples = examples.drop("_delay")
        if label.weights:
            examples = examples.join(heaviest(rules, name, examples, done), on="_n", how="left").with_columns(
                pl.col(f"{name}_weight").fill_null(1.0)
            )
    return in_order(examples.drop("_n").to_dicts())


def heaviest(rules: Actions, name: str, examples: pl.DataFrame, done: pl.DataFrame) -> pl.DataFrame:
    """The largest weight of the actions that count for a label, by example."""
    assert rules.type is not None
    label = rules.labels[name]
    weights = (
        pl.col(rules.type).cast(pl.String).replace_strict({t: label.weights.get(t, 1.0) for t in label.types}, default=None)
    )
    counted = (
        examples.select("_n", "event_time", *rules.key)
        .join(done.select("_at", weights.alias("_weight"), *rules.key), on=list(rules.key))
        .filter((pl.col("_at") >= pl.col("event_time")) & (pl.col("_at") - pl.col("event_time") < label.wait))
    )
    return counted.group_by("_n").agg(pl.col("_weight").max().alias(f"{name}_weight"))


def in_order(rows: Sequence[Row]) -> list[Row]:
    """Sorts rows by time, then by their other values."""
    return sorted(rows, key=lambda row: (row["event_time"], repr(sorted(row.items()))))


def reference_verdicts(rules: Actions, impressions: pa.Table, actions: pa.Table) -> Counter[str]:
    """What became of each action, by loops over all impressions."""
    kept = distinct_impressions(rules, pl.DataFrame(pl.from_arrow(impressions))).to_dicts()
    found: Counter[str] = Counter()
    seen = set()
    for action in actions.to_pylist():
        key = tuple(action[c] for c in rules.key)
        kind = str(action[rules.type]) if rules.type else ""
        if None in key:
            found["key missing"] += 1
            continue
        if (key, kind, action["event_time"]) in seen:
            found["repeated"] += 1
            continue
        seen.add((key, kind, action["event_time"]))
        waits = [label.wait for label in rules.labels.values() if not rules.type or kind in label.types]
        since = [action["event_time"] - row["event_time"] for row in kept if tuple(row[c] for c in rules.key) == key]
        before = [s for s in since if s >= 0]
        if not waits:
            found["type of no label"] += 1
        elif before and min(before) < max(waits):
            found["matched"] += 1
        elif before and min(before) < 2 * rules.wait:
            found["after the wait"] += 1
        elif len(before) < len(since):
            found["before the impression"] += 1
        else:
            found["no impression"] += 1
    return found
