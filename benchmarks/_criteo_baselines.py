"""Criteo's preprocessing as others do it, for `benchmarks.features`: written plainly, and not hindered."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

DENSE = [f"I{n}" for n in range(1, 14)]
SPARSE = [f"C{n}" for n in range(1, 27)]


def dlrm_reference(path: Path, out: Path) -> None:
    """The steps of facebookresearch/dlrm's data_utils: one process, row by row, several passes with dictionaries.

    Count the lines; parse each and note its categories; write; number the categories; map each row; take logs; write.
    """
    with path.open() as file:
        rows = sum(1 for _ in file)
    label, dense, sparse = np.zeros(rows, np.int32), np.zeros((rows, 13), np.int32), np.zeros((rows, 26), np.int64)
    seen: list[dict[int, int]] = [{} for _ in SPARSE]
    with path.open() as file:
        for row, line in enumerate(file):
            fields = line.rstrip("\n").split("\t")
            fields = [field or "0" for field in fields]
            label[row] = np.int32(fields[0])
            dense[row] = np.array(fields[1:14], dtype=np.int32)
            sparse[row] = np.array([int(field, 16) for field in fields[14:]], dtype=np.int64)
            for column in range(26):
                seen[column][int(sparse[row][column])] = 1
    np.savez_compressed(out / "parsed.npz", y=label, dense=dense, sparse=sparse)
    for values in seen:
        for number, value in enumerate(values):
            values[value] = number
    with np.load(out / "parsed.npz") as data:
        sparse = data["sparse"]
        mapped = np.zeros((rows, 26), np.int32)
        for column in range(26):
            for row in range(rows):
                mapped[row, column] = seen[column][int(sparse[row, column])]
        floats = np.log(np.maximum(data["dense"], 0) + 1).astype(np.float32)
        np.savez_compressed(out / "processed.npz", y=data["y"], dense=floats, sparse=mapped)


def polars_features(path: Path, out: Path, min_count: int, via_raw: bool) -> None:
    """Polars on every core: hashed ids where min_count is 0, else ids by vocabularies of the days before, over two days.

    via_raw: with the typed rows written as Parquet first, and read again, as a lake with both partitions has it.
    """
    import polars as pl

    names = ["label", *DENSE, *SPARSE]
    types = {name: pl.String if name in SPARSE else pl.Int64 for name in names}
    log = pl.scan_csv(path, separator="\t", has_header=False, schema=types, quote_char=None).with_row_index("event_time")
    dense = [pl.col(name).fill_null(0).clip(0).log1p().cast(pl.Float32) for name in DENSE]
    label = pl.col("label").cast(pl.Float32)
    kept = {"compression": "zstd", "compression_level": 1}
    if via_raw:
        log.sink_parquet(out / "polars-raw.parquet", **kept)
        log = pl.scan_parquet(out / "polars-raw.parquet")
    if not min_count:
        hashes = {name: pl.col(name).hash(seed) for seed, name in enumerate(SPARSE)}
        ids = [pl.when(pl.col(name).is_null()).then(0).otherwise(hashed).alias(name) for name, hashed in hashes.items()]
        log.select("event_time", label, *dense, *ids).sink_parquet(out / "polars.parquet", **kept)
        return
    rows = log.select(pl.len()).collect().item()
    state = {name: pl.DataFrame(schema={name: pl.String, "count": pl.UInt32, "id": pl.Int64}) for name in SPARSE}
    for day in range(2):
        frame = log.slice(day * (rows // 2), rows - rows // 2 if day else rows // 2).collect()
        features = frame.select("event_time", label, *dense, *SPARSE)
        for name in SPARSE:
            known = state[name].filter(pl.col("id").is_not_null()).select(name, pl.col("id").alias("found"))
            found = frame.select(name).join(known, on=name, how="left", maintain_order="left")
            missing = pl.when(pl.col(name).is_null()).then(0).otherwise(pl.col("found").fill_null(1))
            features = features.with_columns(found.select(missing.alias(name)).to_series())
        features.write_parquet(out / f"polars-{day}.parquet", **kept)
        for name in SPARSE:
            today = frame.select(name).drop_nulls().group_by(name).agg(pl.len().cast(pl.UInt32).alias("count"))
            merged = pl.concat([state[name], today.with_columns(pl.lit(None, pl.Int64).alias("id"))])
            merged = merged.group_by(name).agg(pl.col("count").sum(), pl.col("id").max())
            merged = merged.sort("id", "count", name, descending=[False, True, False], nulls_last=True)
            given = pl.col("id").is_null() & (pl.col("count") >= min_count)
            highest = merged["id"].count()
            numbered = pl.when(given).then(given.cum_sum() + 1 + highest).otherwise(pl.col("id"))
            state[name] = merged.with_columns(numbered.cast(pl.Int64).alias("id"))
            state[name].write_parquet(out / f"polars-{name}.parquet", **kept)


def spark_features(spark: SparkSession, path: Path, out: Path) -> None:
    """Spark SQL's own reader, expressions and writer: hashed ids, by the very hash that ours are."""
    from pyspark.sql import functions as f

    schema = ", ".join(["label int", *(f"{name} long" for name in DENSE), *(f"{name} string" for name in SPARSE)])
    log = spark.read.csv(str(path), sep="\t", schema=schema)
    dense = [f.log1p(f.greatest(f.coalesce(name, f.lit(0)), f.lit(0))).cast("float").alias(name) for name in DENSE]
    ids = [f.when(f.isnull(name), 0).otherwise(f.xxhash64(f.lit(name), f.col(name))).alias(name) for name in SPARSE]
    log.select(f.col("label").cast("float"), *dense, *ids).write.parquet(str(out), mode="overwrite", compression="zstd")
