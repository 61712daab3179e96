"""Streams of impressions and actions for `benchmarks/joiner.py`, and the ways to join them that are compared."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

PER_MINUTE = 5_000  # impressions a minute of the log
LATENESS = 30  # seconds
START = 1_700_000_000_000_000
PAYLOAD = 8
PROVIDER = "org.apache.spark.sql.execution.streaming.state."
ROCKS, MEMORY = f"{PROVIDER}RocksDBStateStoreProvider", f"{PROVIDER}HDFSBackedStateStoreProvider"


@dataclass(frozen=True)
class Streams:
    """Files of both streams in the order of arrival, and how many lines they have.

    Attributes:
        folder: Folder with `impressions/` and `actions/`.
        wait: Seconds after an impression in which an action counts.
        impressions: Distinct impressions.
        positives: Impressions with an action within the wait.
        events: Lines of both streams, repeated ones among them.
        files: Files of each stream.
    """

    folder: Path
    wait: int
    impressions: int
    positives: int
    events: int
    files: int


def write_streams(folder: Path, impressions: int, wait: int, files: int, seed: int = 0) -> Streams:
    """Writes streams with 5 % repeated impressions, 20 % actions, delays of half the wait on average, and some disorder."""
    rng, n = np.random.default_rng(seed), impressions
    ti = np.sort(START + (rng.random(n) * n / PER_MINUTE * 6e7)).astype(np.int64)
    columns: dict[str, Any] = {"k": rng.integers(0, 1 << 62, n), "ti": ti}
    columns |= {f"p{i}": rng.integers(0, 1 << 30, n) for i in range(PAYLOAD)}
    texts = pa.array([f"value {i}" for i in range(50)])
    columns |= {name: texts.take(pa.array(rng.integers(0, 50, n))) for name in ("s0", "s1")}
    acted = np.flatnonzero(rng.random(n) < 0.2)
    ta = ti[acted] + (rng.exponential(wait * 5e5, len(acted))).astype(np.int64)
    rows = np.concatenate([np.arange(n), np.flatnonzero(rng.random(n) < 0.05)])
    arrives = ti[rows] + np.minimum(rng.exponential(2e6, len(rows)), LATENESS * 1e6)
    done = pa.table({"k": columns["k"][acted], "ta": ta})
    done_arrives = ta + np.minimum(rng.exponential(2e6, len(ta)), LATENESS * 1e6)
    end = max(arrives.max(), done_arrives.max()) + 1
    for name, table, at in (("impressions", pa.table(columns).take(pa.array(rows)), arrives), ("actions", done, done_arrives)):
        order = np.argsort(at, kind="stable")
        edges = np.searchsorted(at[order], np.linspace(START, end, files + 1))
        (folder / name).mkdir(parents=True)
        table = table.take(pa.array(order))
        for number in range(files):
            path = folder / name / f"{number:05d}.parquet"
            pq.write_table(table.slice(edges[number], edges[number + 1] - edges[number]), path)
    in_time = int(np.count_nonzero(ta - ti[acted] < wait * 1_000_000))
    return Streams(folder, wait, n, in_time, len(rows) + len(ta), files)


@dataclass(frozen=True)
class Joined:
    """What a join of streams did: its seconds, examples and positives."""

    seconds: float
    examples: int
    positives: int


def polars_join(streams: Streams) -> Joined:
    """The same join of all files at once, in memory."""
    import polars as pl

    began = time.perf_counter()
    wait = streams.wait * 1_000_000
    shown = pl.scan_parquet(streams.folder / "impressions" / "*.parquet").sort("ti").unique("k", keep="first")
    done = pl.scan_parquet(streams.folder / "actions" / "*.parquet")
    both = shown.join(done, on="k", how="left").with_columns(delay=pl.col("ta") - pl.col("ti"))
    in_time = pl.col("delay").is_between(0, wait, closed="left")
    found = both.group_by("k").agg(pl.exclude("ta", "delay").first(), label=in_time.any()).sort("ti").collect()
    return Joined(time.perf_counter() - began, len(found), int(found["label"].sum()))


def windowed(spark: SparkSession, streams: Streams, batches: int, bucket: int = 1) -> DataFrame:
    """Aggregation over the union of both streams: one row for each impression, once its wait is over.

    An impression is in the bucket of its time. An action is copied to the buckets that its impression can be in.

    Args:
        spark: The session.
        streams: The streams.
        batches: Number of micro-batches.
        bucket: Length of a bucket, in waits.
    """
    from pyspark.sql import functions as F

    impressions, actions = (_read(spark, streams, name, batches) for name in ("impressions", "actions"))
    wait, length = streams.wait * 1_000_000, bucket * streams.wait * 1_000_000
    payload = F.struct(*[column for column in impressions.columns if column != "k"])
    start = F.floor(F.col("ti") / length)
    shown = impressions.select("k", start.alias("b"), payload.alias("shown"), F.lit(None).cast("long").alias("ta"))
    buckets = F.explode(F.sequence(F.floor((F.col("ta") - wait + 1) / length), F.floor(F.col("ta") / length)))
    acted = actions.select("k", buckets.alias("b"), F.lit(None).cast(shown.schema["shown"].dataType).alias("shown"), "ta")
    late = f"{(length + wait) // 1_000_000 + LATENESS} seconds"
    both = shown.union(acted).withColumn("b", F.timestamp_micros(F.col("b") * length)).withWatermark("b", late)
    # The earliest impression of a key is its example. All actions of a key are of one bucket or of two next to each other.
    grouped = both.groupBy("b", "k").agg(F.min("shown").alias("shown"), F.collect_set("ta").alias("ta"))
    in_time = F.exists("ta", lambda ta: (ta >= F.col("shown.ti")) & (ta < F.col("shown.ti") + wait))
    return grouped.where("shown is not null").select("k", "shown.*", in_time.alias("label"))


def outer(spark: SparkSession, streams: Streams, batches: int) -> DataFrame:
    """Left outer join of both streams, without repeated rows of either."""
    from pyspark.sql import functions as F

    impressions, actions = (_read(spark, streams, name, batches) for name in ("impressions", "actions"))
    late = f"{LATENESS} seconds"
    shown = impressions.withColumn("at", F.timestamp_micros("ti")).withWatermark("at", late)
    acted = actions.select(F.col("k").alias("key"), F.timestamp_micros("ta").alias("acted")).withWatermark("acted", late)
    shown, acted = shown.dropDuplicatesWithinWatermark(["k"]), acted.dropDuplicatesWithinWatermark(["key"])
    within = F.expr(f"k = key and acted >= at and acted < at + interval {streams.wait} seconds")
    return shown.join(acted, within, "leftOuter").withColumn("label", F.col("key").isNotNull())


def run_query(
    spark: SparkSession, build: Callable[[], DataFrame], scratch: Path, provider: str = ROCKS, version: int = 2
) -> Joined:
    """Runs a streaming query over all files to its end, with its checkpoint and its output on disk."""
    spark.conf.set("spark.sql.streaming.stateStore.providerClass", provider)
    spark.conf.set("spark.sql.streaming.stateStore.rocksdb.changelogCheckpointing.enabled", "true")
    spark.conf.set("spark.sql.streaming.join.stateFormatVersion", str(version))
    shutil.rmtree(scratch, ignore_errors=True)

    def write(frame: DataFrame, number: int) -> None:
        frame.write.mode("overwrite").parquet(str(scratch / "out" / str(number)))

    began = time.perf_counter()
    writer = build().writeStream.outputMode("append").foreachBatch(write)
    writer.option("checkpointLocation", str(scratch / "checkpoint")).trigger(availableNow=True).start().awaitTermination()
    seconds = time.perf_counter() - began
    found = spark.read.parquet(*map(str, (scratch / "out").iterdir())).groupBy("label").count().collect()
    counts = {bool(row["label"]): int(row["count"]) for row in found}
    return Joined(seconds, sum(counts.values()), counts.get(True, 0))


def _read(spark: SparkSession, streams: Streams, name: str, batches: int) -> DataFrame:
    folder = str(streams.folder / name)
    schema = spark.read.parquet(f"{folder}/00000.parquet").schema
    files = max(1, streams.files // batches)
    return spark.readStream.schema(schema).option("maxFilesPerTrigger", files).parquet(folder)
