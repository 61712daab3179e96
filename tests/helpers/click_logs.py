"""Small logs of clicks, their entries, and the only finding of a preflight."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ml.catalog.spec import DatasetSpec
from ml.preflight.finding import Finding

START = datetime(2024, 5, 1, tzinfo=UTC)


def clicks(**changes: Any) -> DatasetSpec:
    entry: dict[str, Any] = {
        "name": "clicks",
        "description": "Clicks.",
        "source": {"files": "log.csv", "format": "csv", "columns": {"time": "int", "item": "string", "clicked": "int"}},
        "time": {"column": "time", "unit": "s"},
        "partitions": {"start": "2024-05-01", "end": "2024-05-10"},
        "label": {"column": "clicked"},
        "sparse": ["item"],
    }
    return DatasetSpec.model_validate(entry | changes)


def write_clicks(folder: Path, days: int = 10, rows: int = 200, unit: int = 1, start: datetime = START) -> Path:
    lines = []
    for day in range(days):
        begin = start + timedelta(days=day)
        lines += [f"{int(begin.timestamp() + 86_400 * i / rows) * unit},i{i % 37},{int(i % 5 == 0)}\n" for i in range(rows)]
    path = folder / "log.csv"
    path.write_text("".join(lines))
    return path


def only(findings: list[Finding]) -> Finding:
    assert len(findings) == 1, "\n".join(map(str, findings))
    return findings[0]
