"""Ranking of rows that a client describes completely, for datasets without an item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

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
) -> list[tuple[int, float, dict[str, float] | None]]:
    """Score rows and sort them by the main label.

    Args:
        spec: The dataset.
        ranking: The model.
        user: The user as logged.
        context: Columns that all rows share.
        rows: N rows; a column of a row replaces the same column of the context.
        now: Time of the request, in microseconds since 1970 UTC, and of rows without an `event_time`.

    Returns:
        The places of the rows with their probabilities, the largest first; and the probability of each label, if the model
        predicts several.

    Raises:
        WrongColumn: A column does not exist, a value has another type, or an `event_time` is not a time.
    """
    known = {*spec.column_types, *ranking.columns, EVENT_TIME}
    for where, names in (("context", context), *((f"candidates[{i}]", row) for i, row in enumerate(rows))):
        if unknown := [name for name in names if name not in known]:
            raise WrongColumn(f"{where}.{unknown[0]}: no such column; the columns are {sorted(known)}")
    shared = {EVENT_TIME: now, **({spec.user: user} if spec.user else {}), **context}
    full = [{**shared, **row} for row in rows]
    for row in full:
        row[EVENT_TIME] = now if row[EVENT_TIME] is None else row[EVENT_TIME]
    columns = {}
    for name in ranking.columns:
        values = [row.get(name) for row in full]
        try:
            columns[name] = pa.array(values) if any(value is not None for value in values) else pa.nulls(len(values))
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
            raise WrongColumn(f"candidates: column {name!r}: {error}") from error
    try:
        typed = ranking.typed(pa.RecordBatch.from_pydict(columns))
    except TypeError as error:
        raise WrongColumn(str(error)) from error
    if EVENT_TIME in typed.schema.names and typed[EVENT_TIME].null_count:
        at = typed[EVENT_TIME].is_null().index(True).as_py()
        found = f"{full[at][EVENT_TIME]!r:.80}"
        raise WrongColumn(f"candidates[{at}].{EVENT_TIME}: expected microseconds since 1970 UTC, found {found}")
    scores = ranking.score_labels(ranking.batch(typed))
    order = np.argsort(-scores[:, 0], kind="stable").tolist()
    return [(at, float(scores[at, 0]), by_label(ranking.labels, scores[at])) for at in order]


def by_label(labels: Sequence[str], scores: NDArray[np.float32]) -> dict[str, float] | None:
    """Return the probabilities [L] of a candidate by label; None if there is one label."""
    return dict(zip(labels, scores.tolist(), strict=True)) if len(labels) > 1 else None
