"""The built-in log: any day from (seed, day) alone, true probabilities, corrupt lines counted, no foreign file overwritten."""

from __future__ import annotations

import csv
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ml.catalog.log_spec import LogSpec
from ml.catalog.spec import DatasetSpec
from ml.logs.synthetic.corrupt import KINDS, corrupt_lines
from ml.logs.synthetic.population import Items, World
from ml.logs.synthetic.simulate import COLUMNS, write_day

FIELDS = {name: i for i, name in enumerate(COLUMNS)}
DAY_MS = 86_400_000


def simulated(catalog: dict[str, DatasetSpec], **changes: object) -> LogSpec:
    spec = catalog["synthetic"].log
    assert spec.simulation is not None
    return spec.model_copy(update={"simulation": spec.simulation.model_copy(update=changes)})


@pytest.fixture(scope="module")
def small(catalog: dict[str, DatasetSpec]) -> LogSpec:
    return simulated(catalog, impressions_per_day=5_000, users=500, items=80, malformed_rate=0.02)


@pytest.fixture(scope="module")
def clean(catalog: dict[str, DatasetSpec]) -> LogSpec:
    return simulated(catalog, impressions_per_day=100_000, malformed_rate=0.0)


@pytest.fixture(scope="module")
def rows(clean: LogSpec, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    path = write_day(clean, "2026-01-05", tmp_path_factory.mktemp("landing")).path
    with path.open(newline="") as file:
        return np.array(list(csv.reader(file))[1:])


def column(rows: np.ndarray, name: str) -> np.ndarray:
    return rows[:, FIELDS[name]]


def test_a_day_depends_on_seed_and_day_alone(catalog: dict[str, DatasetSpec], small: LogSpec, tmp_path: Path) -> None:
    days = ["2026-01-01", "2026-01-02", "2026-01-03"]
    forward = {day: write_day(small, day, tmp_path / "a").path.read_bytes() for day in days}
    backward = {day: write_day(small, day, tmp_path / "b").path.read_bytes() for day in reversed(days)}
    assert forward == backward
    assert len(set(forward.values())) == len(days)
    other = simulated(catalog, **(small.simulation.model_dump() | {"seed": 8}))  # type: ignore[union-attr]
    assert write_day(other, days[0], tmp_path / "c").path.read_bytes() != forward[days[0]]


def test_the_file_is_the_one_the_catalog_declares(small: LogSpec, tmp_path: Path) -> None:
    written = write_day(small, "2026-01-01", tmp_path)
    assert written.path == tmp_path / "2026-01-01.csv"
    assert written.path.read_text(errors="replace").split("\n")[0].split(",") == list(small.source.columns)


def test_an_existing_file_of_the_same_settings_is_left_alone(
    catalog: dict[str, DatasetSpec], small: LogSpec, tmp_path: Path
) -> None:
    first = write_day(small, "2026-01-01", tmp_path)
    with first.path.open("ab") as file:
        file.write(b"a line that somebody sent later\n")
    again = write_day(small, "2026-01-01", tmp_path)
    assert first.written and not again.written
    assert (again.rows, again.malformed, again.clicks) == (first.rows, first.malformed, first.clicks)
    assert first.path.read_bytes().endswith(b"sent later\n")
    more = simulated(catalog, **(small.simulation.model_dump() | {"impressions_per_day": 6_000}))  # type: ignore[union-attr]
    changed = write_day(more, "2026-01-01", tmp_path)
    assert changed.written and changed.rows + changed.malformed == 6_000


def test_a_file_of_somebody_else_is_never_overwritten(small: LogSpec, tmp_path: Path) -> None:
    (tmp_path / "2026-01-01.csv").write_text("mine")
    with pytest.raises(FileExistsError, match="move it away"):
        write_day(small, "2026-01-01", tmp_path)
    assert (tmp_path / "2026-01-01.csv").read_text() == "mine"


def test_a_killed_writer_leaves_nothing_that_is_taken_for_a_day(small: LogSpec, tmp_path: Path) -> None:
    whole = write_day(small, "2026-01-01", tmp_path / "whole").path.read_bytes()
    folder = tmp_path / "killed"
    folder.mkdir()
    (folder / ".2026-01-01.csv.part").write_bytes(whole[:1000])
    (folder / ".2026-01-01.csv.json").write_bytes((tmp_path / "whole" / ".2026-01-01.csv.json").read_bytes())
    assert write_day(small, "2026-01-01", folder).path.read_bytes() == whole
    assert [path.name for path in folder.glob("*.csv*") if not path.name.startswith(".")] == ["2026-01-01.csv"]


def test_malformed_lines_have_their_share_and_their_kinds(small: LogSpec, tmp_path: Path) -> None:
    day = write_day(small, "2026-01-01", tmp_path)
    lines = day.path.read_bytes().split(b"\n")[1:-1]
    assert len(lines) == day.rows + day.malformed == 5_000
    assert abs(day.malformed / 5_000 - 0.02) < 4 * np.sqrt(0.02 * 0.98 / 5_000)

    def well_formed(line: bytes) -> bool:
        try:
            fields = line.decode().split(",")
            return (
                len(fields) == len(COLUMNS) and 0 <= int(fields[0]) - 1_767_225_600_000 < DAY_MS and 0 <= float(fields[-1]) <= 1
            )
        except ValueError:
            return False

    assert sum(map(well_formed, lines)) == day.rows


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_corruption_changes_a_line_and_keeps_it_one(kind: str) -> None:
    line = b"1767225600123,23,20454001,news,,phone,33,1.25,9.5,,0,0.081234"
    broken = KINDS[kind](line)
    assert broken != line and b"\n" not in broken


def test_corruption_leaves_the_other_lines_as_they_were() -> None:
    lines = [b"17672256001%02d,1,2,news,US,phone,33,1.25,9.5,,0,0.5" % i for i in range(100)]
    text, corrupt = corrupt_lines(b"\n".join(lines) + b"\n", 0.3, np.random.default_rng(0))
    after = text.split(b"\n")[:-1]
    assert len(after) == 100
    assert [i for i in range(100) if after[i] != lines[i]] == np.flatnonzero(corrupt).tolist()


def test_rows_lie_in_the_day_in_time_order(rows: np.ndarray) -> None:
    time = column(rows, "time").astype(np.int64)
    start = np.datetime64("2026-01-05", "ms").astype(np.int64)
    assert (np.diff(time) >= 0).all() and time[0] >= start and time[-1] < start + DAY_MS
    hours = np.bincount((time - start) // 3_600_000, minlength=24)
    assert hours.min() > 0 and hours.max() > 2 * hours.min()


def test_clicks_are_drawn_from_the_written_probability(rows: np.ndarray) -> None:
    p, clicked = column(rows, "true_probability").astype(float), column(rows, "clicked").astype(int)
    assert set(clicked.tolist()) == {0, 1}
    for low, high in zip([0.0, 0.03, 0.06, 0.1, 0.2], [0.03, 0.06, 0.1, 0.2, 1.0], strict=True):
        inside = (p >= low) & (p < high)
        error = np.sqrt((p[inside] * (1 - p[inside])).sum()) / inside.sum()
        assert abs(clicked[inside].mean() - p[inside].mean()) < 4 * error


@pytest.mark.parametrize("seed", [7, 1, 2])
def test_click_rate_and_best_attainable_auc_lie_in_their_bands(
    seed: int, catalog: dict[str, DatasetSpec], tmp_path: Path
) -> None:
    spec = simulated(catalog, seed=seed, impressions_per_day=50_000, malformed_rate=0.0)
    for day in ("2026-01-01", "2026-01-24"):
        with write_day(spec, day, tmp_path / str(seed)).path.open(newline="") as file:
            rows = np.array(list(csv.reader(file))[1:])
        clicked = column(rows, "clicked").astype(int)
        assert 0.05 < clicked.mean() < 0.15
        assert 0.75 < roc_auc_score(clicked, column(rows, "true_probability").astype(float)) < 0.80


def test_users_and_items_are_zipf_and_some_values_are_missing(rows: np.ndarray) -> None:
    for name in ("user_id", "item_id"):
        counts = np.sort(np.unique(column(rows, name), return_counts=True)[1])[::-1]
        assert counts[: len(counts) // 10].sum() > 0.3 * counts.sum()
        assert counts[0] < 0.1 * counts.sum()
    for name in ("category", "country", "device", "user_age", "price", "tags"):
        assert 0.001 < (column(rows, name) == "").mean() < 0.5
    assert not (column(rows, "user_id") == "").any()


def test_items_are_born_and_die_every_day() -> None:
    world = World.of(7)
    alive = [set(Items.alive_on(world, 7, 1_000, day).id.tolist()) for day in range(20_000, 20_020)]
    for today, tomorrow in pairwise(alive):
        assert len(tomorrow - today) > 50 and len(today - tomorrow) > 50
        assert abs(len(today) - 1_000) < 100
    assert not alive[0] & alive[-1]


def test_an_item_keeps_its_nature_while_it_lives() -> None:
    world = World.of(7)
    today, tomorrow = (Items.alive_on(world, 7, 1_000, day) for day in (20_000, 20_001))
    both, at, then = np.intersect1d(today.id, tomorrow.id, return_indices=True)
    assert len(both) > 500
    assert np.array_equal(today.factors[at], tomorrow.factors[then]) and np.array_equal(today.tags[at], tomorrow.tags[then])


def test_a_spec_of_another_shape_is_refused(catalog: dict[str, DatasetSpec], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="criteo: simulation"):
        write_day(catalog["criteo"].log, "2014-01-01", tmp_path)
    spec = catalog["synthetic"].log
    seconds = spec.model_copy(update={"time": spec.time.model_copy(update={"unit": "s"})})
    with pytest.raises(ValueError, match=r"time\.unit"):
        write_day(seconds, "2026-01-01", tmp_path)
