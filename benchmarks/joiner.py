"""Ways to join a stream of impressions with a stream of actions on Spark, compared with each other and with Polars in memory.

The unit is lines of both streams per second on two cores, from Parquet files in the order of arrival to Parquet files of
examples, in micro-batches with a checkpoint after each. Repeated lines are removed on both sides. An example is written when
the watermark passes its wait; examples that are still in the state store at the end of the files are not counted.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks._joiner_blocks import blocks_join
from benchmarks._joiner_streams import MEMORY, ROCKS, Joined, Streams, outer, polars_join, run_query, windowed, write_streams
from benchmarks.result import Result
from ml.compute.spark import start_session

IMPRESSIONS, WAIT, FILES, BATCHES = 400_000, 300, 32, 4
WAITS = (1200, 4800)  # longer waits, in seconds, at the same rate of events
NAME, UNIT = "join two streams", "events/s"
V2 = "left outer join, RocksDB, format V2"


def run() -> list[Result]:
    spark = start_session("local[2]")
    before = spark.conf.get("spark.sql.shuffle.partitions")
    spark.conf.set("spark.sql.shuffle.partitions", "2")  # one task a core
    try:
        with tempfile.TemporaryDirectory() as folder:
            root, scratch = Path(folder), Path(folder) / "query"
            warm = write_streams(root / "warm", 20_000, WAIT, BATCHES)
            for build in (windowed, outer):
                run_query(spark, lambda build=build: build(spark, warm, 2), scratch)
            blocks_join(spark, warm, 2)
            streams = write_streams(root / "streams", IMPRESSIONS, WAIT, FILES)
            whole = min((polars_join(streams) for _ in range(3)), key=lambda one: one.seconds)
            if (whole.examples, whole.positives) != (streams.impressions, streams.positives):
                raise AssertionError(f"Polars joined {whole}, expected {streams}")
            joins = {
                V2: run_query(spark, lambda: outer(spark, streams, BATCHES), scratch),
                "left outer join, RocksDB, format V4": run_query(
                    spark, lambda: outer(spark, streams, BATCHES), scratch, version=4
                ),
                "left outer join, state in memory": run_query(
                    spark, lambda: outer(spark, streams, BATCHES), scratch, provider=MEMORY
                ),
                "windowed aggregation, state in memory": run_query(
                    spark, lambda: windowed(spark, streams, BATCHES), scratch, provider=MEMORY
                ),
                "windowed aggregation, RocksDB": run_query(
                    spark, lambda: windowed(spark, streams, BATCHES), scratch, provider=ROCKS
                ),
            }
            own = joins["the live join, RocksDB"] = blocks_join(spark, streams, BATCHES)
            results = [
                _result(name, streams, done, _rate(streams, joins[V2]), V2) for name, done in joins.items() if name != V2
            ]
            results.append(_result("the live join, RocksDB", streams, own, _rate(streams, whole), "Polars, in memory"))
            for wait in WAITS:
                longer = write_streams(root / str(wait), IMPRESSIONS, wait, FILES)
                done = blocks_join(spark, longer, BATCHES)
                name = f"the live join, wait of {wait // 60} min"
                results.append(_result(name, longer, done, _rate(streams, own), f"wait of {WAIT // 60} min"))
    finally:
        spark.conf.set("spark.sql.shuffle.partitions", before or "4")
    return results


def _rate(streams: Streams, done: Joined) -> float:
    return streams.events / done.seconds


def _result(name: str, streams: Streams, done: Joined, baseline: float, baseline_name: str) -> Result:
    share = done.positives / max(1, done.examples)
    note = f"{done.examples / streams.impressions:.0%} written at the end, {share:.1%} of them positive"
    return Result(f"{NAME}: {name}", UNIT, _rate(streams, done), baseline, baseline_name, note=note)
