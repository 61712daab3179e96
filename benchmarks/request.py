"""From raw log rows to the tensors of a model: requests of one row and of 500 rows, on one thread, warm.

The baseline computes a feature table: an Arrow function computes each column, constant labels and sample rates are added,
and the table is converted to a batch. The rows are from Criteo's real log. Both sides return the same bits.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv
import torch

from benchmarks.real_logs import criteo_folder
from benchmarks.result import Result
from ml.catalog.load import load_catalog
from ml.catalog.spec import DatasetSpec
from ml.datasets.batch import Batch
from ml.datasets.collate import batch_from_arrow
from ml.datasets.request import RequestTransform
from ml.features.sparse import sparse_features
from ml.features.transforms import compile_transforms
from ml.features.vocabulary import Vocabulary, extend
from ml.features.vocabulary_counts import count_values
from ml.schema import ARROW_TYPES, EVENT_TIME, LABEL, SAMPLE_RATE, FeatureSchema

SIZES, CALLS, MIN_COUNT = (1, 500), 400, 2

ToBatch = Callable[[pa.RecordBatch], Batch]


def run() -> list[Result]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [result for words in (False, True) for result in _of_ids(words)]
    finally:
        torch.set_num_threads(threads)


def _of_ids(vocabularies: bool) -> list[Result]:
    spec = load_catalog()["criteo"]
    if vocabularies:
        sparse = [{"name": feature.name, "vocabulary": {"min_count": MIN_COUNT}} for feature in spec.sparse]
        spec = DatasetSpec.model_validate(spec.model_dump(mode="json") | {"sparse": sparse})
    log = _rows(spec)
    words = _vocabularies(spec, log)
    ours, table = RequestTransform(spec, words), _by_the_table(spec, words)
    results = []
    for size in SIZES:
        requests = [log.slice(n * size, size) for n in range(min(CALLS, len(log) // size))]
        one, other = ours(requests[0]), table(requests[0])
        assert torch.equal(one.dense, other.dense) and torch.equal(one.sparse.values(), other.sparse.values())
        mine, theirs = _seconds(ours, requests), _seconds(table, requests)
        rows = "one row" if size == 1 else f"{size} rows"
        name = f"Request of {rows} to a batch, {'vocabularies' if vocabularies else 'hashed ids'}"
        note = f"{mine * 1e3:.3f} ms per request, {mine / size * 1e6:.2f} µs per row; by the table {theirs * 1e3:.3f} ms"
        results.append(Result(name, "rows/s", size / mine, size / theirs, "by a feature table with constant labels", note=note))
    return results


def _by_the_table(spec: DatasetSpec, words: dict[str, Vocabulary]) -> ToBatch:
    transform, schema = compile_transforms(spec, words, with_label=False), FeatureSchema.of(spec)

    def to_batch(rows: pa.RecordBatch) -> Batch:
        features = pa.Table.from_batches([transform(rows)])
        for name, value in ((LABEL, 0.0), (SAMPLE_RATE, 1.0)):
            features = features.append_column(name, pa.array(np.full(len(rows), value, np.float32)))
        return batch_from_arrow(features, schema)

    return to_batch


def _seconds(to_batch: ToBatch, requests: list[pa.RecordBatch]) -> float:
    """Return the median seconds of a call, after one warm-up pass over all requests."""
    for rows in requests:
        to_batch(rows)
    taken = []
    for rows in (requests * -(-CALLS // len(requests)))[:CALLS]:
        began = time.perf_counter()
        to_batch(rows)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def _rows(spec: DatasetSpec) -> pa.RecordBatch:
    columns = spec.source.columns
    table = pcsv.read_csv(
        criteo_folder() / "train.txt.gz",
        read_options=pcsv.ReadOptions(column_names=list(columns)),
        parse_options=pcsv.ParseOptions(delimiter="\t"),
        convert_options=pcsv.ConvertOptions(
            column_types={name: ARROW_TYPES[kind] for name, kind in columns.items()}, strings_can_be_null=True
        ),
    )
    timed = table.append_column(EVENT_TIME, pa.array(np.zeros(len(table), np.int64)))
    return timed.combine_chunks().to_batches()[0]


def _vocabularies(spec: DatasetSpec, log: pa.RecordBatch) -> dict[str, Vocabulary]:
    return {
        name: Vocabulary.from_state(extend(None, [count_values(feature, log)], feature.column.vocabulary))
        for name, feature in sparse_features(spec).items()
        if feature.column.vocabulary
    }
