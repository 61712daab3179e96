"""Slices are a live table on a terminal, and lines elsewhere."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

from rich.console import Console

from ml.sync.folder import SyncFolder
from ml.sync.receiver import Receiver
from orchestration.slice_table import ROWS, SliceTable, line_of, slices_shown

COLUMNS = (("until", 16), ("slice", 5), ("AUC", 7))


def test_lines_have_the_widths_of_the_columns(tmp_path: Path) -> None:
    out = StringIO()
    with slices_shown(Console(file=out, width=80), COLUMNS, "made", Receiver(SyncFolder.at(tmp_path), "made")) as show:
        show(["00:01", "1", "0.7000"], 64, 10, 1000)
    assert out.getvalue().splitlines() == [line_of(COLUMNS, ["until", "slice", "AUC"]), f"{'00:01':16} {1:>5} {'0.7000':>7}"]


def test_a_terminal_has_a_table_with_the_last_slices_and_a_summary(tmp_path: Path) -> None:
    out = StringIO()
    console = Console(file=out, width=120, height=60, force_terminal=True)
    with slices_shown(console, COLUMNS, "made/dlrm", Receiver(SyncFolder.at(tmp_path), "made")) as show:
        for number in range(ROWS + 3):
            show(["00:01", f"n{number}n", "0.7000"], 64, 10, 1000)
    last = out.getvalue()[out.getvalue().rindex("made/dlrm") :]
    assert "n2n" not in last and all(f"n{number}n" in last for number in range(3, ROWS + 3))
    assert f"{64 * (ROWS + 3):,} events" in last and "230 rows" in last and "receiver at version –" in last


def test_events_a_second_are_of_the_last_seconds(tmp_path: Path) -> None:
    now = [0.0]
    table = SliceTable(COLUMNS, "made", Receiver(SyncFolder.at(tmp_path), "made"), clock=lambda: now[0])
    for second in (10.0, 20.0, 45.0):
        now[0] = second
        table.add(["", "", ""], 300, 0, 0)
    assert table.events_per_second == 600 / 30
