"""Lists of objects, whose elements become rows: in JSON and Parquet, with the same features in every way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ml.catalog.spec import DatasetSpec
from ml.compute.runner import LocalRunner
from ml.features.hashing import hash_values
from ml.lake import Lake
from ml.logs.ingest import ingest_day
from ml.logs.quarantine import LENGTHS, bad_element, bad_value
from ml.logs.text.layout import WrongFile
from ml.preflight.check import preflight
from ml.schema import LABEL
from tests.helpers.feature_ways import features_in_every_way
from tests.helpers.shaped_logs import DAY, START, entry, refused, write_rows

KINDS = {"time": "int", "user": "string", "item": "int", "brand": "string", "clicked": "bool", "price": "float", "id": "string"}
PATHS = {"item": "items.id", "brand": "items.product.brand", "clicked": "items.clicked", "price": "items.price"}
ITEMS: list[list[dict[str, Any] | None] | None] = [
    [
        {"id": 5, "clicked": True, "price": 1.5, "product": {"brand": "b1"}},
        {"id": 6, "clicked": False, "price": None, "product": None},
    ],
    [],
    None,
    [{"id": None, "clicked": False, "product": {"brand": None}}],
    [{"id": 7, "clicked": True, "price": 2.0, "product": {"brand": "b2"}}, {"id": 5, "clicked": False}],
]
LINES = [{"time": START + n, "user": f"u{n % 2}", "id": f"line-{n}", "items": items} for n, items in enumerate(ITEMS)]
PRODUCT = pa.struct([("brand", pa.string())])
ELEMENTS = pa.struct([("id", pa.int32()), ("clicked", pa.bool_()), ("price", pa.float64()), ("product", PRODUCT)])


def listed(form: str, **changes: Any) -> DatasetSpec:
    shape = {"paths": PATHS, "explode": {"items": ["item", "brand", "clicked", "price"]}}
    sparse = ["user", "item", "brand", "id", {"name": "dear", "column": "price", "bucketise": [1.6]}]
    return entry(KINDS, form, sparse, shape | changes, user="user", item="item", dense=[{"name": "price"}])


def write(folder: Path, form: str, lines: list[dict[str, Any]], of_list: Any = pa.list_) -> None:
    kinds = {"time": pa.int64(), "user": pa.string(), "id": pa.string(), "items": of_list(ELEMENTS)}
    write_rows(folder, form, lines, pa.schema(list(kinds.items())))


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_each_object_of_a_list_becomes_a_row(form: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    spec, folder = listed(form), tmp_path / "logs"
    write(folder, form, LINES, pa.large_list if form == "parquet" else pa.list_)
    spark = request.getfixturevalue("spark") if form == "jsonl" else None
    rows, features, lake = features_in_every_way(spec, folder, DAY, spark)
    assert rows.column_names == ["event_time", *KINDS]
    assert rows["item"].to_pylist() == [5, 6, None, 7, 5]
    assert rows["brand"].to_pylist() == ["b1", None, None, "b2", None]
    assert rows["price"].to_pylist() == [1.5, None, None, 2.0, None]
    assert rows["id"].to_pylist() == ["line-0", "line-0", "line-3", "line-4", "line-4"]
    assert rows["event_time"].to_pylist() == [(START + n) * 10**6 for n in (0, 0, 3, 4, 4)]
    assert features[LABEL].to_pylist() == [1, 0, 0, 1, 0]
    assert features["item"].to_pylist() == hash_values("item", pa.array([5, 6, None, 7, 5])).tolist()
    assert features["price"].to_pylist() == [1.5, 0, 0, 2.0, 0]
    assert lake.manifest("raw_logs", spec.name, DAY)["reasons"] == {}
    assert preflight(spec, folder) == []


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_lists_within_objects_beside_parallel_lists(form: str, tmp_path: Path) -> None:
    kinds = {"time": "int", "item": "int", "price": "float", "clicked": "int"}
    shape = {"paths": {"shown": "page.items", "item": "page.items.id", "price": "page.items.price"}}
    shape["explode"] = {"shown": ["item", "price"], "clicks": ["clicked"]}  # type: ignore[assignment]
    clicks = [[0, 1], [1], []]
    lines = [
        {"time": START, "page": {"items": [{"id": n, "price": n / 2} for n in range(2)]}, "clicks": one} for one in clicks[:2]
    ]
    lines.append({"time": START, "page": None, "clicks": []})
    folder = write_rows(tmp_path / "logs", form, lines)
    spec = entry(kinds, form, ["item"], shape, dense=[{"name": "price"}])
    rows, _, lake = features_in_every_way(spec, folder, DAY)
    assert rows["item"].to_pylist() == [0, 1] and rows["clicked"].to_pylist() == [0, 1]
    assert lake.manifest("raw_logs", spec.name, DAY)["reasons"] == {LENGTHS: 1}


def test_values_of_objects_are_written_as_declared(tmp_path: Path) -> None:
    items = [{"id": 2**63 + 1, "sku": 17, "n": 9.0, "clicked": 1}, {"id": "5", "sku": " - ", "n": "8.0", "clicked": 0}]
    folder = write_rows(tmp_path / "logs", "jsonl", [{"time": START, "items": items}])
    columns = ["id", "sku", "n", "clicked"]
    kinds = {"time": "int", "id": "int", "sku": "string", "n": "int", "clicked": "int"}
    source = {
        "paths": {name: f"items.{name}" for name in columns},
        "explode": {"items": columns},
        "unsigned": ["id"],
        "decimal_ints": True,
        "trim": True,
        "null_tokens": ["", "-"],
    }
    rows, _, _ = features_in_every_way(entry(kinds, "jsonl", ["id", "sku", "n"], source), folder, DAY)
    assert rows["id"].to_pylist() == [1 - 2**63, 5] and rows["sku"].to_pylist() == ["17", None]
    assert rows["n"].to_pylist() == [9, 8]


def test_lines_with_other_elements_are_quarantined(tmp_path: Path) -> None:
    wrong: dict[str, Any] = {
        bad_element("items"): [7],
        bad_value("list", "items"): {"id": 5},
        bad_value("int", "item"): [{"id": 5, "clicked": True}, {"id": "x"}],
        bad_value("bool", "clicked"): [{"id": 5, "clicked": 2}],
        bad_value("string", "brand"): [{"id": 5, "product": {"brand": [1]}}],
    }
    lines = [*LINES, *({"time": START, "user": "u", "items": items} for items in wrong.values())]
    folder = tmp_path / "logs"
    write(folder, "jsonl", lines)
    rows, _, lake = features_in_every_way(listed("jsonl"), folder, DAY)
    assert len(rows) == 5
    assert lake.manifest("raw_logs", "shown", DAY)["reasons"] == dict.fromkeys(sorted(wrong), 1)


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_keys_that_no_object_has_are_refused(form: str, tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    write(folder, form, LINES)
    spec = listed(form, paths=PATHS | {"brand": "items.product.label"})
    with pytest.raises(WrongFile, match=r"items\.product\.label"):
        features_in_every_way(spec, folder, DAY)
    [finding] = preflight(spec, folder)
    assert finding.key == "source.paths" and "items.product.label" in finding.found and "brand" in finding.found


def test_empty_lists_do_not_say_which_keys_objects_have(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    write(folder, "jsonl", LINES[1:3])
    lake = Lake.at(tmp_path / "lake")
    assert ingest_day(listed("jsonl").log, DAY, str(folder), lake, LocalRunner()).rows == 0
    write(folder, "jsonl", [{"time": START, "user": "u", "id": "a"}])
    with pytest.raises(WrongFile, match=r"no line has the key .*'items\.id'"):
        ingest_day(listed("jsonl").log, DAY, str(folder), lake, LocalRunner())


def test_files_without_such_a_list_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    one = {"time": [START], "user": ["u"], "id": ["a"]}
    pq.write_table(pa.table(one | {"items": [{"id": 5}]}), str(folder / "log.parquet"))
    with pytest.raises(WrongFile, match=r"'items\.id' of column 'item' is within struct.*, not a list"):
        features_in_every_way(listed("parquet"), folder, DAY)
    pq.write_table(pa.table(one | {"items": [[{"id": 5}]], "clicked": [1]}), str(folder / "log.parquet"))
    kinds = {"time": "int", "item": "int", "clicked": "int"}
    spec = entry(kinds, "parquet", ["item"], {"paths": {"item": "items.id"}})
    with pytest.raises(WrongFile, match=r"make rows of the objects of a list with source\.explode"):
        features_in_every_way(spec, folder, DAY)


@pytest.mark.parametrize(
    ("source", "change"),
    [
        ({"paths": {"item": "items.id", "clicked": "items.clicked"}},
         "paths: {item: items.id, clicked: items.clicked}` and `explode: {items: [item, clicked]}`"),
        ({"explode": {"items": ["item", "clicked"]}, "part_separator": "-"},
         "paths: {item: items.<key>, clicked: items.clicked}` and `explode: {items: [item, clicked]}`"),
    ],
)  # fmt: skip
def test_the_preflight_proposes_the_keys(source: dict[str, Any], change: str, tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    write(folder, "jsonl", LINES)
    kinds = {"time": "int", "item": "int", "clicked": "bool"}
    found = preflight(entry(kinds, "jsonl", ["item"], source), folder)
    assert any(change in finding.change for finding in found), found


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"format": "csv", "list_separator": "|"}, "paths: only for jsonl and parquet, but format is csv"),
        ({"paths": PATHS | {"price": "prices.price"}}, "paths.price: 'prices.price' is not within 'items'"),
        ({"paths": {name: PATHS[name] for name in ("item", "brand", "clicked")}}, "explode.items.3: other columns of 'items'"),
        ({"explode": {"items": ["item", "brand", "clicked"]}}, "paths.price: 'items.price' is within 'items'"),
        ({"paths": PATHS | {"user": "items.id"}}, "paths.user: 'items.id' is within 'items'"),
        ({"columns": KINDS | {"price": "list<float>"}}, "explode.items.3: 'price' is list<float>"),
        ({"columns": KINDS | {"items": "list<int>"}}, "explode.items: the columns have 'items' too"),
        ({"part_separator": "-"}, "part_separator: no field of explode gives several columns of one text"),
        ({"paths": None}, "part_separator: needed to divide elements that give several columns, as in `n55-1`, or, if the"),
    ],
)  # fmt: skip
def test_lists_of_objects_that_make_no_sense_are_refused(source: dict[str, Any], message: str) -> None:
    with refused(message):
        listed("jsonl", **source)
