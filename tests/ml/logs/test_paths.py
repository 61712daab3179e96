"""Values within objects of JSON and structs of Parquet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ml.catalog.spec import DatasetSpec
from ml.features.hashing import hash_values
from ml.logs.quarantine import BAD_JSON, bad_value
from ml.logs.text.layout import WrongFile
from ml.preflight.check import preflight
from ml.schema import LABEL
from tests.helpers.feature_ways import features_in_every_way
from tests.helpers.shaped_logs import DAY, START, entry, in_folder, refused, write_rows

KINDS = {
    "time": "int",
    "user": "string",
    "id": "int",
    "country": "string",
    "seen": "list<int>",
    "item": "int",
    "clicked": "int",
}
PATHS = {"time": "meta.at", "user": "user.id", "country": "user.geo.country", "seen": "user.seen", "shown": "page.items"}
ROWS: list[dict[str, Any]] = [
    {"id": 1, "user": {"id": "u7", "geo": {"country": "de", "zip": [1]}, "seen": [3, 4]}, "meta": {"at": START}},
    {"id": 2, "user": {"id": "u8", "geo": None}, "meta": {"at": START + 1}},
    {"id": 3, "user": None, "meta": {"at": START + 2}},
    {"id": None, "meta": {"at": START + 3}, "user": {"id": "u7", "geo": {}, "seen": []}},
]


def nested(form: str, **changes: Any) -> DatasetSpec:
    sparse = ["user", "id", "country", "item", {"name": "seen", "ids_of": "item"}]
    shape = {"paths": PATHS, "explode": {"shown": ["item"], "clicked": ["clicked"]}}
    return entry(KINDS, form, sparse, shape | changes, user="user", item="item")


def rows() -> list[dict[str, Any]]:
    return [row | {"page": {"items": [5, 6]}, "clicked": [0, 1]} for row in ROWS]


def write(folder: Path, form: str, lines: list[dict[str, Any]]) -> None:
    geo = pa.struct([("country", pa.string()), ("zip", pa.list_(pa.int64()))])
    kinds = {
        "id": pa.int64(),
        "user": pa.struct([("id", pa.string()), ("geo", geo), ("seen", pa.list_(pa.int64()))]),
        "meta": pa.struct([("at", pa.int64())]),
        "page": pa.struct([("items", pa.list_(pa.int64()))]),
        "clicked": pa.list_(pa.int64()),
    }
    write_rows(folder, form, lines, pa.schema(list(kinds.items())))


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_values_within_objects(form: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    spec, folder = nested(form), tmp_path / "logs"
    write(folder, form, rows())
    spark = request.getfixturevalue("spark") if form == "jsonl" else None
    got, features, _ = features_in_every_way(spec, folder, DAY, spark)
    users = [user for user in ["u7", "u8", None, "u7"] for _ in range(2)]
    assert got["user"].to_pylist() == users
    assert got["country"].to_pylist() == ["de", "de", *[None] * 6]
    assert got["id"].to_pylist() == [1, 1, 2, 2, 3, 3, None, None]
    assert got["event_time"].to_pylist() == [(START + n // 2) * 10**6 for n in range(8)]
    assert got["seen"].to_pylist()[::2] == [[3, 4], None, None, []]
    assert features["user"].to_pylist() == hash_values("user", pa.array(users)).tolist()
    assert features[LABEL].to_pylist() == [0, 1] * 4
    assert preflight(spec, folder) == []


def test_values_that_are_no_objects_are_quarantined(tmp_path: Path) -> None:
    lines = rows()
    lines += [lines[0] | {"user": "u9"}, lines[0] | {"user": {"id": True}}, lines[0] | {"meta": {"at": "x"}}]
    lines += [lines[0] | {"user": {"id": 7}}]  # a number in a column of text
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"user": {"id": "a", "id": "b"}}\n'
    folder = in_folder(tmp_path, "log.jsonl", text)
    got, _, lake = features_in_every_way(nested("jsonl"), folder, DAY)
    assert got["user"].to_pylist()[:4] == ["u7", "u7", "7", "7"] and got["id"].to_pylist()[:4] == [1] * 4
    wanted = {bad_value("string", "user"): 2, bad_value("int", "time"): 1, BAD_JSON: 1}
    assert lake.manifest("raw_logs", "shown", DAY)["reasons"] == dict(sorted(wanted.items()))


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_path_goes_before_a_field_with_the_name_of_its_column(form: str, tmp_path: Path) -> None:
    kinds = {"time": "int", "id": "int", "clicked": "int"}
    shape = {"paths": {"time": "meta.at", "id": "user.id"}, "explode": {"clicked": ["clicked"]}}
    row = {"id": 1, "user": {"id": 5}, "meta": {"at": START}, "clicked": [1]}
    folder = write_rows(tmp_path / "logs", form, [row])
    got, _, _ = features_in_every_way(entry(kinds, form, ["id"], shape), folder, DAY)
    assert got["id"].to_pylist() == [5]


@pytest.mark.parametrize("shape", [{}, {"explode": {"seen": ["seen"]}}, {"explode": {"seen": ["seen", "kind"]}}])
def test_lists_of_numbers_share_a_key_with_texts(shape: dict[str, Any], tmp_path: Path) -> None:
    explode = shape.get("explode", {}).get("seen", [])
    kinds = {"time": "int", "clicked": "int", "sku": "string", "seen": "int" if explode else "list<int>"}
    kinds |= dict.fromkeys(explode[1:], "int")
    shape = shape | {"paths": {"sku": "a.ids", "seen": "b.ids"}} | ({"part_separator": "-"} if explode[1:] else {})
    seen = ["1-5", "2-6"] if explode[1:] else [1, 2]
    lines = [{"time": START, "clicked": 1, "a": {"ids": sku}, "b": {"ids": seen}} for sku in ("x", 7)]
    folder = write_rows(tmp_path / "logs", "jsonl", lines)
    got, _, _ = features_in_every_way(entry(kinds, "jsonl", ["sku", "seen"], shape), folder, DAY)
    assert got["sku"].to_pylist() == (["x", "x", "7", "7"] if explode else ["x", "7"])
    assert got["seen"].to_pylist() == ([1, 2, 1, 2] if explode else [[1, 2], [1, 2]])


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_paths_that_no_row_has_are_refused(form: str, tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    write(folder, form, rows())
    spec = nested(form, paths=PATHS | {"country": "user.place.country"})
    with pytest.raises(WrongFile, match=r"user\.place\.country"):
        features_in_every_way(spec, folder, DAY)
    [finding] = preflight(spec, folder)
    assert finding.key == "source.paths" and "user.place.country" in finding.found and "geo" in finding.found


def test_the_preflight_proposes_paths(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    write(folder, "jsonl", rows())
    kinds = {"time": "int", "user_id": "string", "country": "string", "clicked": "list<int>"}
    source = {"paths": {"time": "meta.at"}, "explode": {"clicked": ["clicked"]}}
    [finding] = preflight(entry(kinds | {"clicked": "int"}, "jsonl", ["user_id"], source), folder)
    assert "paths: {user_id: user.id, country: user.geo.country}" in finding.change


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"format": "csv", "list_separator": "|"}, "paths: only for jsonl and parquet, but format is csv"),
        ({"paths": {"nobody": "user.id"}}, "paths.nobody: no column 'nobody'"),
        ({"paths": {"user": "id"}}, "paths.user: String should match"),
        ({"paths": {"user": "a..b"}}, "paths.user: String should match"),
        ({"paths": {}}, "at least 1 item"),
        ({"paths": {"user": "id.x"}}, "paths.user: 'id.x' is within 'id', which is the value of 'id'"),
        (
            {"paths": {"user": "a.b", "country": "a.b.c"}},
            "paths.country: 'a.b.c' is within 'a.b', which is the value",
        ),
        ({"paths": {"user": "a.b", "country": "a.b"}}, "paths.user: 'a.b' is within 'a.b'"),
        ({"rename": {"uid": "user"}}, "paths.user: source.rename has 'user' too"),
    ],
)
def test_paths_that_make_no_sense_are_refused(source: dict[str, Any], message: str) -> None:
    with refused(message):
        nested("jsonl", **source)
