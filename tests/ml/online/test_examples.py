"""Examples of arriving rows have the features of the daily road."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.compute.runner import LocalRunner
from ml.features.clean import clean_day
from ml.features.event_days import write_event_day
from ml.features.read import feature_table
from ml.lake import Lake
from ml.logs.ingest import ingest_day
from ml.logs.read import raw_table
from ml.logs.synthetic.simulate import write_day
from ml.online.earlier_events import events_before, find_earlier, known_before
from ml.online.examples import (
    DayExamples,
    UnorderedRows,
    read_side_tables,
    read_vocabularies,
    vocabulary_day,
)
from tests.helpers.small_logs import LAYOUTS, write_log
from tests.helpers.table_days import DAYS as TABLE_DAYS
from tests.helpers.table_days import day_rows, table_spec, write_rows


def examples_of(spec: DatasetSpec, day: str, lake: Lake, logs: Path) -> DayExamples:
    vocabularies = read_vocabularies(spec, vocabulary_day(spec, day, lake), lake)
    taken = UPath(logs) / "taken"
    earlier = find_earlier(spec, day, lake, taken)
    before, known = events_before(spec, earlier, lake, taken), known_before(spec, day, earlier, lake, taken)
    return DayExamples(spec, day, vocabularies, read_side_tables(spec, logs), before, known)


def streamed(examples: DayExamples, raw: pa.Table, seed: int, slices: int) -> list[tuple[pa.Table, pa.Table]]:
    """Raw rows and features of each slice of a day that is cut at random places."""
    cuts = np.sort(np.random.default_rng(seed).integers(0, len(raw) + 1, slices - 1))
    bounds = [0, *cuts.tolist(), len(raw)]
    parts = [raw.slice(a, b - a) for a, b in pairwise(bounds)]
    return [(part, examples.features(part)) for part in parts]


def prepare(spec: DatasetSpec, days: list[str], lake: Lake, logs: Path) -> None:
    for day in days:
        ingest_day(spec.log, day, logs, lake, LocalRunner())
        clean_day(spec, day, lake, logs, LocalRunner())


def without_later_items(spec: DatasetSpec, slices: list[tuple[pa.Table, pa.Table]]) -> list[np.ndarray]:
    """Of each row: whether its user chooses nothing in a later slice."""
    known: list[np.ndarray] = []
    later: dict[object, set[object]] = {}
    for rows, _ in reversed(slices):
        pairs = list(zip(rows[spec.user or ""].to_pylist(), rows[spec.item or ""].to_pylist(), strict=True))
        known.append(np.array([not later.get(user) for user, _ in pairs], bool))
        for user, item in pairs:
            later.setdefault(user, set()).add(item)
    return known[::-1]


def events_of(features: pa.Table) -> list[pa.Table]:
    """The rows of each logged event: the event and its negatives."""
    starts = np.flatnonzero(features["label"].to_numpy() == 1).tolist()
    return [features.slice(a, b - a) for a, b in zip(starts, [*starts[1:], len(features)], strict=True)]


def check_day(spec: DatasetSpec, day: str, lake: Lake, logs: Path, seed: int, slices: int) -> float:
    """Compares a streamed day with the day's features; returns the share of events whose draws may differ."""
    raw, expected = raw_table(lake, spec.name, day), feature_table(lake, spec, day)
    found = streamed(examples_of(spec, day, lake, logs), raw, seed, slices)
    if not spec.label.negatives:
        assert pa.concat_tables([features for _, features in found]).equals(expected)
        return 0.0
    equal = np.concatenate(without_later_items(spec, found))
    of_stream = [event for _, features in found for event in events_of(features)]
    of_day = events_of(expected)
    assert len(of_stream) == len(of_day) == len(raw)
    for is_equal, ours, theirs in zip(equal.tolist(), of_stream, of_day, strict=True):
        if is_equal:
            assert ours.equals(theirs)
        else:  # the positive has all its features, whatever is drawn
            assert ours.slice(0, 1).drop_columns("sample_rate").equals(theirs.slice(0, 1).drop_columns("sample_rate"))
    return 1 - float(equal.mean())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_day_in_slices_has_the_features_of_the_day(layout: str, seed: int, tmp_path: Path, lake: Lake) -> None:
    entry = write_log(layout, tmp_path / "logs", seed)
    entry["sparse"] = [
        {"name": s, "vocabulary": {"min_count": 2}} if isinstance(s, str) and not n else s
        for n, s in enumerate(entry["sparse"])
    ]
    if layout == "news":
        entry["sparse"] += [{"name": "history", "history": 3}]
    spec = DatasetSpec.model_validate(entry)
    first, day = spec.days()[:2]
    prepare(spec, [first, day], lake, tmp_path / "logs")
    check_day(spec, day, lake, tmp_path / "logs", seed, slices=5)


@pytest.mark.parametrize("draw", ["uniform", "popularity"])
def test_negatives_equal_those_of_the_day_when_the_users_later_items_are_known(draw: str, tmp_path: Path, lake: Lake) -> None:
    """Few users and items, so that most users choose several items of a day."""
    entry = write_log("news", tmp_path / "logs", 1)
    entry["label"] = {"negatives": {"per_positive": 3, "draw": draw, "window_hours": 12, "recent": {"clicks_1h": 1}}}
    spec = DatasetSpec.model_validate(entry)
    first, day = spec.days()
    prepare(spec, [first, day], lake, tmp_path / "logs")
    logs = tmp_path / "logs"
    raw = raw_table(lake, spec.name, day)
    few = raw.set_column(raw.schema.get_field_index("user_id"), "user_id", pa.array(np.arange(len(raw)) % 40))
    whole = examples_of(spec, day, lake, logs).features(few)
    found = streamed(examples_of(spec, day, lake, logs), few, seed=4, slices=6)
    equal = np.concatenate(without_later_items(spec, found))
    pairs = zip(equal.tolist(), [e for _, f in found for e in events_of(f)], events_of(whole), strict=True)
    assert all(ours.equals(theirs) for is_equal, ours, theirs in pairs if is_equal)
    assert 0.05 < equal.mean() < 0.9


def test_a_run_that_resumes_makes_the_same_examples(tmp_path: Path, lake: Lake) -> None:
    spec = DatasetSpec.model_validate(write_log("news", tmp_path / "logs", 2))
    first, day = spec.days()
    prepare(spec, [first, day], lake, tmp_path / "logs")
    found = streamed(examples_of(spec, day, lake, tmp_path / "logs"), raw_table(lake, spec.name, day), 0, 4)
    resumed = examples_of(spec, day, lake, tmp_path / "logs")
    for rows, _ in found[:2]:
        resumed.skip(rows)
    assert all(resumed.features(rows).equals(features) for rows, features in found[2:])
    with pytest.raises(UnorderedRows, match="earlier than the rows before it"):
        resumed.features(found[0][0])


def test_slices_read_batches_and_chunks(tmp_path: Path, lake: Lake) -> None:
    spec = DatasetSpec.model_validate(write_log("ratings", tmp_path / "logs", 2))
    day = spec.days()[0]
    ingest_day(spec.log, day, tmp_path / "logs", lake, LocalRunner())
    raw = raw_table(lake, spec.name, day)
    part = examples_of(spec, day, lake, tmp_path / "logs").slice(raw, 3, batch_size=16)
    assert part.number == 3 and part.rows == len(raw) and len(part) == -(-len(raw) // 16)
    assert sum(len(batch) for chunk in part.chunks(32) for batch in chunk.batches) == len(raw)
    empty = examples_of(spec, day, lake, tmp_path / "logs").slice(raw.slice(0, 0), 0, batch_size=16)
    assert len(empty) == 0


def test_the_vocabulary_of_the_newest_day_is_read(tmp_path: Path, lake: Lake) -> None:
    entry = write_log("tracker", tmp_path / "logs", 1)
    entry["sparse"][0] = {"name": entry["sparse"][0], "vocabulary": {"min_count": 1}}
    spec = DatasetSpec.model_validate(entry)
    name = spec.sparse[0].name
    assert vocabulary_day(spec, spec.days()[1], lake) is None and len(read_vocabularies(spec, None, lake)[name]) == 0
    prepare(spec, spec.days()[:1], lake, tmp_path / "logs")
    day = vocabulary_day(spec, spec.days()[1], lake)
    assert day == spec.days()[0] and len(read_vocabularies(spec, day, lake)[name]) > 0


def test_a_synthetic_day(catalog: dict[str, DatasetSpec], tmp_path: Path, lake: Lake) -> None:
    entry = catalog["synthetic"].model_dump(mode="json", exclude_unset=True)
    entry["simulation"]["impressions_per_day"] = 2000
    spec = DatasetSpec.model_validate(entry)
    for day in spec.days()[:1]:
        write_day(spec.log, day, tmp_path)
    prepare(spec, spec.days()[:1], lake, tmp_path)
    check_day(spec, spec.days()[0], lake, tmp_path, seed=0, slices=7)


FOLDERS = {"criteo": ("criteo", 1), "globo": ("globo", 1), "movielens": ("movielens-100k", 30)}


@pytest.mark.slow
@pytest.mark.parametrize("name", FOLDERS)
def test_a_real_day(name: str, catalog: dict[str, DatasetSpec], real_logs: Path, lake: Lake) -> None:
    spec, (folder, number) = catalog[name], FOLDERS[name]
    days = spec.days()[: number + 1]
    for day in days if spec.label.negatives else days[-1:]:
        ingest_day(spec.log, day, real_logs / folder, lake, LocalRunner())
    clean_day(spec, days[-1], lake, real_logs / folder, LocalRunner())
    differ = check_day(spec, days[-1], lake, real_logs / folder, seed=1, slices=50)
    assert differ < (0.7 if name == "globo" else 1e-9)


@pytest.mark.parametrize("negatives", [False, True])
@pytest.mark.parametrize("seed", range(2))
def test_values_of_feature_tables_equal_the_daily_ones(tmp_path: Path, seed: int, negatives: bool) -> None:
    label = {"negatives": {"per_positive": 2, "window_hours": 5}} if negatives else {"column": "click"}
    spec, lake = table_spec(label=label), Lake.at(tmp_path / "lake")
    for number, day in enumerate(TABLE_DAYS[:3]):
        write_rows(lake, spec, day, day_rows(number, 200, seed))
        write_event_day(spec, day, lake)
        clean_day(spec, day, lake, tmp_path, LocalRunner())
    check_day(spec, TABLE_DAYS[2], lake, tmp_path, seed, slices=7)


def test_rows_of_feature_tables_come_in_time_order(tmp_path: Path) -> None:
    spec, rows = table_spec(), day_rows(0, 20)
    examples = DayExamples(spec, TABLE_DAYS[0])
    examples.skip(rows.slice(10))
    with pytest.raises(UnorderedRows, match="tables: a row of 2026-01-01 is earlier than the rows before it"):
        examples.features(rows.slice(0, 10))
