"""A day of features has the same bytes with any runner and after a kill, and its ids come from earlier days only."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ml.catalog.spec import DatasetSpec
from ml.compute.runner import LocalRunner, SparkRunner
from ml.features.clean import Limits, clean_day
from ml.features.hashing import hash_values
from ml.features.read import feature_parts, feature_table
from ml.features.side_join import RepeatedKey
from ml.features.transforms import compile_transforms
from ml.features.vocabulary import Vocabulary
from ml.lake import MANIFEST, Lake, MissingPartition, StalePartition
from ml.schema import FIRST_ID, MISSING_ID, OOV_ID, arrow_schema
from ml.stages import CLEANED_FEATURES
from tests.helpers.shop_features import digests, shop, shop_day
from tests.helpers.small_logs import side_table
from tests.ml.features.point_in_time.test_negatives import random_log

SMALL = Limits(rows_per_task=300)
DAYS = ("2020-01-01", "2020-01-02", "2020-01-03")

JOINED = shop(
    join=[side_table("item", "id", ["colour", "weight"], "items.csv", {"id": "int", "colour": "string", "weight": "float"})],
    sparse=[
        {"name": "colour", "vocabulary": {"min_count": 2}},
        {"name": "item_id", "column": "item"},
        {"name": "colour_x_country", "cross": ["colour", "country"]},
    ],
    dense=[{"name": "weight"}],
)

NEWS: dict[str, Any] = {
    "source": {"files": "log.csv", "format": "csv", "columns": {"user": "int", "item": "int", "page": "int"}},
    "label": {"negatives": {"per_positive": 3, "window_hours": 6}},
    "dense": [],
    "sparse": ["item", "page", {"name": "item_word", "column": "item", "vocabulary": {"min_count": 2}}],
    "slices": [],
}


def write_items(folder: Path, repeated: bool = False) -> None:
    lines = [f"{n},{['red', 'blue', 'green'][n % 3]},{n / 4}" for n in range(0, 30)] + (["3,red,1"] if repeated else [])
    (folder / "items.csv").write_text("\n".join(["id,colour,weight", *lines]) + "\n")


def news_day(spec: DatasetSpec, day: int, rows: int = 700) -> pa.Table:
    table = random_log(rows, day, users=40, items=30, hours=24)
    first = 1_577_836_800_000_000 + day * 86_400_000_000
    return table.set_column(0, "event_time", pa.array(table["event_time"].to_numpy() + first))


@pytest.mark.parametrize("groups", [1, 4])
def test_a_day_is_its_rows_transformed_in_order(lake: Lake, tmp_path: Path, write_raw: Any, groups: int) -> None:
    spec = shop()
    day = shop_day(spec, 0, 1000)
    write_raw(lake, spec, DAYS[0], day, parts=3, row_group=1000 // groups)
    done = clean_day(spec, DAYS[0], lake, str(tmp_path), LocalRunner(), limits=SMALL)
    got = feature_table(lake, spec, DAYS[0])
    empty = {name: Vocabulary.empty() for name in ("country_id", "tag_words", "country_x_count")}
    expected = compile_transforms(spec, empty)(day.combine_chunks().to_batches()[0])
    assert got.combine_chunks().equals(pa.table(expected))
    assert (got.schema, got.schema.metadata) == (arrow_schema(spec), arrow_schema(spec).metadata)
    assert feature_table(lake, spec, DAYS[0], ["item_id"]).equals(got.select(["item_id"]))
    clicks = int(np.sum(day["click"].to_numpy()))
    assert (done.rows, done.positives, done.negatives) == (1000, clicks, 1000 - clicks)
    manifest = lake.manifest(CLEANED_FEATURES, "shop", DAYS[0])
    assert manifest["rows"] == 1000
    assert manifest["label_rate"] == clicks / 1000
    assert manifest["fingerprint"] == spec.fingerprint
    assert manifest["mean_sample_rate"] == 1.0
    assert manifest["parts"] == len(feature_parts(lake, spec, DAYS[0])) == done.parts
    assert set(digests(lake.partition(CLEANED_FEATURES, "shop", DAYS[0]))) == {
        "manifest.json",
        *(f"rows/part-{n:05d}.parquet" for n in range(done.parts)),
        *(f"vocabulary/{name}.parquet" for name in empty),
    }


def test_the_manifest_has_the_rate_of_each_further_label(lake: Lake, tmp_path: Path, write_raw: Any) -> None:
    spec = shop(labels={"ignored": {"column": "click", "is": [0]}})
    day = shop_day(spec, 0, 1000)
    write_raw(lake, spec, DAYS[0], day, row_group=100)
    done = clean_day(spec, DAYS[0], lake, str(tmp_path), LocalRunner(), limits=Limits(rows_per_task=100))
    ignored = 1 - int(np.sum(day["click"].to_numpy())) / 1000
    assert done.parts > 1 and done.further_rates == {"ignored": pytest.approx(ignored)}
    assert lake.manifest(CLEANED_FEATURES, "shop", DAYS[0])["further_rates"] == done.further_rates


def test_an_empty_day_has_a_part_without_rows(lake: Lake, tmp_path: Path, write_raw: Any) -> None:
    spec = shop()
    write_raw(lake, spec, DAYS[0], shop_day(spec, 0, 0))
    assert clean_day(spec, DAYS[0], lake, str(tmp_path), LocalRunner()).rows == 0
    got = feature_table(lake, spec, DAYS[0])
    assert (len(got), got.schema) == (0, arrow_schema(spec))


def test_ids_of_a_day_come_from_the_days_before_it(lake: Lake, tmp_path: Path, write_raw: Any) -> None:
    spec = shop()
    counts: Counter[str] = Counter()
    known: dict[str, int] = {}
    for n, day in enumerate(DAYS):
        raw = shop_day(spec, n, 400)
        write_raw(lake, spec, day, raw, row_group=100)
        done = clean_day(spec, day, lake, str(tmp_path), LocalRunner(), limits=Limits(rows_per_task=100))
        words = raw["country"].to_pylist()
        expected = [MISSING_ID if w is None else known.get(w, OOV_ID) for w in words]
        assert feature_table(lake, spec, day)["country_id"].to_pylist() == expected
        counts.update(w for w in words if w is not None)
        for word in sorted((w for w in counts if w not in known), key=lambda w: (-counts[w], w.encode())):
            if counts[word] >= 3 and len(known) < 4:
                known[word] = FIRST_ID + len(known)
        assert done.vocabularies["country_id"].ids == len(known)
        assert done.vocabularies["country_id"].values == len(counts)
    assert len(known) == 4


def test_a_fresh_start_in_the_middle_is_the_first_day_of_the_log(lake: Lake, tmp_path: Path, write_raw: Any) -> None:
    spec = shop()
    for n, day in enumerate(DAYS[1:], 1):
        write_raw(lake, spec, day, shop_day(spec, n, 300))
    with pytest.raises(MissingPartition, match=f"cleaned_features of {DAYS[0]} is not in the lake"):
        clean_day(spec, DAYS[1], lake, str(tmp_path), LocalRunner())
    fresh = spec.starting_at(DAYS[1])
    assert fresh.fingerprint == spec.fingerprint and fresh.days() == spec.days()
    assert (fresh.first_day, fresh.previous_day(DAYS[1]), fresh.previous_day(DAYS[2])) == (DAYS[1], None, DAYS[1])
    done = clean_day(fresh, DAYS[1], lake, str(tmp_path), LocalRunner())
    assert done.rows == 300 and set(feature_table(lake, spec, DAYS[1])["country_id"].to_pylist()) == {MISSING_ID, OOV_ID}
    assert clean_day(spec, DAYS[2], lake, str(tmp_path), LocalRunner()).vocabularies["country_id"].ids > 0
    with pytest.raises(ValueError, match="has no day 2030-01-01"):
        spec.starting_at("2030-01-01")


def test_a_fresh_start_does_not_look_back(lake: Lake, tmp_path: Path, write_raw: Any) -> None:
    spec = shop(**NEWS)
    write_raw(lake, spec, DAYS[2], news_day(spec, 2))
    with pytest.raises(MissingPartition):
        clean_day(spec, DAYS[2], lake, str(tmp_path), LocalRunner())
    assert clean_day(spec.starting_at(DAYS[2]), DAYS[2], lake, str(tmp_path), LocalRunner()).positives > 0


def test_later_days_do_not_change_earlier_days(lake: Lake, tmp_path: Path, write_raw: Any) -> None:
    spec = shop()
    for n, day in enumerate(DAYS):
        write_raw(lake, spec, day, shop_day(spec, n, 300))
        clean_day(spec, day, lake, str(tmp_path), LocalRunner())
    before = digests(lake.partition(CLEANED_FEATURES, "shop", DAYS[1]))
    write_raw(lake, spec, DAYS[2], shop_day(spec, 2, 600, seed=9))
    clean_day(spec, DAYS[1], lake, str(tmp_path), LocalRunner())
    assert digests(lake.partition(CLEANED_FEATURES, "shop", DAYS[1])) == before


def test_a_missing_day_and_another_spec_are_refused(lake: Lake, tmp_path: Path, write_raw: Any) -> None:
    spec = shop()
    for n, day in enumerate(DAYS):
        write_raw(lake, spec, day, shop_day(spec, n, 50))
    with pytest.raises(MissingPartition, match="shop/cleaned_features of 2020-01-01 is not in the lake"):
        clean_day(spec, DAYS[1], lake, str(tmp_path), LocalRunner())
    clean_day(spec, DAYS[0], lake, str(tmp_path), LocalRunner())
    other = shop(dense=[])
    with pytest.raises(StalePartition, match=r"of 2020-01-01 was made under the fingerprint .* --partition 2020-01-01"):
        clean_day(other, DAYS[1], lake, str(tmp_path), LocalRunner())
    with pytest.raises(StalePartition, match="shop/cleaned_features of 2020-01-01 was made under the fingerprint"):
        feature_table(lake, other, DAYS[0])
    assert lake.days(CLEANED_FEATURES, "shop") == [DAYS[0]]
    with pytest.raises(MissingPartition, match="shop/raw_logs of 2020-01-09"):
        clean_day(spec, "2020-01-09", lake, str(tmp_path), LocalRunner())


def test_negatives_come_from_the_window_that_begins_the_day_before(lake: Lake, tmp_path: Path, write_raw: Any) -> None:
    spec = shop(**NEWS)
    raws = [news_day(spec, n) for n in range(2)]
    for day, raw in zip(DAYS, raws, strict=False):
        write_raw(lake, spec, day, raw, parts=2, row_group=200)
    first = clean_day(spec, DAYS[0], lake, str(tmp_path), LocalRunner(), limits=SMALL)
    second = clean_day(spec, DAYS[1], lake, str(tmp_path), LocalRunner(), limits=SMALL)
    assert first.without_candidate > 0 == second.without_candidate
    assert (second.positives, second.negatives) == (700, 2100)
    got = feature_table(lake, spec, DAYS[1])
    assert got["event_time"].to_pylist() == sorted(got["event_time"].to_pylist())
    assert lake.manifest(CLEANED_FEATURES, "shop", DAYS[1])["lineage"].keys() == {
        *(f"raw_logs/{day}" for day in DAYS[:2]),
        f"cleaned_features/{DAYS[0]}",
    }
    # Only logged events are counted: sampled negatives must not add to the count of an item.
    assert second.vocabularies["item_word"].values <= 30
    table = pa.concat_tables(raws)
    state = Vocabulary.read(lake.partition(CLEANED_FEATURES, "shop", DAYS[1]) / "vocabulary" / "item_word.parquet")
    logged = Counter(item for item in table["item"].to_pylist() if item is not None)
    assert len(state) == sum(count >= 2 for count in logged.values())


def test_joined_columns_follow_the_sampled_item(lake: Lake, tmp_path: Path, write_raw: Any) -> None:
    side = JOINED.join[0].model_dump(mode="json")
    spec = shop(**NEWS | {"join": [side], "slices": ["colour"], "sparse": ["item", "page"]})
    write_items(tmp_path)
    write_raw(lake, spec, DAYS[0], news_day(spec, 0))
    clean_day(spec, DAYS[0], lake, str(tmp_path), LocalRunner())
    colour = {int(hash_values("item", pa.array([n]))[0]): ["red", "blue", "green"][n % 3] for n in range(30)}
    rows = feature_table(lake, spec, DAYS[0]).select(["label", "item", "slice:colour"]).to_pylist()
    assert all(row["slice:colour"] == colour.get(row["item"]) for row in rows)
    assert any(row["label"] == 0 and row["slice:colour"] for row in rows)


def test_a_file_may_be_joined_twice_on_one_key(lake: Lake, tmp_path: Path, write_raw: Any) -> None:
    side = JOINED.join[0].model_dump(mode="json")
    twice = JOINED.model_copy(
        update={"join": shop(join=[side | {"columns": [name]} for name in ("colour", "weight")], slices=[]).join}
    )
    write_items(tmp_path)
    write_raw(lake, JOINED, DAYS[0], shop_day(JOINED, 0, 100))
    once = clean_day(JOINED, DAYS[0], lake, str(tmp_path), LocalRunner())
    expected = feature_table(lake, JOINED, DAYS[0])
    done = clean_day(twice, DAYS[0], lake, str(tmp_path), LocalRunner())
    assert feature_table(lake, twice, DAYS[0]).equals(expected)
    assert [table.matches for table in done.joins.values()] == [table.matches for table in once.joins.values()] * 2


def test_a_repeated_key_of_a_side_table_stops_the_day(lake: Lake, tmp_path: Path, write_raw: Any) -> None:
    write_items(tmp_path, repeated=True)
    write_raw(lake, JOINED, DAYS[0], shop_day(JOINED, 0, 50))
    with pytest.raises(RepeatedKey, match=r"items\.csv: id 3 has 2 rows"):
        clean_day(JOINED, DAYS[0], lake, str(tmp_path), LocalRunner())
    assert not lake.has(CLEANED_FEATURES, "shop", DAYS[0])


@pytest.mark.slow
@pytest.mark.parametrize("spec", [shop(), JOINED, shop(**NEWS), shop(**NEWS | {"join": JOINED.join, "slices": ["colour"]})])
def test_every_runner_and_strategy_writes_the_same_bytes(spark, lake, tmp_path, write_raw, spec) -> None:  # type: ignore[no-untyped-def]
    write_items(tmp_path)
    make = news_day if spec.label.negatives else shop_day
    for n, day in enumerate(DAYS[:2]):
        write_raw(lake, spec, day, make(spec, n, 900), parts=2, row_group=200)
    shuffled = Limits(broadcast_bytes=0, arrow_rows=0, rows_per_task=300)
    runs = [
        lambda day: clean_day(spec, day, lake, str(tmp_path), LocalRunner(), limits=SMALL),
        lambda day: clean_day(spec, day, lake, str(tmp_path), LocalRunner(), limits=SMALL),
        lambda day: clean_day(spec, day, lake, str(tmp_path), SparkRunner(spark), spark, limits=SMALL),
        lambda day: clean_day(spec, day, lake, str(tmp_path), SparkRunner(spark), spark, limits=shuffled),
    ]
    results = []
    for run in runs:
        done = [run(day) for day in DAYS[:2]]
        files = [digests(lake.partition(CLEANED_FEATURES, "shop", day)) for day in DAYS[:2]]
        for of_day in files:
            del of_day["manifest.json"]  # it names the join strategy
        results.append((files, [(d.rows, d.positives, d.without_candidate, d.vocabularies) for d in done]))
    assert all(result == results[0] for result in results[1:])
    strategies = ("broadcast", "sort_merge") if spec.join else (None, None)
    assert next((table.strategy for table in done[0].joins.values()), None) == strategies[1]


HOSTILE_COLUMNS = ["Item", "joined key", "size [{of}] it"]
HOSTILE = side_table("item", "id", HOSTILE_COLUMNS, "items.csv", {"id": "int"} | dict.fromkeys(HOSTILE_COLUMNS, "string"))


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["s[t]", "s{t} 50%20#?", "naïve *數"])
def test_names_and_paths_do_not_matter_at_any_size(spark, tmp_path: Path, write_raw: Any, folder: str) -> None:  # type: ignore[no-untyped-def]
    words = [("_Item", "Item"), ("joined_key", "joined key"), ("größe", "size [{of}] it"), ("_größe%20#", "size [{of}] it")]
    spec = shop(
        join=[HOSTILE],
        sparse=[{"name": name, "column": column, "vocabulary": {"min_count": 2}} for name, column in words],
        dense=[],
        slices=[],
    )
    lines = [f"{n},i{n % 3},k{n % 4},s{n % 5}" for n in range(30)]
    (tmp_path / "items.csv").write_text("\n".join(["id,Item,joined key,size [{of}] it", *lines]) + "\n")
    lake = Lake.at(tmp_path / folder / "lake")
    for n, day in enumerate(DAYS[:2]):
        write_raw(lake, spec, day, shop_day(spec, n, 600), parts=2, row_group=200)
    runs = []
    for session, limits in ((None, SMALL), (spark, Limits(broadcast_bytes=0, arrow_rows=0, rows_per_task=300))):
        runner = LocalRunner() if session is None else SparkRunner(session)
        done = [clean_day(spec, day, lake, str(tmp_path), runner, session, limits) for day in DAYS[:2]]
        files = [digests(lake.partition(CLEANED_FEATURES, "shop", day)) for day in DAYS[:2]]
        runs.append([{name: found for name, found in of_day.items() if name != MANIFEST} for of_day in files])
    assert runs[0] == runs[1]
    assert {table.strategy for table in done[1].joins.values()} == {"sort_merge"}
    assert all(size.values for size in done[1].vocabularies.values())


@pytest.mark.slow
@pytest.mark.parametrize("written", [1, 20, 60])
def test_a_killed_day_is_not_visible_and_can_be_written_again(lake: Lake, tmp_path: Path, write_raw: Any, written: int) -> None:
    spec = shop()
    write_raw(lake, spec, DAYS[0], shop_day(spec, 0, 60_000), parts=3, row_group=400)
    clean_day(spec, DAYS[0], lake, str(tmp_path), LocalRunner(), limits=SMALL)
    partition = lake.partition(CLEANED_FEATURES, "shop", DAYS[0])
    expected = digests(partition)
    shutil.rmtree(partition.path)
    script = f"""
from tests.helpers.shop_features import shop
from ml.features.clean import Limits, clean_day
from ml.lake import Lake
from ml.compute.runner import LocalRunner
clean_day(shop(), {DAYS[0]!r}, Lake.at({str(lake.root)!r}), {str(tmp_path)!r}, LocalRunner(), limits=Limits(rows_per_task=300))
"""
    process = subprocess.Popen([sys.executable, "-c", script])
    staging = Path(lake.root.path) / CLEANED_FEATURES / "shop" / ".staging" / DAYS[0] / "rows"
    while not staging.exists() or len(list(staging.iterdir())) < written:
        assert process.poll() is None, "the process ended before it was killed"
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not partition.exists()
    clean_day(spec, DAYS[0], lake, str(tmp_path), LocalRunner(), limits=SMALL)
    assert digests(partition) == expected
    assert not list((Path(lake.root.path) / CLEANED_FEATURES / "shop" / ".staging").iterdir())


def test_negatives_need_the_earlier_days_of_their_window(lake: Lake, tmp_path: Path, write_raw: Any) -> None:
    spec = shop(**NEWS | {"sparse": ["item"]})
    write_raw(lake, spec, DAYS[1], news_day(spec, 1))
    with pytest.raises(MissingPartition, match=f"shop/raw_logs of {DAYS[0]} is not in the lake"):
        clean_day(spec, DAYS[1], lake, str(tmp_path), LocalRunner())


def test_raw_logs_of_another_log_spec_are_refused(lake: Lake, tmp_path: Path, write_raw: Any) -> None:
    spec = shop()
    write_raw(lake, spec, DAYS[0], shop_day(spec, 0, 50))
    path = Path(lake.partition("raw_logs", "shop", DAYS[0]) / MANIFEST)
    path.write_text(json.dumps({"rows": 50, "fingerprint": "another"}))
    with pytest.raises(StalePartition, match=f"shop/raw_logs of {DAYS[0]} was made under the fingerprint another"):
        clean_day(spec, DAYS[0], lake, str(tmp_path), LocalRunner())


def test_a_vocabulary_that_was_rebuilt_is_read_again(lake: Lake, tmp_path: Path, write_raw: Any) -> None:
    """A process caches vocabularies; a changed side table changes the vocabulary, so the cache must not return the old one."""
    sparse = [{"name": "colour", "vocabulary": {"min_count": 1}}]
    spec = JOINED.model_validate(JOINED.model_dump(mode="json") | {"sparse": sparse, "dense": [], "slices": []})
    for n, day in enumerate(DAYS[:2]):
        write_raw(lake, spec, day, shop_day(spec, n, 300))

    def ids() -> list[int]:
        for day in DAYS[:2]:
            clean_day(spec, day, lake, str(tmp_path), LocalRunner())
        return feature_table(lake, spec, DAYS[1])["colour"].to_pylist()

    write_items(tmp_path)
    first = ids()
    (tmp_path / "items.csv").write_text((tmp_path / "items.csv").read_text().replace("red", "violet").replace("blue", "cyan"))
    assert ids() == first and set(first) > {2, 3, 4}
