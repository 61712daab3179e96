"""Makes the candidate index of a day: the live items at its end, their vectors by the two-tower model, and a ranker."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from upath import UPath

from ml.artifacts.bundle import Bundle
from ml.artifacts.stored import require_model
from ml.catalog.ranking import lambdarank_of
from ml.catalog.spec import DatasetSpec
from ml.datasets.collate import batch_from_arrow
from ml.datasets.feature_table import columns_of
from ml.days import MICROSECONDS_PER_HOUR, day_bounds
from ml.features.point_in_time.negatives import Events
from ml.features.read import feature_parts
from ml.lake import Lake
from ml.logs.read import raw_parts
from ml.recipes.recipe import retrieval_model
from ml.retrieval.candidate_index import CandidateIndex
from ml.retrieval.candidate_lists import reach, train_ranker
from ml.retrieval.catalogue import LiveItems
from ml.retrieval.index import RECALL_AT, ItemIndex, recall_of
from ml.retrieval.items import days_since, described, item_column, logged_columns, read_catalogue
from ml.retrieval.vectors import item_vectors, two_tower_of
from ml.schema import EVENT_TIME, ITEM_KEY, LABEL, FeatureSchema, arrow_schema
from ml.stages import CANDIDATE_INDEX, CLEANED_FEATURES, RAW_LOGS, exported_models

QUERIES = 1024
"""Most clicks of the day whose users are the queries of the recall check."""


@dataclass(frozen=True)
class IndexedDay:
    """What a day's index holds.

    Attributes:
        folder: The partition.
        items: Number L of live items.
        model: The two-tower model; None without one.
        is_exact: Whether searches score all items.
        recall: Share of the 100 nearest items that the index finds for users of the day; None without an index or a user.
        queries: Number of these users.
    """

    folder: UPath
    items: int
    model: str | None
    is_exact: bool
    recall: float | None
    queries: int


def index_day(spec: DatasetSpec, day: str, lake: Lake, sides: Sequence[pa.Table] = ()) -> IndexedDay:
    """Write the partition `candidate_index/<dataset>/<day>`.

    Args:
        spec: A dataset with an item.
        day: `YYYY-MM-DD`.
        lake: Where logs and models are stored.
        sides: The joined columns of each side table, in the order of `spec.join`, as `read_side_tables` returns them.

    Raises:
        MissingPartition: The day has no raw logs, or no exported two-tower model.
        ValueError: The dataset has no item, or a vector is not finite.
    """
    name, now = retrieval_model(spec), day_bounds(day, spec.zone)[1]
    live = read_catalogue(spec, day, lake).live(now) or LiveItems(
        np.zeros(0, np.int64), pa.table({column: pa.array([]) for column in logged_columns(spec)})
    )
    items = described(spec, live, sides, now, _events(spec, day, lake, now))
    table = pa.table({ITEM_KEY: live.ids, **{column: items[column] for column in items.column_names}})
    since = now - round(spec.live_hours * MICROSECONDS_PER_HOUR)
    inputs = [(RAW_LOGS, other) for other in days_since(spec, day, lake, since)]
    index, recall, queries = None, None, np.zeros((0, 0), np.float32)
    if name is not None:
        bundle = Bundle.load(require_model(lake, exported_models(name), spec.name, day, spec.fingerprint))
        queries = _queries(spec, day, lake, bundle)
        if len(live):
            index = ItemIndex(live.ids, item_vectors(bundle, items), queries=queries if len(queries) else None)
            recall = recall_of(index, queries) if len(queries) else None
        inputs += [(exported_models(name), day), (CLEANED_FEATURES, day)]
    options = lambdarank_of(spec)
    ranker = train_ranker(spec, day, lake, options) if options else None
    if options:
        stage = spec.examples_log.stage
        inputs += [(stage, other) for other in days_since(spec, day, lake, reach(spec, day), stage)]
    with lake.write(CANDIDATE_INDEX, spec.name, day) as folder:
        files = CandidateIndex(table, index, ranker).write(folder)
        digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
        about = {
            "digest": digest,
            "files": files,
            "fingerprint": spec.fingerprint,
            "items": len(live),
            "model": name,
            "is_exact": index is None or index.is_exact,
            f"recall_at_{RECALL_AT}": recall,
        }
        lake.write_manifest(folder, about | lake.lineage(spec.name, list(dict.fromkeys(inputs))))
    path = lake.partition(CANDIDATE_INDEX, spec.name, day)
    return IndexedDay(path, len(live), name, index is None or index.is_exact, recall, len(queries))


def _events(spec: DatasetSpec, day: str, lake: Lake, now: int) -> Events | None:
    """Read the events that trailing counts at the end of the day need."""
    negatives = spec.label.negatives
    if negatives is None or not negatives.recent or spec.user is None:
        return None
    since = now - round(negatives.look_back_hours * MICROSECONDS_PER_HOUR)
    columns = list(dict.fromkeys([EVENT_TIME, spec.user, item_column(spec)]))
    parts = [UPath(p) for other in days_since(spec, day, lake, since) for p in raw_parts(lake, spec.name, other)]
    tables = [pq.read_table(part.path, columns=columns, filesystem=part.fs) for part in parts]
    rows = pa.concat_tables(tables)
    rows = rows.slice(int(np.searchsorted(rows[EVENT_TIME].to_numpy(), since)))
    return Events.of(rows, spec.user, item_column(spec))


def _queries(spec: DatasetSpec, day: str, lake: Lake, bundle: Bundle) -> NDArray[np.float32]:
    """Embed the users of clicks that are spread over the day. float32 [Q, E]."""
    schema = FeatureSchema.of(spec)
    names = columns_of(spec)
    tables = []
    for part in feature_parts(lake, spec, day):
        rows = pq.read_table(part.path, columns=names, filesystem=part.fs)
        tables.append(rows.filter(pa.array(rows[LABEL].to_numpy() > 0.5)))
    clicked = pa.concat_tables(tables) if tables else arrow_schema(spec).empty_table()
    chosen = np.unique(np.linspace(0, max(0, len(clicked) - 1), min(QUERIES, len(clicked))).astype(np.int64))
    if not len(chosen):
        return np.zeros((0, 0), np.float32)
    batch = batch_from_arrow(clicked.take(pa.array(chosen)), schema)
    with torch.no_grad():
        return two_tower_of(bundle).user_embedding(batch.dense, batch.sparse).float().numpy()
