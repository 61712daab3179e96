"""History of a dataset's reports: the part of each report that later reports and the promotion check read."""

from __future__ import annotations

import json
from typing import Any

from ml.lake import Lake
from ml.stages import EVALUATION_REPORTS

ENTRY = "history_entry.json"
"""File of a report with its part of the history; much smaller than `metrics.json`."""


def history_of(lake: Lake, dataset: str, until: str | None = None) -> list[dict[str, Any]]:
    """Read the history entry of every report.

    They are read each time, because an earlier day can be reported again, or after later days.

    Args:
        lake: Where reports are stored.
        dataset: Name of the dataset.
        until: The first day to leave out; by default none.

    Returns:
        The entries in the order of days.
    """
    days = [day for day in lake.days(EVALUATION_REPORTS, dataset) if until is None or day < until]
    return [json.loads((lake.partition(EVALUATION_REPORTS, dataset, day) / ENTRY).read_text()) for day in days]
