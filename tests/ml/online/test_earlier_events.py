"""Features of a followed day depend on the days before it, whether the lake has them or only the stream had."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from upath import UPath

from ml.features.event_days import write_event_day
from ml.lake import Lake
from ml.online.earlier_events import TAKEN, delete_unneeded_rows, events_before, find_earlier, known_before
from ml.parquet import write_table
from tests.helpers.arriving import COUNTED, rows_of, run, write_files
from tests.helpers.table_days import DAYS, day_rows, table_spec, write_rows
from tests.ml.online.test_arriving import published, stream_of


@pytest.mark.parametrize("negatives", [False, True])
def test_events_are_the_same_from_the_lake_and_from_the_stream(negatives: bool, tmp_path: Path) -> None:
    label = {"negatives": {"per_positive": 2, "window_hours": 30}} if negatives else {"column": "click"}
    spec, lake, taken = table_spec(label=label), Lake.at(tmp_path / "lake"), UPath(tmp_path / "taken")
    found = []
    for number, day in enumerate(DAYS[:2]):
        rows = day_rows(number, 200)
        for part, start in enumerate((0, 120)):
            write_table(rows.slice(start, 120), taken / day / f"{part:06d}.parquet")
    for step in range(3):
        earlier = find_earlier(spec, DAYS[2], lake, taken)
        assert earlier[TAKEN] == list(DAYS[step:2])
        found.append((events_before(spec, earlier, lake, taken), known_before(spec, DAYS[2], earlier, lake, taken).rows))
        if step < 2:
            write_rows(lake, spec, DAYS[step], day_rows(step, 200))
            write_event_day(spec, DAYS[step], lake)
    events, known = found[0]
    assert len(known) > 200 and (events is not None and len(events) == 400) == negatives
    assert all(others[0] == events and others[1].equals(known) for others in found[1:])
    delete_unneeded_rows(spec, DAYS[2], find_earlier(spec, DAYS[2], lake, taken), taken)
    assert not list(taken.iterdir())


def write_lake(folder: Path) -> None:
    """The first day, as the daily assets make it."""
    lake = Lake.at(folder / "lake")
    write_rows(lake, COUNTED, "2026-01-01", pa.concat_tables([rows_of(0, 64 * number, 64) for number in range(2)]))
    write_event_day(COUNTED, "2026-01-01", lake)


def test_a_day_knows_the_events_of_the_day_before_whenever_the_lake_has_them(tmp_path: Path) -> None:
    names = ("never", "at midnight", "within the day")
    for folder in map(tmp_path.joinpath, names):
        write_files(stream_of(folder), 0, 2)
        assert len(run(folder, 100, spec=COUNTED)) == 2
        write_files(stream_of(folder), 1, 4)
        if folder.name == "at midnight":
            write_lake(folder)
        assert len(run(folder, 2, spec=COUNTED)) == 2
        if folder.name == "within the day":
            write_lake(folder)
        assert len(run(folder, 100, spec=COUNTED)) == 2
    never, *others = (published(tmp_path / name) for name in names)
    assert all(other == never for other in others)
    kept = {name: (stream_of(tmp_path / name).parent / "taken/dlrm/2026-01-01").exists() for name in names}
    assert kept == {"never": True, "at midnight": False, "within the day": True}
