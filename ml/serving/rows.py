"""Ranking of rows that a client describes completely, for datasets without an item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ml.artifacts.bundle import Bundle
from ml.catalog.spec import DatasetSpec
from ml.schema import EVENT_TIME
from ml.serving.faults import WrongColumn


def rank_rows(
    spec: DatasetSpec,
    ranking: Bundle,
    user: Any,
    context: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    now: int,
) -> list[tuple[Mapping[str, Any], float]]:
    """Score rows and sort them.

    Args:
        spec: The dataset.
        ranking: The model.
        user: The user as logged.
        context: Columns that all rows share.
        rows: N rows; a column of a row replaces the same column of the context.
        now: Time of the request, in microseconds since 1970 UTC.

    Returns:
        The rows with their probabilities, the largest first.

    Raises:
        WrongColumn: A column does not exist, or a value has another type.
    """
    known = {*spec.column_types, *ranking.columns, EVENT_TIME}
    for where, names in (("context", context), *((f"candidates[{i}]", row) for i, row in enumerate(rows))):
        if unknown := [name for name in names if name not in known]:
            raise WrongColumn(f"{where}.{unknown[0]}: no such column; the columns are {sorted(known)}")
    shared = {EVENT_TIME: now, **({spec.user: user} if spec.user else {}), **context}
    full = [{**shared, **row} for row in rows]
    columns = {}
    for name in ranking.columns:
        values = [row.get(name) for row in full]
        try:
            columns[name] = pa.array(values) if any(value is not None for value in values) else pa.nulls(len(values))
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
            raise WrongColumn(f"candidates: column {name!r}: {error}") from error
    try:
        scores = ranking.predict(pa.RecordBatch.from_pydict(columns))
    except (TypeError, KeyError) as error:
        raise WrongColumn(str(error.args[0])) from error
    return [(rows[at], float(scores[at])) for at in np.argsort(-scores, kind="stable").tolist()]
