"""Values that are not written as their type: padded, `9.0` for ints, unsigned ids, and JSON numbers in columns of text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ml.artifacts.raw_columns import RawColumns
from ml.features.hashing import hash_values
from ml.logs.quarantine import bad_value
from ml.logs.text.json_numbers import numbers_as_texts
from ml.preflight.check import preflight
from ml.schema import MISSING_ID
from tests.helpers.feature_ways import features_in_every_way
from tests.helpers.shaped_logs import DAY, START, entry, in_folder, refused, write_rows

MOST = 2**64 - 1


def reasons(lake: Any) -> dict[str, int]:
    return lake.manifest("raw_logs", "shown", DAY)["reasons"]


def test_blanks_around_numbers_and_null_tokens_are_removed_on_request(tmp_path: Path, spark: Any) -> None:
    kinds = {"time": "int", "clicked": "bool", "item": "int", "price": "float"}
    lines = [f" {START} , true , 7 , 1.5 ", f"{START}, 0,\tNA, NA ", f"{START},1, x ,2", f"{START},1,7,inf"]
    folder = in_folder(tmp_path, "log.csv", "\n".join(lines) + "\n")
    spec = entry(kinds, "csv", ["item"], {"trim": True, "null_tokens": ["", "NA"]}, dense=["price"])
    rows, features, lake = features_in_every_way(spec, folder, DAY, spark)
    assert rows.drop_columns("event_time").to_pylist() == [
        {"time": START, "clicked": True, "item": 7, "price": 1.5},
        {"time": START, "clicked": False, "item": None, "price": None},
    ]
    assert features["item"].to_pylist()[1] == MISSING_ID
    assert reasons(lake) == {bad_value("int", "item"): 1, bad_value("float", "price"): 1}
    sent = RawColumns(spec)(pa.RecordBatch.from_pydict({"item": [" 7 ", " NA"], "price": [" 1.5", "NA "]}))
    assert sent.to_pylist() == rows.select(["item", "price"]).to_pylist()


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_ints_written_with_a_point(form: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    kinds = {"time": "int", "clicked": "int", "item": "int", "tags": "list<int>"}
    texts = ["9.0", "-3.", "12", "9.5", "1000000000000000.0", ""]
    folder = tmp_path / "logs"
    folder.mkdir()
    if form == "csv":
        (folder / "log.csv").write_text("".join(f"{START}.0,1.0,{text},{text}|4\n" for text in texts))
    elif form == "jsonl":
        values = ["9.0", "-3e0", "12", "9.5", "1000000000000000000.0", "null"]
        (folder / "log.jsonl").write_text(
            "".join(f'{{"time": {START}, "clicked": 1, "item": {v}, "tags": [{v}, 4]}}\n' for v in values)
        )
    else:
        columns = {"time": [START] * 6, "clicked": [1.0] * 6, "item": texts, "tags": [[text, "4"] for text in texts]}
        pq.write_table(pa.table(columns), str(folder / "log.parquet"))
    shape = {"decimal_ints": True} | ({"list_separator": "|"} if form == "csv" else {})
    spec = entry(kinds, form, ["item", "tags"], shape)
    spark = request.getfixturevalue("spark") if form == "csv" else None
    rows, features, lake = features_in_every_way(spec, folder, DAY, spark)
    assert rows["item"].to_pylist() == [9, -3, 12, None]
    assert [[tag for tag in tags if tag] for tags in rows["tags"].to_pylist()] == [[9, 4], [-3, 4], [12, 4], [4]]
    assert features["item"].to_pylist() == hash_values("item", pa.array([9, -3, 12, None])).tolist()
    assert sum(reasons(lake).values()) == 2
    assert RawColumns(spec)(pa.RecordBatch.from_pydict({"item": ["9.0", "12"]}))["item"].to_pylist() == [9, 12]
    if form == "csv":
        plain = entry(kinds, form, ["item", "tags"], {"list_separator": "|"})
        [*_, finding] = preflight(plain, folder)
        assert "decimal_ints: true" in str(finding)


def test_nan_of_parquet_is_missing_on_request(tmp_path: Path, spark: Any) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    columns = {"time": [START] * 3, "clicked": [0, 1, 0], "price": [1.5, float("nan"), None], "item": [7.0, 8.0, float("nan")]}
    pq.write_table(pa.table(columns), str(folder / "log.parquet"))
    kinds = {"time": "int", "clicked": "int", "price": "float", "item": "int"}
    spec = entry(kinds, "parquet", ["item"], {"null_tokens": ["", "NaN"]}, dense=[{"name": "price", "fill": -1.0}])
    rows, features, _ = features_in_every_way(spec, folder, DAY, spark)
    assert rows["price"].to_pylist() == [1.5, None, None] and features["price"].to_pylist() == [1.5, -1, -1]
    assert features["item"].to_pylist() == hash_values("item", pa.array([7, 8, None])).tolist()


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_unsigned_ids_keep_their_bits(form: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    kinds = {"time": "int", "clicked": "int", "user": "int", "seen": "list<int>"}
    users = [5, 2**63, MOST, 2**63 - 1, 0, 10**19]
    seen = [[MOST, 1], [], [2**63], [7], None, [MOST]]
    folder = tmp_path / "logs"
    folder.mkdir()
    if form == "csv":
        lists = ["|".join(map(str, one or [])) for one in seen]
        rows = [f"{START},1,{u},{s}\n" for u, s in zip(users, lists, strict=True)]
        (folder / "log.csv").write_text("".join(rows) + f"{START},1,{MOST + 1},\n{START},1,x,\n")
    elif form == "jsonl":
        lines = [{"time": START, "clicked": 1, "user": u, "seen": s} for u, s in zip(users, seen, strict=True)]
        lines[1]["user"] = str(2**63)
        lines += [{"time": START, "clicked": 1, "user": MOST + 1}, {"time": START, "clicked": 1, "user": 0.5}]
        write_rows(folder, form, lines)
    else:
        columns = {
            "time": [START] * 6,
            "clicked": [1] * 6,
            "user": pa.array(users, pa.uint64()),
            "seen": pa.array(seen, pa.list_(pa.uint64())),
        }
        pq.write_table(pa.table(columns), str(folder / "log.parquet"))
    shape = {"unsigned": ["user", "seen"]} | ({"list_separator": "|"} if form == "csv" else {})
    spec = entry(kinds, form, ["user", {"name": "seen", "ids_of": "user"}], shape, user="user")
    spark = request.getfixturevalue("spark") if form == "parquet" else None
    rows, features, lake = features_in_every_way(spec, folder, DAY, spark)
    signed = np.array(users, np.uint64).view(np.int64).tolist()
    assert rows["user"].to_pylist() == signed == [5, -(2**63), -1, 2**63 - 1, 0, 10**19 - 2**64]
    assert [one or [] for one in rows["seen"].to_pylist()] == [[-1, 1], [], [-(2**63)], [7], [], [-1]]
    assert features["seen"][0].as_py()[0] == features["user"][2].as_py()
    assert reasons(lake) == ({} if form == "parquet" else {bad_value("int", "user"): 2})
    for sent in (users, signed, [str(u) for u in users]):
        kind = pa.uint64() if sent is users else None
        batch = pa.RecordBatch.from_arrays([pa.array(sent, kind)], ["user"])
        assert RawColumns(spec)(batch)["user"].to_pylist() == signed


def test_numbers_in_columns_of_text(tmp_path: Path, spark: Any) -> None:
    kinds = {"time": "int", "clicked": "int", "sku": "string", "tags": "list<string>"}
    values = ['"a"', "1", "12345678901234567890123", "1.0", "1e3", "5e-1", "-0", "null", '"\\"sku\\": 4"', "true", "1e999"]
    lines = [f'{{"time": {START}, "clicked": 1, "sku" : {v}, "other": {{"sku": 3}}, "tags": [1, 2.0]}}' for v in values]
    lines += [f'{{"tags": ["x"], "sku": 9007199254740993.0, "time": {START}, "clicked": 0}}']
    folder = in_folder(tmp_path, "log.jsonl", "\n".join(lines) + "\n")
    spec = entry(kinds, "jsonl", ["sku", "tags"], {})
    rows, features, lake = features_in_every_way(spec, folder, DAY, spark)
    wanted = ["a", "1", "12345678901234567890123", "1", "1000", "0.5", "0", None, '"sku": 4']
    assert rows["sku"].to_pylist() == wanted
    assert rows["tags"].to_pylist() == [["1", "2"]] * len(wanted)
    assert features["sku"].to_pylist() == hash_values("sku", pa.array(wanted)).tolist()
    assert reasons(lake) == {bad_value("string", "sku"): 3}
    sent = RawColumns(spec)(pa.RecordBatch.from_pydict({"sku": [1.0, 1e3, 0.5]}))
    assert sent["sku"].to_pylist() == ["1", "1000", "0.5"]  # as in the log


@pytest.mark.parametrize("ascii", [True, False])
@pytest.mark.parametrize("key", ["größe", 'a"b', "a\\b"])
def test_numbers_of_keys_with_escapes_become_texts(key: str, ascii: bool) -> None:
    line = json.dumps({key: 1, "x": [{key: 2.5}]}, ensure_ascii=ascii).encode()
    assert json.loads(numbers_as_texts(line, [key])) == {key: "1", "x": [{key: "2.5"}]}


def test_reasons_name_the_declared_type(tmp_path: Path) -> None:
    kinds = {"time": "int", "clicked": "int", "user": "int", "name": "string"}
    wrong = [{"user": True}, {"user": {}}, {"user": "x"}, {"name": True}]
    lines = [{"time": START, "clicked": 1, "user": 1, "name": "a"} | change for change in ({}, *wrong)]
    folder = write_rows(tmp_path / "logs", "jsonl", lines)
    for shape in ({"unsigned": ["user"]}, {"decimal_ints": True}):
        lake = features_in_every_way(entry(kinds, "jsonl", ["user", "name"], shape), folder, DAY)[2]
        assert reasons(lake) == {bad_value("int", "user"): 3, bad_value("string", "name"): 1}


def test_only_numbers_of_the_keys_become_texts() -> None:
    line = b'{"a": "x", "sku": 1, "\\"sku": 2, "n": {"sku": [1, "b"]}, "price": 3}'
    assert numbers_as_texts(line, ["sku", "a"]) == line.replace(b'"sku": 1', b'"sku": "1"')


_TABLE = {"files": "brands.csv", "format": "csv", "columns": {"id": "int", "brand": "string"}}
BRANDS = [{"source": _TABLE, "log_key": "user", "table_key": "id", "columns": ["brand"]}]
BRANDS_OF_HASHES = [{**BRANDS[0], "source": {**_TABLE, "unsigned": ["id"]}}]
SHARED = {"name": "of", "column": "other", "ids_of": "user"}


@pytest.mark.parametrize(
    ("source", "more", "message"),
    [
        ({"unsigned": ["nobody"]}, {}, "source.unsigned.0: no column 'nobody'"),
        ({"unsigned": ["name"]}, {}, "source.unsigned.0: 'name' is string, expected int"),
        ({"unsigned": []}, {}, "at least 1 item"),
        ({"unsigned": ["time"]}, {}, "source.unsigned: 'time' is a time"),
        ({"unsigned": ["user"]}, {"dense": ["user"]}, "dense.user.column: 'user' has unsigned ids"),
        ({"unsigned": ["clicked"]}, {}, "label.column: 'clicked' has unsigned ids"),
        ({"unsigned": ["user"]}, {"sparse": [{"name": "u", "column": "user", "bucketise": [1]}]}, "sparse.u.bucketise"),
        ({"unsigned": ["user"]}, {"join": BRANDS}, "join.0.source.unsigned: 'user' of the log has unsigned ids, but 'id' of "),
        ({}, {"join": BRANDS_OF_HASHES}, "source.unsigned: 'id' of brands.csv has unsigned ids, but 'user' of the log has not"),
        ({"unsigned": ["user"]}, {"sparse": ["user", SHARED]}, "sparse.of.ids_of: 'user' has unsigned ids, but 'other' "),
        ({"columns": {"time": "float", "clicked": "bool", "user": "string"}, "decimal_ints": True}, {}, "decimal_ints: no col"),
    ],
)  # fmt: skip
def test_rules_that_make_no_sense_are_refused(source: dict[str, Any], more: dict[str, Any], message: str) -> None:
    kinds = {"time": "int", "clicked": "int", "user": "int", "name": "string", "other": "int"}
    with refused(message):
        entry(kinds, "csv", more.pop("sparse", ["user"]), source, **more)
