"""The live join writes the examples of the daily catch-up, each once, in time order, whatever happens to the stream."""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.compute.runner import LocalRunner
from ml.joiner.catch_up import join_day
from ml.joiner.joining import ChangedEntry, Joining
from ml.joiner.service import run_to_end, start_join, stop_join
from ml.joiner.status import StreamStatus
from ml.lake import Lake
from ml.logs.ingest import ingest_day
from ml.logs.read import raw_table
from ml.online.stream import Position, StreamFolder
from ml.stages import JOINED_EXAMPLES
from tests.helpers.joined_logs import arriving, drawn, feed, land
from tests.helpers.reference_join import in_order, reference_verdicts
from tests.helpers.stream_runs import written_files

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.slow


def examples(root: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in sorted((root / "examples").glob("*.parquet"))])


def finish(spec: DatasetSpec, root: Path, spark: SparkSession, **settings: int) -> StreamStatus:
    found = run_to_end(Joining(spec, UPath(root), ends=True, every_seconds=0.0, **settings), spark)
    assert found
    return found


def test_the_stream_gives_the_examples_of_the_catch_up(tmp_path: Path, lake: Lake, spark: SparkSession) -> None:
    spec, root = feed(), tmp_path / "stream"
    assert spec.actions and spec.actions_log
    impressions, actions = drawn(random.Random(5), 1200, 3 * 24 * 60 - 400)
    land(tmp_path, impressions, actions)
    for day in spec.days():
        ingest_day(spec.log, day, tmp_path, lake, LocalRunner())
        ingest_day(spec.actions_log, day, tmp_path, lake, LocalRunner())
    done = {day: join_day(spec, day, lake, LocalRunner()) for day in spec.days()}
    caught_up = pa.concat_tables([raw_table(lake, spec.name, day, JOINED_EXAMPLES) for day in spec.days()])

    arriving(root, impressions, actions, random.Random(6), files=12)
    (root / "actions" / "0005b.jsonl").write_text('nonsense\n{"at": 1}\n')
    (root / "impressions" / "0006b.jsonl").write_bytes(b"\x1f\x8b broken")
    (root / "impressions" / ".0006c.jsonl").write_text("incomplete")
    status = finish(spec, root, spark, batch_bytes=30_000)

    found = examples(root)
    assert found.schema.names == caught_up.schema.names
    assert in_order(found.to_pylist()) == in_order(caught_up.to_pylist())
    assert found["event_time"].to_pylist() == sorted(found["event_time"].to_pylist())
    assert status.counts["examples"] == len(found) and status.batch >= 4
    assert status.counts["repeated impressions"] == sum(of.repeated for of in done.values())
    expected = sum((Counter(of.actions) for of in done.values()), Counter[str]())
    assert status.actions["matched"] == expected["matched"] == reference_verdicts(spec.actions, impressions, actions)["matched"]
    assert status.late == 0 and not (root / "late").exists()
    assert status.counts["quarantined: key missing"] == impressions["request"].null_count + actions["request"].null_count
    reasons = [r for path in (root / "quarantine").rglob("*.parquet") for r in pq.read_table(path)["reason"].to_pylist()]
    assert len(reasons) == status.counts["quarantined: key missing"] + 2 and status.files == {
        "impressions": "0011.jsonl",
        "actions": "0011.jsonl",
    }

    stream = StreamFolder(UPath(root / "examples"), spec.examples_log)
    parts = list(stream.read(Position()))  # as `make online` reads them
    assert sum(len(part.rows) for part in parts) == len(found) and not any(part.quarantined for part in parts)

    again = finish(spec, root, spark)
    assert again.counts == status.counts and examples(root).equals(found)
    changed = feed(actions={"labels": {"clicked": {"within_minutes": 31}}})
    with pytest.raises(ChangedEntry, match="another version of the catalog entry feed"):
        finish(changed, root, spark)
    layout = root / "joiner" / "layout.json"
    layout.write_text(layout.read_text().replace('"format"', '"older"'))
    with pytest.raises(ChangedEntry, match=r"another version of Evergreen; move files .* then delete .*joiner, and start"):
        finish(spec, root, spark)


@pytest.mark.parametrize("at_once", [False, True])
def test_a_join_stops_between_two_batches_and_continues(tmp_path: Path, spark: SparkSession, at_once: bool) -> None:
    impressions, actions = drawn(random.Random(5), 600, 900)
    for name in ("stopped", "calm"):
        arriving(tmp_path / name, impressions, actions, random.Random(6), files=6)
    root = tmp_path / "stopped"
    joining = Joining(feed(), UPath(root), batch_bytes=1)
    began, hurry = threading.Event(), threading.Event()
    query = start_join(joining, spark, on_batch=lambda _: began.set())
    assert began.wait(240)
    hurry.set() if at_once else None
    stop_join(joining, query, hurry)
    stopped = StreamStatus.read(joining.folder)
    assert stopped and stopped.batch < 5 and not query.isActive
    if not at_once:
        commits = [int(path.name) for path in (root / "joiner" / "checkpoint" / "commits").iterdir() if path.name.isdigit()]
        assert max(commits) == stopped.batch and query.exception() is None and not joining.spool.exists()
    finish(feed(), root, spark, batch_bytes=1)
    finish(feed(), tmp_path / "calm", spark, batch_bytes=1)
    assert written_files(root) == written_files(tmp_path / "calm") and not joining.spool.exists()


def test_late_events_are_kept_and_counted(tmp_path: Path, spark: SparkSession) -> None:
    spec, root = feed(), tmp_path / "stream"
    assert spec.actions
    impressions, actions = drawn(random.Random(7), 600, 600)
    arriving(root, impressions, actions, random.Random(8), files=10, late=30)
    status = finish(spec, root, spark, batch_bytes=1)
    kept = {
        side: sum(pq.read_metadata(path).num_rows for path in (root / "late").glob(f"*-{side}.parquet"))
        for side in ("impressions", "actions")
    }
    assert kept["impressions"] == status.counts["late impressions"] > 0
    assert kept["actions"] == status.counts["late actions"] > 0 and status.late >= sum(kept.values())
    missing = {"impressions": impressions["request"].null_count, "actions": actions["request"].null_count}
    judged = len(examples(root)) + status.counts["repeated impressions"]
    assert judged + kept["impressions"] + missing["impressions"] == len(impressions)
    assert sum(status.actions.values()) + kept["actions"] + missing["actions"] == len(actions)
    unmatched = [pq.read_table(path)["reason"].to_pylist() for path in (root / "unmatched").glob("*.parquet")]
    counted = {what: n for what, n in status.actions.items() if what not in ("matched", "repeated")}
    assert Counter(reason for reasons in unmatched for reason in reasons) == counted


def test_a_clock_that_jumps_makes_no_other_event_late(tmp_path: Path, spark: SparkSession) -> None:
    spec, root = feed(), tmp_path / "stream"
    impressions, actions = drawn(random.Random(9), 400, 400)
    arriving(root, impressions, actions, random.Random(10), files=4)
    first = root / "impressions" / "0000.jsonl"
    row = json.loads(first.read_text().splitlines()[0])
    ahead = {**row, "request": "ahead", "shown_at": row["shown_at"] + 40 * 3_600_000}
    first.write_text(first.read_text() + json.dumps(ahead) + "\n")
    status = finish(spec, root, spark, batch_bytes=1)
    assert status.late == 0 and examples(root)["request"].to_pylist()[-1] == "ahead"
