import pytest
from pydantic import ValidationError

from ml.catalog.log_spec import LogSpec
from ml.catalog.reading import Time
from ml.catalog.time_format import compile_format


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("%m/%Y", "does not give a day"),
        ("%H:%M", "does not give a day"),
        ("%Y-%m-%d %Q", "unknown code '%Q'"),
        ("%Y-%m-%d %", "unknown code '%'"),
        ("%Y-%m-%d %m", "%m: a part of the time occurs more than once"),
        ("%Y %b %B %d", "%b and %B"),
        ("%Y-%m-%d %I:%M", "needs %p"),
        ("%Y-%m-%d %p", "needs %I"),
        ("%Y-%m-%d %H %I %p", "%H and %I"),
    ],
)
def test_wrong_formats_are_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        compile_format(text)
    with pytest.raises(ValidationError, match=reason):
        Time(column="at", format=text)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"by_position": True, "format": "%Y-%m-%d"}, "without by_position"),
        ({"column": "at", "format": "%Y-%m-%d", "unit": "ms"}, "without unit"),
        ({"column": "at", "clock": "hour"}, "needs `format`"),
        ({"column": "at", "clock": "at", "format": "%Y-%m-%d"}, "another column"),
    ],
)
def test_keys_that_do_not_fit_together_are_refused(keys: dict[str, object], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        Time.model_validate(keys)


@pytest.mark.parametrize("column", ["date", "clock"])
def test_a_column_of_numbers_has_no_format(column: str) -> None:
    entry = {
        "dataset": "shop",
        "source": {"files": "*.csv", "format": "csv", "columns": {"date": "string", "clock": "string"}},
        "time": {"column": "date", "clock": "clock", "format": "%Y-%m-%d %H:%M"},
        "partitions": {"start": "2026-03-01"},
    }
    assert LogSpec.model_validate(entry).time.columns == ("date", "clock")
    entry["source"]["columns"][column] = "int"  # type: ignore[index]
    with pytest.raises(ValidationError, match=f"'{column}' is int; time.format needs string"):
        LogSpec.model_validate(entry)
