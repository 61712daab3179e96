"""Splitting a log into streams: every row comes out once, and the truth says what the joiner must find."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ml.catalog.load import load_dataset
from ml.joiner.split.arrivals import Arrivals, Stream
from ml.joiner.split.delays import Delays, duration
from ml.joiner.split.events import ARRIVAL, BAD
from ml.joiner.split.json_lines import KINDS, corrupt_lines, json_lines, text_of
from ml.joiner.split.options import SplitOptions
from ml.joiner.split.write import split_days
from ml.logs.read import raw_table
from tests.helpers.split_logs import HOUR, MINUTE, NAME, options_of, small_dataset, split, stream_rows

LAYOUTS = ("banner", "news", "ratings")


def keys_of(table: pa.Table) -> list[str]:
    return [name for name in ("request_id", "position") if name in table.column_names]


def by_key(table: pa.Table) -> dict[tuple, list[dict]]:
    """Rows of a table by the values of their key."""
    found: dict[tuple, list[dict]] = {}
    for row in table.to_pylist():
        found.setdefault(tuple(row[key] for key in keys_of(table)), []).append(row)
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("seed", range(3))
def test_every_row_comes_out_once_and_the_truth_fits_the_streams(layout: str, seed: int, tmp_path: Path) -> None:
    spec, lake = small_dataset(layout, tmp_path, seed)
    options, out = options_of(seed), tmp_path / "out"
    done = split(spec, lake, out, options)
    truth = by_key(pq.read_table(out / "truth.parquet"))
    shown, acted = by_key(stream_rows(out / "impressions")), by_key(stream_rows(out / "actions"))

    assert done.rows == len(truth) == len(shown)
    assert all(len(rows) == 1 for rows in truth.values())
    assert shown.keys() == truth.keys() and acted.keys() <= truth.keys()
    for key, (row,) in truth.items():
        assert all(line == shown[key][0] for line in shown[key]) and len(shown[key]) <= 2
        assert shown[key][0]["shown_at"] == row["shown_at"]
        actions = acted.get(key, [])
        delays = {line["at"] - row["shown_at"] for line in actions}
        assert delays == ({row["delay"]} if actions else set()), "repeated actions have the same time"
        assert row["label"] == int(any(0 <= delay < options.wait for delay in delays))
        assert row["impression"] == "joined"
        assert row["action"] == ("none" if not actions else "in time" if row["label"] else "after the wait")
    raw = [row for day in spec.days()[:2] for row in raw_table(lake, spec.name, day).to_pylist()]
    if spec.label.negatives:
        assert len(acted) == len(raw), "every row of a log of positives is an action"
    else:
        assert Counter(rows[0]["shown_at"] for rows in shown.values()) == Counter(row["event_time"] for row in raw)
        least = spec.label.at_least or 1
        assert len(acted) == sum(row[spec.label.column] >= least for row in raw)


def test_rows_of_a_request_are_its_click_and_its_negatives(tmp_path: Path) -> None:
    spec, lake = small_dataset("news", tmp_path)
    split(spec, lake, tmp_path / "out", SplitOptions())
    rows = stream_rows(tmp_path / "out" / "impressions").to_pylist()
    clicked = set(by_key(stream_rows(tmp_path / "out" / "actions")))
    requests: dict[int, dict[int, int]] = {}
    for row in rows:
        requests.setdefault(row["request_id"], {})[row["position"]] = row["click_article_id"]
    assert all(sorted(items) == list(range(len(items))) for items in requests.values())
    assert all(len(set(items.values())) == len(items) for items in requests.values()), "the items of a request differ"
    assert Counter(request for request, _ in clicked) == Counter(requests.keys())
    positions = Counter(position for request, position in clicked if len(requests[request]) == 3)
    assert set(positions) == {0, 1, 2}, "the position of the click does not reveal it"


def test_files_are_in_the_order_of_arrival(tmp_path: Path) -> None:
    spec, lake = small_dataset("news", tmp_path)
    options = SplitOptions(transport=MINUTE, disorder=10 * MINUTE, duplicates=0.5)
    split(spec, lake, tmp_path / "out", options)
    for stream, column in (("impressions", "shown_at"), ("actions", "at")):
        newest = 0
        times = np.concatenate([stream_rows(tmp_path / "out" / stream)[column].to_numpy()])
        late = np.maximum.accumulate(times) - times
        assert 0 < late.max() <= options.disorder, "disorder is within the lateness of the entry"
        for file in sorted((tmp_path / "out" / stream).iterdir()):
            begin = int(pa.compute.strptime(file.name[:15], "%Y%m%dT%H%M%S", "s").as_py().timestamp()) * 10**6
            found = [json.loads(line)[column] for line in file.read_text().splitlines()]
            assert begin >= newest and all(begin - options.disorder <= at < begin + options.file_span for at in found)
            newest = begin


def test_equal_seeds_give_equal_files_and_other_seeds_other_ones(tmp_path: Path) -> None:
    spec, lake = small_dataset("banner", tmp_path)

    def files(out: str, seed: int) -> dict[str, bytes]:
        split(spec, lake, tmp_path / out, SplitOptions(seed=seed, malformed=0.1))
        return {str(file.relative_to(tmp_path / out)): file.read_bytes() for file in (tmp_path / out).rglob("*.jsonl")}

    assert files("a", 1) == files("b", 1) != files("c", 2)


@pytest.mark.parametrize("seed", range(3))
def test_faults_are_in_the_truth(seed: int, tmp_path: Path) -> None:
    spec, lake = small_dataset("news", tmp_path, seed)
    options = options_of(seed, malformed=0.1, orphans=0.2, clock_jump=[-HOUR, HOUR, 3 * MINUTE][seed], duplicates=0.3)
    out = tmp_path / "out"
    done = split(spec, lake, out, options)
    good: dict[str, dict[tuple, set[int]]] = {}
    for stream, column in (("impressions", "shown_at"), ("actions", "at")):
        bad, found = 0, good.setdefault(stream, {})
        for line in b"".join(file.read_bytes() for file in sorted((out / stream).iterdir())).splitlines():
            try:
                row = json.loads(line)
                at = row[column] + 0
                found.setdefault((row["request_id"] + 0, row["position"] + 0), set()).add(at)
            except (ValueError, TypeError):
                bad += 1
        assert bad == done.corrupt[stream] > 0
    states: Counter[str] = Counter()
    for row in pq.read_table(out / "truth.parquet").to_pylist():
        key = (row["request_id"], row["position"])
        assert (row["impression"] == "joined") == (key in good["impressions"])
        delays = {at - row["shown_at"] for at in good["actions"].get(key, ())}
        assert row["label"] == int(any(0 <= delay < options.wait for delay in delays))
        assert (row["action"] in ("none", "lost")) == (not delays)
        states.update((row["impression"], row["action"]))
    assert {"lost", "joined", "in time", "after the wait"} <= set(states)
    assert "before the impression" in states or seed == 2, "a wrong clock changes the order of events"
    assert done.impressions["lost"] + done.impressions["joined"] == done.rows


def test_the_entry_is_valid_and_covers_the_delays(tmp_path: Path) -> None:
    for layout, key in (("news", ("request_id", "position")), ("banner", ("request_id",))):
        spec, lake = small_dataset(layout, tmp_path / layout)
        options = SplitOptions(wait=30 * MINUTE, longest_delay=30 * HOUR, disorder=5 * MINUTE)
        split(spec, lake, tmp_path / layout / "out", options)
        found = load_dataset(tmp_path / layout / "out" / f"{NAME}.yaml")
        assert found.actions is not None and found.actions.key == key
        assert (found.actions.wait, found.actions.lateness) == (options.wait, options.disorder)
        assert len(found.days()) == 2 + 2 and found.days()[0] == spec.days()[0]
        assert found.label.column == ("clicked" if spec.label.negatives else "label")
        assert spec.label.column not in found.source.columns


TABLES: dict[str, dict[str, Any]] = {
    "ratings": {  # `rating`, which the label compares with a number, is read by tables too
        "feature_tables": [
            {
                "name": "film",
                "entity": ["item"],
                "where": {"column": "rating", "equals": 5},
                "values": [
                    {"name": "liked", "rate": {"column": "rating", "at_least": 4, "hours": 24}},
                    {"name": "seen_at", "last": {"column": "timestamp", "hours": 24}},
                ],
            }
        ],
        "dense": ["liked"],
        "sparse": ["user", "item", {"name": "stamp", "column": "timestamp"}, {"name": "times", "history": "seen_at"}],
    },
    "shop": {  # the label, a column of 0 and 1, is read by a table, and `page` by nothing else
        "feature_tables": [
            {
                "name": "product",
                "entity": ["product"],
                "where": {"column": "page", "equals": "home"},
                "values": [{"name": "sold", "rate": {"column": "bought", "hours": 24}}],
            }
        ],
        "dense": ["price", "sold"],
        "sparse": ["visitor", "product"],
        "join": [],
    },
    "tracker": {  # the label is a bool, which a table compares
        "feature_tables": [
            {
                "name": "sku",
                "entity": ["sku"],
                "where": {"column": "hit", "equals": True},
                "values": [{"name": "hits", "count": {"hours": 24}}],
            }
        ],
        "dense": ["hits"],
    },
    "news": {  # sampled negatives, and a table of a column that is no feature
        "feature_tables": [
            {
                "name": "article",
                "entity": ["click_article_id"],
                "where": {"column": "device", "equals": 1},
                "values": [{"name": "clicks_2h", "count": {"hours": 2}}],
            }
        ],
        "dense": ["clicks_1h", "clicks_2h"],
        "sparse": [{"name": "item", "column": "click_article_id"}, {"name": "user", "column": "user_id"}],
    },
}


@pytest.mark.parametrize("layout", TABLES)
def test_datasets_with_feature_tables_are_split_with_all_columns_of_the_tables(layout: str, tmp_path: Path) -> None:
    spec, lake = small_dataset(layout, tmp_path, **TABLES[layout])
    split(spec, lake, tmp_path / "out", SplitOptions())
    found = load_dataset(tmp_path / "out" / f"{NAME}.yaml")
    assert found.feature_tables == spec.feature_tables
    assert [f.name for f in (*found.dense, *found.sparse)] == [f.name for f in (*spec.dense, *spec.sparse)]
    rows = stream_rows(tmp_path / "out" / "impressions")
    assert set(rows.column_names) == set(found.source.columns)
    joined = set(found.action_columns)
    for table in found.feature_tables:
        assert all(column in joined or not rows[column].null_count for column in table.columns)
    assert ("bought" in joined) == (layout == "shop")


def test_an_entry_that_the_catalog_would_refuse_is_not_written(tmp_path: Path) -> None:
    spec, lake = small_dataset("banner", tmp_path)
    with pytest.raises(ValueError, match=r"(?s)the catalog would refuse the entry .*No Name\.yaml: name"):
        split_days(spec, spec.days()[:1], lake, tmp_path / "out", "No Name", SplitOptions())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["click", "label"])
def test_labels_that_the_streams_could_not_tell_apart_are_refused(name: str, tmp_path: Path) -> None:
    spec, lake = small_dataset("banner", tmp_path, labels={"other": {"column": "label", "at_least": 1}})
    rule = spec.labels["other"].model_copy(update={"at_least": None if name == "label" else 1.0})
    spec = spec.model_copy(update={"labels": {"other" if name == "label" else name: rule}})
    with pytest.raises(ValueError, match=rf"the streams use \['{name}'\] for another label; rename"):
        split(spec, lake, tmp_path / "out", SplitOptions())


def test_a_label_in_a_side_table_is_refused(tmp_path: Path) -> None:
    spec, lake = small_dataset("ratings", tmp_path, label={"column": "age", "at_least": 30}, dense=[])
    with pytest.raises(ValueError, match=r"the labels \['age'\] are no columns of the log"):
        split(spec, lake, tmp_path / "out", SplitOptions())


def test_a_folder_with_files_is_refused(tmp_path: Path) -> None:
    spec, lake = small_dataset("banner", tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes").write_text("mine")
    with pytest.raises(FileExistsError, match="not empty"):
        split(spec, lake, tmp_path / "out", SplitOptions())
    assert (tmp_path / "out" / "notes").read_text() == "mine"


def test_a_dataset_with_two_logs_is_refused(tmp_path: Path) -> None:
    spec, lake = small_dataset("banner", tmp_path)
    split(spec, lake, tmp_path / "out", SplitOptions())
    again = load_dataset(tmp_path / "out" / f"{NAME}.yaml")
    with pytest.raises(ValueError, match="a log of actions already"):
        split(again, lake, tmp_path / "twice", SplitOptions())


def test_reserved_column_names_are_refused(tmp_path: Path) -> None:
    spec, lake = small_dataset("banner", tmp_path)
    columns = {("type" if name == "C1" else name): kind for name, kind in spec.source.columns.items()}
    sparse = tuple(
        feature.model_copy(update={"column": "type"}) if feature.name == "C1" else feature for feature in spec.sparse
    )
    taken = spec.model_copy(update={"source": spec.source.model_copy(update={"columns": columns}), "sparse": sparse})
    with pytest.raises(ValueError, match=r"columns \['type'\]"):
        split(taken, lake, tmp_path / "out", SplitOptions())


@pytest.mark.parametrize("text", ["lognormal:median=10m,sigma=1", "exponential:mean=90s", "uniform:from=1s,to=2h"])
def test_delays_have_the_distribution_that_is_asked_for(text: str) -> None:
    drawn = Delays.parse(text).draw(np.random.default_rng(0), 200_000) / 1e6
    kind = text.partition(":")[0]
    if kind == "lognormal":
        assert np.median(drawn) == pytest.approx(600, rel=0.02) and np.log(drawn).std() == pytest.approx(1, rel=0.02)
    elif kind == "exponential":
        assert drawn.mean() == pytest.approx(90, rel=0.02) and drawn.std() == pytest.approx(90, rel=0.02)
    else:
        assert drawn.min() >= 1 and drawn.max() < 7200 and drawn.mean() == pytest.approx(3600, rel=0.02)


def test_observed_delays_are_drawn_again(tmp_path: Path) -> None:
    file = tmp_path / "delays.txt"
    seen = np.random.default_rng(0).gamma(2.0, 30.0, 5_000)
    np.savetxt(file, seen)
    drawn = Delays.parse(f"file:{file}").draw(np.random.default_rng(1), 100_000) / 1e6
    shares = np.linspace(0.02, 0.98, 20)
    np.testing.assert_allclose(np.quantile(drawn, shares), np.quantile(seen, shares), rtol=0.03)
    for wrong in ("3\nsoon\n", "3\n-1\n", ""):
        file.write_text(wrong)
        with pytest.raises(ValueError, match=r"delays? in seconds|delays of at least"):
            Delays.parse(f"file:{file}")


@pytest.mark.parametrize(
    "text", ["normal:mean=3s", "exponential:median=3s", "uniform:from=3s,to=2s", "lognormal:median=1m,sigma=0"]
)
def test_wrong_delays_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|not above"):
        Delays.parse(text)


def test_durations() -> None:
    assert [duration(text) for text in ("1ms", "1.5s", "2m", "3h", "1d")] == [1_000, 1_500_000, 2 * MINUTE, 3 * HOUR, 24 * HOUR]
    for wrong in ("3", "m", "-1s", "1w"):
        with pytest.raises(ValueError, match="expected a number with one of the units"):
            duration(wrong)


@pytest.mark.parametrize("changes", [{"duplicates": 1.5}, {"wait": 0}, {"disorder": -1}], ids=str)
def test_options_out_of_range_are_refused(changes: dict) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(changes))} .*: expected"):
        replace(SplitOptions(), **changes)


def test_lines_are_read_back_exactly() -> None:
    rng = np.random.default_rng(0)
    floats = np.concatenate([rng.standard_normal(500) * 10.0 ** rng.integers(-300, 300, 500), [0.0, 1e22, 5e-324]])
    n = len(floats)
    texts = [None, "", 'say "a\\b"', "two\nlines", "naïve \U0001f600", "\x00\x1f"]
    rows = pa.table({
        "f": floats,
        "i": pa.array([None if i % 7 == 0 else (-1) ** i * (2**63 - 1 - i) for i in range(n)], pa.int64()),
        "s": [texts[i % len(texts)] for i in range(n)],
        'odd "name"': [i % 2 == 0 for i in range(n)],
        "words": [[None, [], ["a", None], texts[:i % 5]][i % 4] for i in range(n)],
        "numbers": pa.array([[None, [], [i, None], [2**63 - 1]][i % 4] for i in range(n)], pa.list_(pa.int64())),
        "floats": [[float(value)] * (i % 3) for i, value in enumerate(floats)],
        "flags": [[i % 2 == 0, None] for i in range(n)],
    })  # fmt: skip
    lines = json_lines(rows)
    text = text_of(lines, 0, n)
    assert [json.loads(line) for line in text.decode().split("\n")[:-1]] == rows.to_pylist()
    assert text_of(lines.slice(3), 2, 5) == b"".join(text.splitlines(keepends=True)[5:8])


def test_corrupt_lines_leave_the_others_alone() -> None:
    rows = pa.table({"request_id": list(range(100)), "at": list(range(100))})
    bad = np.arange(100) % 10 == 3
    pieces = corrupt_lines(json_lines(rows), bad, "request_id", "at", np.random.default_rng(0))
    lines = b"".join(pieces).split(b"\n")[:-1]
    good = text_of(json_lines(rows), 0, 100).split(b"\n")
    assert [line == good[i] for i, line in enumerate(lines)] == (~bad).tolist()


def test_each_way_of_corruption_changes_the_line() -> None:
    line = b'{"request_id":-7,"user":1,"at":12}'
    for name, corrupt in KINDS.items():
        found = corrupt(line, "request_id", "at")
        assert found != line and b"\n" not in found, name
        try:
            value = json.loads(found)
        except ValueError:
            continue
        assert value["request_id"] is None or not isinstance(value["at"], int), name


def test_a_log_is_written_at_a_speed(tmp_path: Path) -> None:
    slept: list[float] = []
    stream = Stream(tmp_path / "s", "k", "at", np.random.default_rng(0))
    at = np.arange(0, 10 * MINUTE, MINUTE)
    stream.add(pa.table({"k": at, "at": at, ARRIVAL: at, BAD: np.zeros(len(at), bool)}))
    Arrivals((stream,), MINUTE, speed=60.0, sleep=slept.append).write(None)
    assert stream.files == 10 and slept == sorted(slept) and 0.9 < slept[0] <= 1 and 9.5 < slept[-1] <= 10


def test_unfinished_files_are_not_seen_by_readers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, str]] = []
    rename = Path.rename
    monkeypatch.setattr(Path, "rename", lambda self, to: (seen.append((self.name, Path(to).name)), rename(self, to))[1])
    Stream(tmp_path / "s", "k", "at", np.random.default_rng(0)).write("a.jsonl", [b"{}\n"])
    assert seen == [(".a.jsonl.partial", "a.jsonl")] and [file.name for file in (tmp_path / "s").iterdir()] == ["a.jsonl"]
