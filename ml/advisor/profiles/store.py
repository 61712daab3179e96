"""The files of a stored sketch. Equal sketches give equal bytes.

| file             | content                                                                                        |
|------------------|------------------------------------------------------------------------------------------------|
| profile.json     | the profile of the day (`FeatureProfile`)                                                      |
| sketch.json      | all numbers of the sketch, and the order and length of its arrays                              |
| counts.parquet   | `feature`, `kind`, `key`, `count`: ids (kind `ids`, `heavy`) and dense values (`values`, `distinct`) |
| sample.parquet   | sampled rows: `priority`, `label`, `dense:<feature>`, `sparse:<feature>`                       |
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from upath import UPath

from ml.advisor.profiles.distributions import Distributions
from ml.advisor.profiles.id_counts import IdCounts
from ml.advisor.profiles.profile import FeatureProfile
from ml.advisor.profiles.row_sample import RowSample
from ml.advisor.profiles.sketch import DenseSketch, Sketch, SparseSketch
from ml.advisor.profiles.value_counts import ValueCounts
from ml.parquet import read_parquet, write_table
from ml.quality.histogram import Histogram

PROFILE, SKETCH, COUNTS, SAMPLE = "profile.json", "sketch.json", "counts.parquet", "sample.parquet"
DENSE, SPARSE = "dense:", "sparse:"

Array = npt.NDArray[Any]


def write_sketch(sketch: Sketch, profile: FeatureProfile, folder: UPath) -> None:
    """Writes a sketch and its profile to a folder."""
    (folder / PROFILE).write_text(profile.to_json())
    arrays = list(_arrays(sketch))
    (folder / SKETCH).write_text(json.dumps(_numbers(sketch) | {"arrays": [[f, k, len(a)] for f, k, a, _ in arrays]}))
    lengths = [len(array) for _, _, array, _ in arrays]
    columns = {
        "feature": _repeated([feature for feature, *_ in arrays], lengths),
        "kind": _repeated([kind for _, kind, *_ in arrays], lengths),
        "key": _joined([keys.astype(np.int64) for _, _, keys, _ in arrays]),
        "count": _joined([counts for *_, counts in arrays]),
    }
    write_table(pa.table(columns), folder / COUNTS)
    sample = sketch.sample
    rows = {
        "priority": sample.priorities,
        "label": sample.labels,
        **{DENSE + name: values for name, values in sample.dense.items()},
        **{SPARSE + name: ids for name, ids in sample.sparse.items()},
    }
    write_table(pa.table(rows), folder / SAMPLE)


def read_profile(folder: UPath) -> FeatureProfile:
    """Reads the profile that `write_sketch` wrote."""
    return FeatureProfile.from_json((folder / PROFILE).read_text())


def read_sketch(folder: UPath) -> Sketch:
    """Reads the sketch that `write_sketch` wrote."""
    numbers = json.loads((folder / SKETCH).read_text())
    table = read_parquet(folder / COUNTS, ["key", "count"])
    keys, counts = (table.column(name).to_numpy() for name in ("key", "count"))
    arrays, at = {}, 0
    for feature, kind, length in numbers["arrays"]:
        arrays[feature, kind], at = (keys[at : at + length], counts[at : at + length]), at + length
    rows = {name: column.to_numpy() for name, column in _columns(read_parquet(folder / SAMPLE))}
    return Sketch(
        dataset=numbers["dataset"],
        days=tuple(numbers["days"]),
        rows=np.array(numbers["rows"], np.int64),
        positives=np.array(numbers["positives"], np.int64),
        bytes=numbers["bytes"],
        dense={name: _read_dense(name, of, arrays) for name, of in numbers["dense"].items()},
        sparse={name: _read_sparse(name, of, arrays) for name, of in numbers["sparse"].items()},
        sample=RowSample(
            rows["priority"],
            rows["label"],
            {name.removeprefix(DENSE): values for name, values in rows.items() if name.startswith(DENSE)},
            {name.removeprefix(SPARSE): ids for name, ids in rows.items() if name.startswith(SPARSE)},
        ),
    )


def read_distributions(folder: UPath) -> Distributions:
    """Reads only the distributions of the sketch that `write_sketch` wrote."""
    numbers = json.loads((folder / SKETCH).read_text())
    dense, table = {}, read_parquet(folder / COUNTS, ["key", "count"]) if numbers["dense"] else None
    at = 0
    for feature, kind, length in numbers["arrays"]:
        if table is not None and kind == "values":
            keys, counts = (table.column(name).slice(at, length).to_numpy() for name in ("key", "count"))
            dense[feature] = ValueCounts(keys.astype(np.uint32), counts, numbers["dense"][feature]["level"])
        at += length
    return Distributions(dense, {name: _read_histogram(of) for name, of in numbers["sparse"].items()})


def _arrays(sketch: Sketch) -> Iterator[tuple[str, str, Array, Array]]:
    """Yields feature, kind, keys [K] and counts [K]."""
    for name, sparse in sketch.sparse.items():
        yield name, "ids", sparse.ids.ids, sparse.ids.counts
        yield name, "heavy", sparse.ids.heavy_ids, sparse.ids.heavy_counts
    for name, dense in sketch.dense.items():
        yield name, "values", dense.values.keys, dense.values.counts
        yield name, "distinct", dense.values.sample, np.zeros(len(dense.values.sample), np.int64)


def _numbers(sketch: Sketch) -> dict[str, Any]:
    dense = {
        name: {
            "missing": of.missing,
            "integers": of.integers,
            "mean": of.mean,
            "squares": of.squares,
            "level": of.values.level,
            "sample_level": of.values.sample_level,
        }
        for name, of in sketch.dense.items()
    }
    sparse = {
        name: {
            "empty": of.empty,
            "level": of.ids.level,
            "heavy_error": of.ids.heavy_error,
            "ids_by_day": of.ids_by_day,
            "histogram": asdict(of.histogram),
        }
        for name, of in sketch.sparse.items()
    }
    hours = {"rows": sketch.rows.tolist(), "positives": sketch.positives.tolist()}
    return {"dataset": sketch.dataset, "days": sketch.days, "bytes": sketch.bytes, **hours, "dense": dense, "sparse": sparse}


def _read_dense(name: str, of: dict[str, Any], arrays: dict[tuple[str, str], tuple[Array, Array]]) -> DenseSketch:
    keys, counts = arrays[name, "values"]
    sample = arrays[name, "distinct"][0].astype(np.uint32)
    values = ValueCounts(keys.astype(np.uint32), counts, of["level"], sample, of["sample_level"])
    return DenseSketch(values, of["missing"], of["integers"], of["mean"], of["squares"])


def _read_sparse(name: str, of: dict[str, Any], arrays: dict[tuple[str, str], tuple[Array, Array]]) -> SparseSketch:
    ids = IdCounts(*arrays[name, "ids"], of["level"], *arrays[name, "heavy"], of["heavy_error"])
    return SparseSketch(ids, _read_histogram(of), of["empty"], tuple(of["ids_by_day"]))


def _read_histogram(of: dict[str, Any]) -> Histogram:
    found = of["histogram"]
    return Histogram(found["missing"], found["out_of_vocabulary"], tuple(found["buckets"]))


def _columns(table: pa.Table) -> Iterator[tuple[str, pa.ChunkedArray]]:
    yield from zip(table.column_names, table.columns, strict=True)


def _repeated(values: list[str], lengths: list[int]) -> pa.DictionaryArray:
    names = list(dict.fromkeys(values))
    indices = np.repeat([names.index(value) for value in values], lengths).astype(np.int32)
    return pa.DictionaryArray.from_arrays(indices, pa.array(names, pa.string()))


def _joined(arrays: list[Array]) -> Array:
    return np.concatenate([np.zeros(0, np.int64), *arrays])
