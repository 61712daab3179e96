"""The weekly tuning serves the day that has just ended, also of a log without an end."""

from __future__ import annotations

from datetime import date, datetime

import dagster as dg
import pytest

from ml.catalog.spec import DatasetSpec
from orchestration.definitions import build_defs


@pytest.mark.parametrize(("end", "tuned"), [(None, True), (date(2026, 3, 1), True), (date(2026, 2, 1), False)])
def test_sunday_is_tuned_on_monday(catalog: dict[str, DatasetSpec], end: date | None, tuned: bool) -> None:
    spec = catalog["synthetic"]
    partitions = spec.partitions.model_copy(update={"start": date(2026, 1, 1), "end": end})
    definitions = build_defs([spec.model_copy(update={"partitions": partitions})])
    schedule = definitions.resolve_schedule_def("synthetic_tuning_schedule")
    monday = datetime(2026, 3, 2, 0, 10, tzinfo=spec.zone)
    with dg.build_schedule_context(scheduled_execution_time=monday) as context:
        result = schedule(context)
    assert (result.partition_key if isinstance(result, dg.RunRequest) else None) == ("2026-03-01" if tuned else None)
