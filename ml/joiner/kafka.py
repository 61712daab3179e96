"""The source of a live join on Kafka: a streaming query that writes records of two topics to the folders of the stream.

Each batch writes one file per topic, by rename, with the values of the records as lines. The join reads the files with the
readers of raw logs, so rows that cannot be used are in quarantine with the file and the line. Offsets are stored in the
checkpoint of the query. A batch that is repeated after a crash has the same records, and writes the same files again.

Spark reads Kafka with the Maven package `spark-sql-kafka-0-10`, which pip does not install.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute creates its functions at import, so type checkers do not see them)

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.errors import AnalysisException
from upath import UPath

from ml.catalog.kafka import Kafka
from ml.catalog.spec import DatasetSpec
from ml.joiner.blocks import SIDES

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.streaming.query import StreamingQuery

RECORDS_PER_BATCH = 500_000
_EVERY_SECONDS = 10
_WRITTEN = "file string, records long"
_TAKEN = re.compile(r"\d{12}")


class KafkaMissing(RuntimeError):
    """Spark lacks the package that reads Kafka."""


def kafka_options(kafka: Kafka) -> dict[str, str]:
    """Returns the options of Spark's source of Kafka.

    Args:
        kafka: The catalog's `actions.kafka`.

    Raises:
        ValueError: An environment variable that an option names is not set.
    """
    found = {
        "kafka.bootstrap.servers": kafka.servers,
        "subscribe": f"{kafka.impressions},{kafka.actions}",
        "startingOffsets": kafka.starting,
        "maxOffsetsPerTrigger": str(RECORDS_PER_BATCH),
        "failOnDataLoss": "true",
    }
    for name, value in kafka.options.items():
        if value.startswith("$"):
            if value[1:] not in os.environ:
                raise ValueError(f"actions.kafka.options.{name}: the environment variable {value[1:]} is not set")
            value = os.environ[value[1:]]
        found[name] = value
    return found


def read_kafka(kafka: Kafka, spark: SparkSession) -> DataFrame:
    """Returns the records of both topics as a streaming frame: `topic`, `partition`, `offset`, `value` and others.

    Args:
        kafka: The catalog's `actions.kafka`.
        spark: The session.

    Raises:
        KafkaMissing: The session lacks the package that reads Kafka.
    """
    reader = spark.readStream.format("kafka").options(**kafka_options(kafka))
    try:
        return reader.load()
    except AnalysisException as error:
        if "kafka" not in str(error).lower():
            raise
        raise KafkaMissing(
            f"Spark cannot read Kafka: the package spark-sql-kafka-0-10 is missing. Set PYSPARK_SUBMIT_ARGS="
            f'"--packages org.apache.spark:spark-sql-kafka-0-10_2.13:{spark.version} pyspark-shell" and start again'
        ) from error


def start_intake(spec: DatasetSpec, root: UPath, records: DataFrame, ends: bool = False) -> StreamingQuery:
    """Starts the query that writes records to the folders of a stream. It continues where it stopped.

    Args:
        spec: A dataset with `actions.kafka`.
        root: `<home>/stream/<dataset>`.
        records: A streaming frame with the columns `topic`, `partition`, `offset` and `value`.
        ends: Whether the query stops at the records that are there now.

    Raises:
        ValueError: The stream holds files of a query whose checkpoint is gone. Their names would be given again. Or the
            checkpoint is of other topics.
    """
    assert spec.actions and spec.actions.kafka
    for side in SIDES:
        (root / side).mkdir(parents=True, exist_ok=True)
    if not (root / "kafka").exists():
        for side in SIDES:
            for path in sorted((root / side).iterdir()):
                if _TAKEN.fullmatch(path.stem):
                    raise ValueError(
                        f"{path}: the records of this file were taken from Kafka, but the checkpoint {root / 'kafka'} is gone. "
                        f"A new query would take them again. Restore the checkpoint, or move the folder {root} away "
                        "to take all records from the start"
                    )
    topics = {spec.actions.kafka.impressions, spec.actions.kafka.actions}
    if other := sorted(_topics_of(root / "kafka") - topics):
        raise ValueError(
            f"{root / 'kafka'}: the offsets are of the topics {other}, and the entry {spec.name} names {sorted(topics)}. "
            f"Restore the names in actions.kafka, or move the folder {root} away to take all records of the new topics"
        )
    writer = records.writeStream.foreachBatch(partial(_write_batch, spec, str(root)))
    writer = writer.option("checkpointLocation", str(root / "kafka"))
    writer = writer.trigger(availableNow=True) if ends else writer.trigger(processingTime=f"{_EVERY_SECONDS} seconds")
    return writer.queryName(f"kafka {spec.name}").start()


def _topics_of(checkpoint: UPath) -> set[str]:
    """Returns the topics of the last offsets of a checkpoint, whose last line is such as `{"feed.shown": {"0": 23}}`."""
    batches = [path for path in (checkpoint / "offsets").glob("*") if path.name.isdigit()]
    if not batches:
        return set()
    offsets = json.loads(max(batches, key=lambda path: int(path.name)).read_text().splitlines()[-1])
    return {name for name, of in offsets.items() if isinstance(of, dict)}


def _write_batch(spec: DatasetSpec, root: str, frame: DataFrame, batch: int) -> None:
    """Writes the records of a batch, in the order of their partitions and offsets."""
    records = frame.select("topic", "partition", "offset", "value").repartition(len(SIDES), "topic")
    ordered = records.sortWithinPartitions("topic", "partition", "offset")
    ordered.mapInArrow(partial(_write_records, spec, root, batch), _WRITTEN).collect()


def _write_records(spec: DatasetSpec, root: str, batch: int, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Writes the records of one task, which are in the order of their topics, to a file per topic."""
    assert spec.actions and spec.actions.kafka and spec.actions_log
    topics = {spec.actions.kafka.impressions: (SIDES[0], spec.log), spec.actions.kafka.actions: (SIDES[1], spec.actions_log)}
    counts: dict[UPath, int] = {}
    for found in batches:
        for topic in found["topic"].unique().to_pylist():
            side, log = topics[topic]
            path = UPath(root) / side / f"{batch:012d}.{log.source.format}"
            values = found.filter(pc.equal(found["topic"], topic))["value"].to_pylist()
            with path.with_name(f".{path.name}").open("ab" if path in counts else "wb") as file:
                file.writelines(line_of(value, log.source.format) for value in values)
            counts[path] = counts.get(path, 0) + len(values)
    for path in counts:
        path.with_name(f".{path.name}").rename(path)
    rows = [{"file": str(path), "records": count} for path, count in counts.items()]
    yield pa.RecordBatch.from_pylist(rows, pa.schema([("file", pa.string()), ("records", pa.int64())]))


def line_of(value: bytes | None, format: str) -> bytes:
    r"""Returns the value of a record as a line. A record without a value is a blank line, which is quarantined.

    Line ends within JSON are spaces between tokens, so they become spaces. Values of other formats are lines as they are.

    >>> line_of(b'{"item":\n 7}', "jsonl")
    b'{"item":  7}\n'
    """
    text = value or b""
    if format == "jsonl":
        text = text.replace(b"\r", b" ").replace(b"\n", b" ")
    return text + b"\n"
