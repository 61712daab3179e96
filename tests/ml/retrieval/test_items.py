"""Live items with their columns, as of the end of a day."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from ml.features.hashing import hash_values
from ml.features.point_in_time.negatives import Events
from ml.lake import Lake
from ml.parquet import write_table
from ml.retrieval.items import described, item_columns, read_catalogue
from tests.helpers.kiosk_days import kiosk

HOUR = 3_600_000_000
MIDNIGHT = 1_767_225_600_000_000  # 2026-01-01 UTC


def put(lake: Lake, day: str, rows: pa.Table) -> None:
    with lake.write("raw_logs", "kiosk", day) as folder:
        write_table(rows, folder / "rows" / "part-00000.parquet")
        lake.write_manifest(folder, {})


def log(hours: list[float], items: list[int | None]) -> pa.Table:
    return pa.table(
        {
            "event_time": pa.array([MIDNIGHT + round(hour * HOUR) for hour in hours], pa.int64()),
            "user": pa.array(range(len(hours)), pa.int64()),
            "item": pa.array(items, pa.int64()),
            "place": ["here"] * len(hours),
        }
    )


def test_items_of_the_last_hours_are_live_with_their_columns(tmp_path: Path) -> None:
    lake = Lake.at(tmp_path)
    put(lake, "2026-01-01", log([1, 20.9, 21.5, 23.6, 23.7], [9, 8, 7, 6, 7]))
    put(lake, "2026-01-02", log([24.5, 25.0], [5, None]))
    spec, end = kiosk(), MIDNIGHT + 24 * HOUR
    live = read_catalogue(spec, "2026-01-01", lake).live(end)
    assert live is not None
    held = Events.of(log([21.5, 23.6, 23.7], [7, 6, 7]), "user", "item")
    table = described(spec, live, (), end, held)
    assert table.column_names == item_columns(spec) == ["item", "clicks_1h"]
    assert dict(zip(table["item"].to_pylist(), table["clicks_1h"].to_pylist(), strict=True)) == {6: 1, 7: 1}
    assert live.ids.tolist() == sorted(hash_values("item", pa.array([6, 7])).tolist())


def test_a_window_of_more_than_a_day_reaches_back_before_midnight(tmp_path: Path) -> None:
    lake = Lake.at(tmp_path)
    put(lake, "2026-01-01", log([1, 20.9, 23.7], [9, 8, 7]))
    put(lake, "2026-01-02", log([24.5, 25.0], [5, None]))
    spec = kiosk(ranking={"live_hours": 30})
    live = read_catalogue(spec, "2026-01-02", lake).live(MIDNIGHT + 48 * HOUR)
    assert live is not None  # rows without an item are left out
    assert live.ids.tolist() == sorted(hash_values("item", pa.array([5, 7, 8])).tolist())
