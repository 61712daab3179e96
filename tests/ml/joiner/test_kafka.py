"""A live join on Kafka: its options, what it refuses, and the files that it makes of records. No broker is needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from upath import UPath

from ml.catalog.kafka import Kafka
from ml.catalog.load import CatalogError, load_dataset
from ml.catalog.spec import DatasetSpec
from ml.joiner.kafka import KafkaMissing, _write_records, kafka_options, line_of, read_kafka, start_intake
from ml.joiner.read_files import ReadFiles
from tests.helpers.joined_logs import feed, feed_entry
from tests.helpers.stream_runs import StreamRun, click, shown

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

KAFKA: dict[str, Any] = {"servers": "one:9092,two:9092", "impressions": "feed.shown", "actions": "feed.done"}


def on_kafka(**changes: Any) -> DatasetSpec:
    return feed(actions={"kafka": {**KAFKA, **changes}})


def refusal(entry: dict[str, Any], folder: Path) -> str:
    path = folder / "feed.yaml"
    path.write_text(yaml.safe_dump(entry, sort_keys=False))
    with pytest.raises(CatalogError) as error:
        load_dataset(path)
    return str(error.value)


def test_the_options_of_the_source_come_from_the_catalog(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEED_JAAS", "module required password=x;")
    options = {"kafka.security.protocol": "SASL_SSL", "kafka.sasl.jaas.config": "$FEED_JAAS"}
    found = kafka_options(Kafka(**KAFKA, options=options, starting="latest"))
    assert found["kafka.bootstrap.servers"] == "one:9092,two:9092" and found["subscribe"] == "feed.shown,feed.done"
    assert found["startingOffsets"] == "latest" and found["failOnDataLoss"] == "true"
    assert found["kafka.security.protocol"] == "SASL_SSL" and found["kafka.sasl.jaas.config"] == "module required password=x;"
    monkeypatch.delenv("FEED_JAAS")
    with pytest.raises(ValueError, match=r"options\.kafka\.sasl\.jaas\.config: the environment variable FEED_JAAS is not set"):
        kafka_options(Kafka(**KAFKA, options=options))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"actions": "feed.shown"}, "actions.kafka.actions: 'feed.shown' is also the topic of the impressions"),
        ({"options": {"subscribe": "x"}}, "actions.kafka.options.subscribe: expected an option of the consumer"),
        ({"options": {"kafka.group.id": "x"}}, "actions.kafka.options.kafka.group.id: is set by Evergreen"),
        ({"options": {"kafka.a": "$1"}}, "actions.kafka.options.kafka.a: expected the name of an environment variable after"),
        ({"impressions": "feed shown"}, "actions.kafka.impressions"),
        ({"starting": "now"}, "actions.kafka.starting"),
        ({"topics": "x"}, "actions.kafka.topics"),
    ],
)
def test_wrong_keys_are_refused_with_their_path(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    assert message in refusal(feed_entry(actions={"kafka": {**KAFKA, **changes}}), tmp_path)


@pytest.mark.parametrize(
    ("key", "source", "message"),
    [
        ("source", {"format": "parquet"}, "source.format: a record of Kafka is one line"),
        ("source", {"format": "csv", "header": True, "list_separator": " "}, "source.header: records of Kafka have no header"),
        ("actions", {"format": "parquet"}, "actions.source.format: a record of Kafka is one line"),
        ("actions", {"format": "csv", "header": True}, "actions.source.header: records of Kafka have no header"),
    ],
)
def test_formats_that_a_record_cannot_have_are_refused(key: str, source: dict[str, Any], message: str, tmp_path: Path) -> None:
    entry = feed_entry(actions={"kafka": KAFKA})
    of_log = entry["source"] if key == "source" else entry["actions"]["source"]
    of_log |= source
    assert message in refusal(entry, tmp_path)


def test_topics_do_not_change_the_rows_of_the_lake() -> None:
    assert on_kafka().fingerprint == feed().fingerprint
    assert on_kafka().examples_log == feed().examples_log
    assert feed_entry(actions={"kafka": KAFKA})["actions"]["kafka"] == KAFKA


def test_a_value_becomes_one_line() -> None:
    assert line_of(b'{"item":\r\n 7}', "jsonl") == b'{"item":   7}\n' and line_of(None, "jsonl") == b"\n"
    assert line_of(b"7,8", "csv") == b"7,8\n"


def batch_of(*records: tuple[str, bytes | None]) -> pa.RecordBatch:
    topics, values = zip(*records, strict=True)
    return pa.record_batch({"topic": pa.array(topics), "value": pa.array(values, pa.binary())})


def test_records_of_a_task_become_a_file_per_topic(tmp_path: Path) -> None:
    stream = StreamRun(tmp_path, on_kafka())
    (tmp_path / "actions" / ".000000000007.jsonl").write_text("of a task that was killed")
    shows = [("feed.shown", json.dumps(shown(f"r{n}", n), indent=1).encode()) for n in range(10)]
    clicks = [("feed.done", json.dumps(click("r3", 4)).encode()), ("feed.done", b"torn"), ("feed.done", None)]
    for _ in range(2):  # as after a crash
        batches = iter([batch_of(*clicks[:1], *shows[:5]), batch_of(*shows[5:], *clicks[1:])])
        (written,) = _write_records(stream.spec, str(tmp_path), 7, batches)
        assert sorted(written["records"].to_pylist()) == [3, 10]
    assert sorted(path.name for path in tmp_path.glob("*s/*")) == ["000000000007.jsonl"] * 2
    status = stream.end()
    assert {row["request"]: row["clicked"] for row in stream.examples()} == {f"r{n}": int(n == 3) for n in range(10)}
    assert status.counts["quarantined: bad JSON"] == status.counts["quarantined: blank line"] == 1


def test_offsets_of_other_topics_are_refused(tmp_path: Path) -> None:
    offsets = tmp_path / "kafka" / "offsets"
    offsets.mkdir(parents=True)
    for batch, topics in ((9, {"feed.old": {"0": 1}}), (10, {"feed.shown": {"0": 23, "1": 7}, "feed.done": {"0": 5}})):
        (offsets / str(batch)).write_text("v1\n" + json.dumps({"batchWatermarkMs": 0}) + "\n" + json.dumps(topics))
    (offsets / ".11.crc").write_bytes(b"\x00")
    unused: Any = None
    with pytest.raises(ValueError, match=r"kafka: the offsets are of the topics \['feed.done'\], and the entry feed names"):
        start_intake(on_kafka(actions="feed.clicks"), UPath(tmp_path), unused)
    with pytest.raises(AttributeError, match="writeStream"):
        start_intake(on_kafka(), UPath(tmp_path), unused)  # the same topics continue


@pytest.mark.slow
def test_a_session_without_the_package_says_how_to_add_it(spark: SparkSession) -> None:
    with pytest.raises(KafkaMissing, match=r"--packages org\.apache\.spark:spark-sql-kafka-0-10_2\.13:4\."):
        read_kafka(Kafka(**KAFKA), spark)


@pytest.mark.slow
def test_the_query_continues_at_the_offsets_of_its_checkpoint(tmp_path: Path, spark: SparkSession) -> None:
    records, stream = tmp_path / "records", StreamRun(tmp_path / "stream", on_kafka(), settings={"batch_bytes": 1})
    records.mkdir()

    def add(name: str, first: int, last: int) -> None:
        rows = [("feed.shown", 0, n, json.dumps(shown(f"r{n}", n)).encode()) for n in range(first, last)]
        rows += [("feed.done", n % 2, n, json.dumps(click(f"r{n}", n + 1)).encode()) for n in range(first, last, 2)]
        columns = dict(zip(("topic", "partition", "offset", "value"), map(list, zip(*rows, strict=True)), strict=True))
        pq.write_table(pa.table(columns), records / name)

    def take() -> None:  # files of records stand for Kafka
        frame = spark.readStream.schema("topic string, partition long, offset long, value binary").parquet(str(records))
        start_intake(stream.spec, UPath(stream.root), frame, ends=True).awaitTermination()

    add("1.parquet", 0, 10)
    take()
    assert stream.run().counts["impressions"] == 10
    take()
    assert not stream.step(), "there are no new records"
    add("2.parquet", 10, 30)
    take()
    status = stream.end()
    assert status.counts["impressions"] == 30 and status.counts["actions"] == 15 and status.counts["label: clicked"] == 15
    sizes = ReadFiles.load(UPath(stream.root / "joiner")).sizes
    assert list(sizes["impressions"]) == ["000000000000.jsonl", "000000000001.jsonl"] == list(sizes["actions"])


@pytest.mark.slow
def test_records_are_not_taken_again_without_their_checkpoint(tmp_path: Path, spark: SparkSession) -> None:
    taken = tmp_path / "actions" / "000000000000.jsonl"
    taken.parent.mkdir()
    taken.write_text("{}\n")
    (tmp_path / "records").mkdir()
    frame = spark.readStream.schema("topic string, partition long, offset long, value binary").parquet(
        str(tmp_path / "records")
    )
    with pytest.raises(ValueError, match=r"000000000000\.jsonl: .* the checkpoint .*kafka is gone"):
        start_intake(on_kafka(), UPath(tmp_path), frame, ends=True)
    assert taken.exists() and not (tmp_path / "kafka").exists()
