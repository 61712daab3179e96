"""Other implementations of Criteo's preprocessing, the baselines of `benchmarks.features`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

DENSE = [f"I{n}" for n in range(1, 14)]
SPARSE = [f"C{n}" for n in range(1, 27)]


def dlrm_reference(path: Path, out: Path, days: int = 2) -> None:
    """The steps of facebookresearch/dlrm's data_utils (`getCriteoAdData`): one process, row by row, with dictionaries.

    Count the lines. Write the lines of each day to a file. Parse them row by row, collect their categories and save. Number the
    categories. Map them value by value, each column from the saved archive, and save. Join the days and save. The reference
    computes logarithms when training begins, so they are omitted here, as is the line that it prints for every row.
    """
    with path.open() as file:
        rows = sum(1 for _ in file)
    sizes = [rows // days + (day < rows % days) for day in range(days)]
    with path.open() as file:
        for day, size in enumerate(sizes):
            with (out / f"day_{day}").open("w") as split:
                for _ in range(size):
                    split.write(next(file))
    seen: list[dict[np.int32, int]] = [{} for _ in SPARSE]
    for day, size in enumerate(sizes):
        label, dense, sparse = np.zeros(size, np.int32), np.zeros((size, 13), np.int32), np.zeros((size, 26), np.int32)
        with (out / f"day_{day}").open() as file:
            for row, line in enumerate(file):
                fields = [field or "0" for field in line.rstrip("\n").split("\t")]
                label[row] = np.int32(fields[0])
                dense[row] = np.array(fields[1:14], dtype=np.int32)
                sparse[row] = np.array([int(field, 16) for field in fields[14:]], dtype=np.int64).astype(np.int32)
                for column in range(26):
                    seen[column][sparse[row][column]] = 1
        np.savez_compressed(out / f"parsed_{day}.npz", y=label, dense=dense, sparse=sparse.T)
    for values in seen:
        for number, value in enumerate(values):
            values[value] = number
    for day in range(days):
        with np.load(out / f"parsed_{day}.npz") as data:
            mapped = np.zeros(data["sparse"].shape)
            for column in range(26):
                for row, value in enumerate(data["sparse"][column]):
                    mapped[column, row] = seen[column][value]
            np.savez_compressed(out / f"mapped_{day}.npz", y=data["y"], dense=np.maximum(data["dense"], 0), sparse=mapped.T)
    opened = [np.load(out / f"mapped_{day}.npz") for day in range(days)]
    joined = {name: np.concatenate([data[name] for data in opened]) for name in ("y", "dense", "sparse")}
    np.savez_compressed(out / "processed.npz", **joined)


def polars_features(path: Path, out: Path, min_count: int, via_raw: bool) -> None:
    """Compute the features of two days with Polars on every core.

    Args:
        path: The log.
        out: Folder for Parquet files.
        min_count: 0 for hashed ids, otherwise the threshold of vocabularies from earlier days.
        via_raw: Whether typed rows are first written as Parquet and read again, as a lake with both partitions does.
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
    """Compute features with Spark SQL's own reader, expressions and writer. Ids are hashed by the same function as ours."""
    from pyspark.sql import functions as f

    schema = ", ".join(["label int", *(f"{name} long" for name in DENSE), *(f"{name} string" for name in SPARSE)])
    log = spark.read.csv(str(path), sep="\t", schema=schema)
    dense = [f.log1p(f.greatest(f.coalesce(name, f.lit(0)), f.lit(0))).cast("float").alias(name) for name in DENSE]
    ids = [f.when(f.isnull(name), 0).otherwise(f.xxhash64(f.lit(name), f.col(name))).alias(name) for name in SPARSE]
    log.select(f.col("label").cast("float"), *dense, *ids).write.parquet(str(out), mode="overwrite", compression="zstd")
