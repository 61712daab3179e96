"""What a preflight says of a fault, what it reads to find it, and that correct entries of real and simulated logs pass."""

import gzip
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ml.catalog.spec import DatasetSpec, Simulation
from ml.logs.synthetic.simulate import write_day
from ml.preflight import sample
from ml.preflight.check import preflight
from ml.preflight.finding import Finding, errors, exceeds, refusal
from tests.helpers import shaped_logs
from tests.helpers.click_logs import START, clicks, only, write_clicks
from tests.helpers.small_logs import write_log


def test_a_wrong_unit_names_the_times_the_partitions_and_the_unit_that_fits(tmp_path: Path) -> None:
    write_clicks(tmp_path, unit=1000)
    found = only(preflight(clicks(), tmp_path))
    assert (found.severity, found.key) == ("error", "time.unit")
    assert "year 5" in found.found and "partitions run from 2024-05-01 to 2024-05-10" in found.found
    assert found.change == "set `unit: ms`"


def test_a_wrong_year_names_the_days_of_the_log(tmp_path: Path) -> None:
    write_clicks(tmp_path)
    found = only(preflight(clicks(partitions={"start": "2023-05-01", "end": "2023-05-10"}), tmp_path))
    assert (found.severity, found.key) == ("error", "partitions")
    assert "2024-05-01" in found.change and "2024-05-10" in found.change


def test_a_wrong_unit_and_year_names_the_unit_and_the_days(tmp_path: Path) -> None:
    write_clicks(tmp_path, unit=1000)
    found = only(preflight(clicks(partitions={"start": "2021-05-01", "end": "2021-05-10"}), tmp_path))
    assert found.key == "time.unit" and "unit: ms" in found.change and "from 2024-05-01 to 2024-05-10" in found.change


@pytest.mark.parametrize("days", [("2024-05-04", "2024-05-05"), ("2024-05-01", "2024-05-02"), ("2024-05-08", "2024-05-10")])
def test_a_stretch_of_a_larger_log_is_correct(days: tuple[str, str], tmp_path: Path) -> None:
    write_clicks(tmp_path, days=10, rows=2000)
    assert preflight(clicks(partitions={"start": days[0], "end": days[1]}), tmp_path) == []


def test_a_stretch_between_two_pieces_of_the_sample_is_correct(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "CHUNKS", 3)
    monkeypatch.setattr(sample, "CHUNK_BYTES", 2000)
    write_clicks(tmp_path, days=10)
    assert preflight(clicks(partitions={"start": "2024-05-03", "end": "2024-05-03"}), tmp_path) == []


def test_days_before_a_log_begins_are_warned_of(tmp_path: Path) -> None:
    write_clicks(tmp_path, days=3)
    found = only(preflight(clicks(partitions={"start": "2024-04-20", "end": "2024-05-03"}), tmp_path))
    assert (found.severity, found.key, found.change) == ("warning", "partitions.start", "set `start: 2024-05-01`")


def test_days_after_a_log_ends_are_warned_of(tmp_path: Path) -> None:
    write_clicks(tmp_path)
    found = only(preflight(clicks(partitions={"start": "2024-05-01", "end": "2025-05-10"}), tmp_path))
    assert (found.severity, found.key, found.change) == ("warning", "partitions.end", "set `end: 2024-05-10`")
    assert "the days up to 2025-05-10 have none" in found.found


def test_a_log_that_has_not_ended_yet_is_correct(tmp_path: Path) -> None:
    write_clicks(tmp_path)
    assert preflight(clicks(partitions={"start": "2024-05-01", "end": "2110-05-10"}), tmp_path) == []


@pytest.mark.parametrize(("start", "end"), [("2024-04-01", "2024-05-03"), ("2024-05-01", "2024-06-03")])
def test_skipped_days_before_and_after_all_files_are_warned_of(start: str, end: str, tmp_path: Path) -> None:
    for day in (1, 3):
        stamp = int((START + timedelta(days=day - 1)).timestamp())
        (tmp_path / f"2024050{day}.csv").write_text("".join(f"{stamp + i},i{i % 7},{i % 2}\n" for i in range(50)))
    source = clicks().source.model_dump() | {"files": "%Y%m%d.csv"}

    def found(first: str, last: str) -> list[Finding]:
        partitions = {"start": first, "end": last, "missing_days": "skip"}
        return preflight(clicks(source=source, partitions=partitions), tmp_path)

    key = "partitions.start" if start < "2024-05-01" else "partitions.end"
    assert only(found(start, end)).key == key
    assert found("2024-05-01", "2024-05-03") == []


def test_noise_is_not_a_finding(tmp_path: Path) -> None:
    path = write_clicks(tmp_path, days=2, rows=26)
    lines = path.read_text().splitlines(keepends=True)
    lines[10] = "1,2\n"  # one line of 52 is 2 %
    path.write_text("".join(lines))
    assert preflight(clicks(partitions={"start": "2024-05-01", "end": "2024-05-02"}), tmp_path) == []


def write_text(folder: Path, text: str | bytes) -> None:
    (folder / "log.csv").write_bytes(text if isinstance(text, bytes) else text.encode())


def of_format(kind: str) -> DatasetSpec:
    columns = {"time": "int", "item": "string", "clicked": "int"}
    return clicks(source={"files": "log.*", "format": kind, "columns": columns})


def test_carriage_returns_alone_do_not_end_lines(tmp_path: Path) -> None:
    path = write_clicks(tmp_path)
    path.write_text(path.read_text().replace("\n", "\r"))
    found = only(preflight(clicks(), tmp_path))
    assert (found.severity, found.key) == ("error", "source.files")
    assert "carriage return" in found.found and "LF or CR LF" in found.change
    source = clicks().source.model_copy(update={"header": True})
    found = only(preflight(clicks(source=source.model_dump()), tmp_path))
    assert "log.csv: the header cannot be read" in found.found and "LF or CR LF" in found.change


@pytest.mark.parametrize("held", [pa.date32(), pa.list_(pa.string()), pa.struct({"a": pa.int64()})])
def test_a_parquet_type_that_cannot_be_read_is_a_finding(held: pa.DataType, tmp_path: Path) -> None:
    table = pa.table({"time": [int(START.timestamp())], "item": pa.nulls(1, held), "clicked": [1]})
    pq.write_table(table, tmp_path / "log.parquet")
    spec = of_format("parquet")
    if held == pa.date32():
        spec.source.columns["item"] = "float"
    found = only(preflight(spec, tmp_path))
    assert (found.severity, found.key) == ("error", "source.columns.item")
    assert "log.parquet: column 'item' is" in found.found
    assert ("write it as" if held == pa.date32() else "source.paths") in found.change


def test_a_damaged_parquet_file_is_a_finding(tmp_path: Path) -> None:
    times = [int(START.timestamp()) + i for i in range(2000)]
    table = pa.table({"time": times, "item": [f"i{i % 37}" for i in times], "clicked": [i % 2 for i in times]})
    pq.write_table(table, tmp_path / "log.parquet")
    whole = (tmp_path / "log.parquet").read_bytes()
    (tmp_path / "log.parquet").write_bytes(whole[:40] + bytes(400) + whole[440:])
    found = only(preflight(of_format("parquet"), tmp_path))
    assert (found.severity, found.key, found.change) == ("error", "source.files", "copy the file again")
    assert found.found.startswith("log.parquet: damaged file: ")
    (tmp_path / "log.parquet").write_bytes(whole[:-9])
    assert "copy the file again" in only(preflight(of_format("parquet"), tmp_path)).change


def test_a_parquet_file_without_rows_is_a_finding(tmp_path: Path) -> None:
    empty = pa.table({"time": pa.array([], "int64"), "item": pa.array([], "string"), "clicked": pa.array([], "int64")})
    pq.write_table(empty, tmp_path / "log.parquet")
    assert "no rows" in only(preflight(of_format("parquet"), tmp_path)).found


def test_files_of_days_without_rows_are_correct(tmp_path: Path) -> None:
    for day in range(1, 31):
        (tmp_path / f"2024-05-{day:02}.csv").write_text("")
    stamp = int(datetime(2024, 5, 9, 7, tzinfo=UTC).timestamp())
    (tmp_path / "2024-05-09.csv").write_text("".join(f"{stamp + i},i{i},{i % 2}\n" for i in range(30)))
    source = clicks().source.model_dump() | {"files": "%Y-%m-%d.csv"}
    assert preflight(clicks(source=source, partitions={"start": "2024-05-01", "end": "2024-05-30"}), tmp_path) == []


def test_a_name_that_occurs_twice_is_not_taken_for_quotes(tmp_path: Path) -> None:
    path = write_clicks(tmp_path)
    path.write_text("time,item,clicked,item\n" + path.read_text().replace("\n", ",7\n"))
    source = clicks().source.model_dump() | {"header": True}
    found = only(preflight(clicks(source=source), tmp_path))
    assert found.key == "source.columns" and "'item' more than once" in found.found


def test_names_in_another_case_are_renamed(tmp_path: Path) -> None:
    path = write_clicks(tmp_path)
    path.write_text("TIME,Item,CLICKED\n" + path.read_text())
    found = only(preflight(clicks(source=clicks().source.model_dump() | {"header": True}), tmp_path))
    assert "rename: {TIME: time, Item: item, CLICKED: clicked}" in found.change


def json_line(value: str, clicked: str = "1") -> str:
    return f'{{"time": {int(START.timestamp())}, "item": "a", "price": {value}, "clicked": {clicked}}}\n'


@pytest.mark.parametrize(
    ("text", "key", "change"),
    [
        (json_line("1.5", '"yes"'), "source.columns.clicked", "and list the values that are positive, such as `label.is"),
        (json_line('"1,5"'), "source.columns.price", "write its values as numbers"),
        (json_line("NaN"), "source.columns.price", "write null for missing values, not 'nan'"),
        (json_line("1.5").replace('"a"', '["a", "b"]'), "source.columns.item", "write each value as one text"),
        (f"[{json_line('1.5').strip()}]", "source.format", "one object a line"),
    ],
)
def test_a_change_leads_out(text: str, key: str, change: str, tmp_path: Path) -> None:
    """Following it must not end in another refusal: a number of a feature, for example, cannot be declared as text."""
    write_text(tmp_path, text * 30)
    columns = {"time": "int", "item": "string", "price": "float", "clicked": "int"}
    source = {"files": "log.csv", "format": "jsonl", "columns": columns}
    found = only(preflight(clicks(source=source, dense=[{"name": "price"}]), tmp_path))
    assert (found.severity, found.key) == ("error", key)
    assert change in found.change


@pytest.mark.parametrize(
    ("kind", "words", "label", "key", "change"),
    [
        ("string", ["view", "click", "view"], {}, "label.column", "such as `is: [click]`"),
        ("int", ["-1", "1"], {}, "label.column", "set `is: [1]` and `is_not: [-1]`"),
        ("string", ["view", "click", "buy"], {"is": ["buy"], "is_not": ["view"]}, "label.is_not", "list all negative values"),
        ("string", ["view", "skip"], {"is": ["buy"]}, "label.is", "list the values that are positive"),
    ],
)
def test_labels_that_do_not_fit_lead_to_their_values(
    kind: str, words: list[str], label: dict[str, Any], key: str, change: str, tmp_path: Path
) -> None:
    start = int(START.timestamp())
    write_text(tmp_path, "".join(f"{start + n * 8640},i{n % 7},{words[n % len(words)]}\n" for n in range(100)))
    source = clicks().source.model_dump() | {"columns": {"time": "int", "item": "string", "clicked": kind}}
    found = only(preflight(clicks(source=source, label={"column": "clicked", **label}), tmp_path))
    assert found.key == key and change in found.change and words[0] in found.found


def test_times_that_are_text_name_the_unit_too(tmp_path: Path) -> None:
    write_text(tmp_path, "2024-05-02T10:00:00Z,i1,1\n" * 30)
    found = only(preflight(clicks(), tmp_path))
    assert "declare `time: string`, and set `time.unit: iso8601`" in found.change


def test_errors_come_first_in_a_refusal() -> None:
    findings = [Finding("warning", "user", "one value", "use another"), Finding("error", "time.unit", "1970", "set `unit: ms`")]
    text = refusal("clicks", findings)
    assert text.index("error: time.unit") < text.index("warning: user") and "clicks" in text
    assert errors(findings) == findings[1:]


def test_a_share_exceeds_a_band_only_beyond_chance() -> None:
    band = clicks().expectations.quarantine_rate
    assert not exceeds(1, 51, band) and not exceeds(3, 300, band) and not exceeds(0, 0, band)
    assert exceeds(6, 51, band) and exceeds(300, 10_000, band)
    assert not exceeds(105, 10_000, band)


def test_only_a_sample_of_a_large_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_clicks(tmp_path, days=10, rows=2000)
    block = path.read_bytes()
    with path.open("wb") as file:
        for _ in range(150):
            file.write(block)
    assert path.stat().st_size > 40 << 20
    taken = 0
    read = sample.pieces

    def counted(*arguments: Any):
        nonlocal taken
        for piece in read(*arguments):
            taken += len(piece)
            yield piece

    monkeypatch.setattr(sample, "pieces", counted)
    assert preflight(clicks(), tmp_path) == []
    assert taken < 20 << 20


def test_a_large_packed_file_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "UNPACKED", 1 << 17)
    path = write_clicks(tmp_path, days=10, rows=4000)
    (tmp_path / "log.csv.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    source = clicks().source.model_dump() | {"files": "log.csv.gz"}
    assert preflight(clicks(source=source), tmp_path) == []
    late = {"start": "2025-05-01", "end": "2025-05-10"}  # the log may reach these days: its end is not known
    assert only(preflight(clicks(source=source, partitions=late), tmp_path)).severity == "warning"
    early = {"start": "2023-05-01", "end": "2023-05-10"}
    assert only(preflight(clicks(source=source, partitions=early), tmp_path)).severity == "error"


def test_a_join_that_matches_few_rows_says_how_many(tmp_path: Path) -> None:
    entry = write_log("ratings", tmp_path, 0)
    path = tmp_path / "ml.item"
    head, *lines = path.read_text().splitlines()
    path.write_text("\n".join([head, *lines[:9]]) + "\n")  # 3 % of the items
    found = only(preflight(DatasetSpec.model_validate(entry), tmp_path))
    assert (found.severity, found.key) == ("error", "join.0.log_key") and "of the sampled rows match" in found.found
    path.write_text("\n".join([head, *lines[: len(lines) // 3]]) + "\n")
    assert only(preflight(DatasetSpec.model_validate(entry), tmp_path)).severity == "warning"
    entry["expectations"] = {"join_match": {"min": 0.6}}
    assert only(preflight(DatasetSpec.model_validate(entry), tmp_path)).severity == "error"


def test_a_join_on_ids_of_something_else_is_noticed_by_its_name(tmp_path: Path) -> None:
    """Users 1 to 199 are items too, so every row matches."""
    entry = write_log("ratings", tmp_path, 0)
    rows = [line.split("\t") for line in (tmp_path / "u.data").read_text().splitlines()]
    (tmp_path / "u.data").write_text("".join("\t".join([u, str(int(i) - 4999), r, t]) + "\n" for u, i, r, t in rows))
    head, *items = (tmp_path / "ml.item").read_text().splitlines()
    numbered = [f"{int(item.split('	')[0]) - 4999}\t{item.split('	', 1)[1]}" for item in items]
    (tmp_path / "ml.item").write_text("\n".join([head, *numbered]) + "\n")
    assert preflight(DatasetSpec.model_validate(entry), tmp_path) == []
    entry["join"][0]["log_key"] = "user"
    found = only(preflight(DatasetSpec.model_validate(entry), tmp_path))
    assert (found.severity, found.key, found.change) == ("warning", "join.0.log_key", "set `log_key: item`")


def test_malformed_lines_of_a_side_table_are_findings(tmp_path: Path) -> None:
    entry = write_log("shop", tmp_path, 0)
    path = tmp_path / "products.csv"
    path.write_text(path.read_text().replace("79", "x"))
    found = only(preflight(DatasetSpec.model_validate(entry), tmp_path))
    assert found.key == "join.0.source.columns.id" and "products.csv, line" in found.found


def test_a_simulated_log_passes_before_and_after_it_is_written(catalog: dict[str, DatasetSpec], tmp_path: Path) -> None:
    small = Simulation(impressions_per_day=3000, users=200, items=80)
    spec = catalog["synthetic"].model_copy(update={"simulation": small})
    assert preflight(spec, tmp_path) == []
    for day in ("2026-01-01", "2026-01-02"):
        write_day(spec.log, day, tmp_path)
    assert preflight(spec, tmp_path) == []


@pytest.mark.parametrize(("dataset", "folder"), [("criteo", "criteo"), ("globo", "globo"), ("movielens", "movielens-100k")])
def test_entries_of_real_logs_have_no_findings(
    dataset: str, folder: str, catalog: dict[str, DatasetSpec], real_logs: Path
) -> None:
    assert preflight(catalog[dataset], real_logs / folder) == []


def test_ids_in_parquet_doubles_are_to_be_integers(tmp_path: Path) -> None:
    """An id that is read as a float would differ from the id of the same number on a day of integers."""
    times = [int(START.timestamp()) + 3600 * n for n in range(240)]

    def found_for(ids: list[float]) -> Finding:
        columns = {"time": times, "item": pa.array(ids, pa.float64()), "clicked": [n % 2 for n in range(240)]}
        pq.write_table(pa.table(columns), tmp_path / "log.parquet")
        kinds = {"time": "int", "item": "string", "clicked": "int"}
        return only(preflight(clicks(source={"files": "log.parquet", "format": "parquet", "columns": kinds}), tmp_path))

    assert found_for([float(n % 37) for n in range(240)]).change == "declare `item: int`"
    assert found_for([n % 37 + 0.5 for n in range(240)]).change == "declare `item: float`"
    inexact = found_for([2.0**53 + 2 * n for n in range(240)])
    assert inexact.severity == "error" and "inexact integer" in inexact.found
    assert inexact.change.startswith("write them as integers or as text")


def test_lists_of_objects_are_named_before_a_run(tmp_path: Path) -> None:
    rows = [
        {"time": shaped_logs.START + n, "shown": [{"item": "a", "clicked": 0}, {"item": "b", "clicked": 1}]} for n in range(30)
    ]
    folder = shaped_logs.in_folder(tmp_path, "log.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    shape = {"explode": {"shown": ["item", "clicked"]}, "part_separator": "-"}
    spec = shaped_logs.entry({"time": "int", "item": "string", "clicked": "int"}, "jsonl", ["item"], shape)
    [finding] = preflight(spec, folder)
    assert finding.severity == "error" and finding.key == "source.paths"
    assert finding.change.startswith(
        "set `paths: {item: shown.item, clicked: shown.clicked}` and `explode: {shown: [item, clicked]}`"
    )
