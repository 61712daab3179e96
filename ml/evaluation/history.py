"""History of a dataset's reports: the part of each report that later reports and the promotion check read."""

from __future__ import annotations

import json
from typing import Any

from upath import UPath

from ml.lake import Lake
from ml.stages import EVALUATION_REPORTS

ENTRY = "history_entry.json"
"""File of a report with its part of the history; much smaller than `metrics.json`."""


class DamagedReport(ValueError):
    """The history entry of a report is not what was written; the message names the file."""


def history_of(lake: Lake, dataset: str, until: str | None = None) -> list[dict[str, Any]]:
    """Read the history entry of every report.

    They are read each time, because an earlier day can be reported again, or after later days.

    Args:
        lake: Where reports are stored.
        dataset: Name of the dataset.
        until: The first day to leave out; by default none.

    Returns:
        The entries in the order of days.

    Raises:
        DamagedReport: An entry is not what was written.
        OSError: An entry is missing or cannot be read.
    """
    days = [day for day in lake.days(EVALUATION_REPORTS, dataset) if until is None or day < until]
    return [_entry(lake.partition(EVALUATION_REPORTS, dataset, day) / ENTRY) for day in days]


def _entry(path: UPath) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:  # not UTF-8, or not JSON
        raise DamagedReport(f"{path} cannot be read ({error}); materialise the report of the day again") from error
    if not isinstance(found, dict) or not {"day", "models"} <= found.keys():
        raise DamagedReport(f"{path}: expected JSON with `day` and `models`; materialise the report of the day again")
    return found
