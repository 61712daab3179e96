"""Split logs, joined again: every example comes back, once, with its label; the exceptions are counted, each by its reason."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ml.catalog.spec import DatasetSpec
from ml.compute.runner import LocalRunner
from ml.days import MICROSECONDS_PER_HOUR
from ml.joiner.join import AFTER_WAIT, BEFORE, LATE, MATCHED, NO_IMPRESSION, NO_KEY, REPEATED
from ml.lake import Lake
from ml.logs.ingest import ingest_day
from ml.logs.read import raw_table
from ml.stages import JOINED_EXAMPLES
from tests.helpers.rejoin import differences, rejoin
from tests.helpers.split_logs import NAME, options_of, small_dataset, split

NOTHING = {"missing": 0, "extra": 0, "wrong": 0, "delay": 0, "twice": 0}


@pytest.mark.parametrize("layout", ["banner", "news"])
@pytest.mark.parametrize("seed", range(3))
def test_every_example_comes_back_once_with_its_label(layout: str, seed: int, tmp_path: Path) -> None:
    spec, lake = small_dataset(layout, tmp_path, seed)
    out = tmp_path / "out"
    written = split(spec, lake, out, options_of(seed))
    done = rejoin(out, NAME, lake)
    assert differences(out, lake, done.spec) == NOTHING
    assert done.actions[MATCHED] == written.actions["in time"] > 0
    assert done.actions[AFTER_WAIT] + done.actions[NO_IMPRESSION] == written.actions["after the wait"] > 0
    assert (
        done.actions[MATCHED] + done.actions[AFTER_WAIT] + done.actions[NO_IMPRESSION] + done.actions[REPEATED]
        == (written.lines["actions"])
    ), "every line of an action is counted, by one reason"
    assert done.repeated + written.rows == written.lines["impressions"]
    assert done.quarantined == done.without_key == 0


@pytest.mark.parametrize("seed", range(3))
def test_each_label_comes_back_from_actions_of_its_own_type(seed: int, tmp_path: Path) -> None:
    labels = {"home": {"column": "page", "is": ["home"]}, "dear": {"column": "price", "at_least": 30}}
    spec, lake = small_dataset("shop", tmp_path, seed, labels=labels, dense=[], sparse=["visitor", "product"], join=[])
    out = tmp_path / "out"
    written = split(spec, lake, out, options_of(seed, orphans=0.1 if seed == 2 else 0.0))
    done = rejoin(out, NAME, lake)
    assert done.spec.actions and list(done.spec.actions.labels) == ["bought", "home", "dear"]
    assert [rule.name for rule in done.spec.label_rules] == ["label", "home", "dear"]
    assert not {"bought", "page", "price"} & set(done.spec.source.columns), "the impressions do not have the labels"
    assert differences(out, lake, done.spec) == NOTHING
    if seed < 2:
        assert done.actions[MATCHED] == written.actions["in time"]
    raw = [row for day in spec.days()[:2] for row in raw_table(lake, spec.name, day).to_pylist()]
    truth = pq.read_table(out / "truth.parquet")
    for column, expected in (("action", "bought"), ("home_action", "home"), ("dear_action", "dear")):
        acted = sum(action != "none" for action in truth[column].to_pylist())
        is_positive = {"bought": lambda row: row["bought"] == 1, "home": lambda row: row["page"] == "home"}
        assert acted == sum(is_positive.get(expected, lambda row: row["price"] >= 30)(row) for row in raw) > 0


def test_lists_come_back(tmp_path: Path, lake: Lake) -> None:
    tags = [None, [], ["a", 'b "c"'], ["a"], ["naïve", None]]
    rows = [{"at": 1_772_323_200 + 60 * n, "item": n % 9, "tags": tags[n % 5], "clicked": n % 3 // 2} for n in range(400)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"at": "int", "item": "int", "tags": "list<string>", "clicked": "int"}
    entry = {"source": {"files": "log.jsonl", "format": "jsonl", "columns": columns}, "time": {"column": "at", "unit": "s"}}
    entry |= {"partitions": {"start": "2026-03-01", "end": "2026-03-02"}, "label": {"column": "clicked"}}
    spec = DatasetSpec.model_validate({"name": "tagged", "description": "Tags.", **entry, "sparse": ["item", "tags"]})
    for day in spec.days():
        ingest_day(spec.log, day, tmp_path, lake, LocalRunner())
    out = tmp_path / "out"
    split(spec, lake, out, options_of(0))
    done = rejoin(out, NAME, lake)
    assert differences(out, lake, done.spec) == NOTHING and done.quarantined == 0
    found = [row for day in done.spec.days() for row in raw_table(lake, NAME, day, JOINED_EXAMPLES).to_pylist()]
    assert [(row["item"], row["tags"]) for row in found] == [(row["item"], row["tags"]) for row in rows]


@pytest.mark.parametrize("seed", range(3))
def test_faults_are_quarantined_or_counted_and_nothing_else_is_lost(seed: int, tmp_path: Path) -> None:
    spec, lake = small_dataset("news", tmp_path, seed)
    out = tmp_path / "out"
    jump = [-MICROSECONDS_PER_HOUR, MICROSECONDS_PER_HOUR, 0][seed]
    written = split(spec, lake, out, options_of(seed, malformed=0.05, orphans=0.1, clock_jump=jump))
    done = rejoin(out, NAME, lake)
    assert differences(out, lake, done.spec) == NOTHING
    truth = pq.read_table(out / "truth.parquet").to_pylist()
    kept = [row for row in truth if row["impression"] == "joined"]
    lost = [row for row in truth if row["impression"] != "joined"]
    assert done.quarantined + done.without_key + done.actions[NO_KEY] == sum(written.corrupt.values()) > 0
    assert done.actions[MATCHED] == sum(row["label"] for row in kept)
    assert done.actions[BEFORE] == sum(row["action"] == "before the impression" for row in kept)
    without = sum(row["action"] not in ("none", "lost") for row in lost)
    after = sum(row["action"] == "after the wait" for row in kept)
    assert done.actions[NO_IMPRESSION] + done.actions[AFTER_WAIT] == without + after
    assert done.actions[LATE] == 0
