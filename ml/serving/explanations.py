"""Why items are recommended: the contribution of each column of a request and its items, and the nearest past clicks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ml.artifacts.bundle import Bundle
from ml.features.hashing import hash_values
from ml.schema import EVENT_TIME, HISTORY_PREFIX
from ml.serving.batches import batch_of
from ml.serving.catalogue import LiveCatalogue
from ml.serving.events import UserEvent

MOST_NEAREST = 3


def column_contributions(ranking: Bundle, row: Mapping[str, pa.Scalar], items: pa.Table) -> list[dict[str, float]]:
    """Measure how much each column contributes to the scores: the change of the log-odds if it is missing.

    Args:
        ranking: The model.
        row: The columns of the model that do not describe items.
        items: N rows with the columns that do.

    Returns:
        For each item, the change by column, the largest first.
    """
    names = [name for name in ranking.columns if name != EVENT_TIME]
    base = _log_odds(ranking.score(batch_of(ranking, row, items)))
    changes = {}
    for name in names:
        if name in items.column_names:
            at, kind = items.column_names.index(name), ranking.columns[name]
            none = pa.array([[]] * len(items), kind) if pa.types.is_list(kind) else pa.nulls(len(items), kind)
            without = ranking.score(batch_of(ranking, row, items.set_column(at, name, none)))
        else:
            kind = row[name].type
            blank = pa.scalar([] if pa.types.is_list(kind) else None, kind)
            without = ranking.score(batch_of(ranking, {**row, name: blank}, items))
        changes[name.removeprefix(HISTORY_PREFIX)] = base - _log_odds(without)
    by_item = [{name: float(change[at]) for name, change in changes.items()} for at in range(len(items))]
    return [dict(sorted(found.items(), key=lambda pair: -abs(pair[1]))) for found in by_item]


def nearest_clicks(source: LiveCatalogue, past: Sequence[UserEvent], items: pa.Array) -> list[list[Any]]:
    """Find, for each item, the past clicks among whose recent co-visited items it is most frequent.

    Args:
        source: The live items, with their co-visitation.
        past: The user's last clicks.
        items: N items as logged.

    Returns:
        For each item, up to `MOST_NEAREST` of the user's items, the nearest first; none whose recent co-visited items do not
        contain it.
    """
    by_id = {event.id: event.item for event in past}
    clicked = list(by_id.values())
    shares = source.shares(np.array(list(by_id), np.int64), hash_values("item", items)).T  # [N, C]
    best = np.argsort(-shares, axis=1, kind="stable")[:, :MOST_NEAREST]
    return [[clicked[at] for at in own if row[at] > 0] for row, own in zip(shares, best.tolist(), strict=True)]


def _log_odds(probabilities: NDArray[np.float32]) -> NDArray[np.float64]:
    p = np.clip(probabilities.astype(np.float64), 1e-9, 1 - 1e-9)
    return np.log(p / (1 - p))
