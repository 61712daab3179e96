"""Lists as features, and lines whose elements become rows: in csv, JSON and Parquet, with the same features in every way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from ml.artifacts.raw_columns import RawColumns
from ml.catalog.spec import DatasetSpec
from ml.features.hashing import hash_values
from ml.logs.quarantine import LABEL_UNKNOWN, LENGTHS, bad_element, bad_value
from ml.logs.text.layout import WrongFile
from ml.preflight.check import preflight
from ml.schema import ITEM_KEY, LABEL, MISSING_ID
from tests.helpers.feature_ways import features_in_every_way
from tests.helpers.shaped_logs import DAY, START, entry, in_folder, refused, write_rows

MIND = {"time": "int", "user": "string", "history": "list<string>", "item": "string", "clicked": "int"}
SHAPE = {"list_separator": " ", "explode": {"shown": ["item", "clicked"]}, "part_separator": "-"}
FEATURES = ["user", "item", {"name": "history", "ids_of": "item", "max_values": 3, "keep": "last"}]


def mind(**changes: Any) -> DatasetSpec:
    return entry(MIND, "tsv", FEATURES, SHAPE | changes, user="user", item="item")


def ids(spec: DatasetSpec, values: list[Any]) -> list[int]:
    kind = pa.int64() if spec.source.columns["item"] == "int" else pa.string()
    return hash_values("item", pa.array(values, kind)).tolist()


def test_a_line_of_labelled_items_becomes_a_row_for_each(tmp_path: Path, spark: Any) -> None:
    lines = [
        f"{START}\tu7\tn3 n9 n4\tn55-1 n35-0 n8-0",
        f"{START + 5}\tu8\t\tn-1-1  n3-0",  # an item with the separator of parts, and two blanks
        f"{START + 5}\tu9\tn1 n2 n3 n4\t",  # nothing shown
        f"{START + 6}\tu9\tn1 n2 n3 n4\tn7-0 n8-7",  # a label that is unknown
        f"{START + 7}\tu9\tn1\tn7-0 n8",  # an element without a label
        f"{START + 8}\tu9\tn1\tn7-0 n8-x",
        f"{START + 9}\tu9\tn1 n2 n3 n4\tn9-1",
    ]
    spec, folder = mind(), in_folder(tmp_path, "log.tsv", "\n".join(lines) + "\n")
    rows, features, lake = features_in_every_way(spec, folder, DAY, spark)
    assert rows.column_names == ["event_time", *MIND]
    assert rows["item"].to_pylist() == ["n55", "n35", "n8", "n-1", "n3", "n7", "n9"]
    assert features[LABEL].to_pylist() == [1, 0, 0, 1, 0, 0, 1]
    assert rows["user"].to_pylist() == ["u7", "u7", "u7", "u8", "u8", "u9", "u9"]
    assert rows["history"].to_pylist()[2:] == [["n3", "n9", "n4"], None, None, *[["n1", "n2", "n3", "n4"]] * 2]
    assert features["item"].to_pylist() == ids(spec, rows["item"].to_pylist())
    assert features["history"].to_pylist() == [
        *[ids(spec, ["n3", "n9", "n4"])] * 3,
        *[[MISSING_ID]] * 2,
        *[ids(spec, ["n2", "n3", "n4"])] * 2,
    ]
    wanted = {LABEL_UNKNOWN: 1, bad_element("shown"): 1, bad_value("int", "clicked"): 1}
    manifest = lake.manifest("raw_logs", spec.name, DAY)
    assert manifest["reasons"] == dict(sorted(wanted.items()))
    bad = pq.read_table(str(lake.partition("raw_logs", spec.name, DAY) / "quarantine.parquet"))
    assert bad["line"].to_pylist() == [4, 5, 6] and bad["text"][1].as_py().decode() == lines[4]


SESSIONS: dict[str, Any] = {"time": "int", "user": "int", "item": "int", "clicked": "int", "history": "list<int>"}
LISTED = [
    {"time": START, "user": 1, "item": [5, 6], "clicked": [0, 1], "history": [6, None, 7]},
    {"time": START + 1, "user": 2, "item": [], "clicked": [], "history": []},
    {"time": START + 2, "user": 3, "item": [9], "clicked": [1, 0], "history": None},
    {"time": START + 3, "user": None, "item": [8], "clicked": [0], "history": None},
]


def write_listed(folder: Path, form: str) -> None:
    if form in ("parquet", "jsonl"):
        kinds = {"time": pa.int64(), "user": pa.int64(), "clicked": pa.list_(pa.int32()), "history": pa.large_list(pa.int64())}
        schema = pa.schema(list(({"item": pa.list_(pa.int64())} | kinds).items()))
        write_rows(folder, form, LISTED, schema)
    else:
        folder.mkdir()
        texts = [["|".join(map(str, filter(None.__ne__, v or []))) if k in ("item", "clicked", "history") else v for k, v in
            row.items()] for row in LISTED]  # fmt: skip
        (folder / "log.csv").write_text("".join(",".join("" if v is None else str(v) for v in row) + "\n" for row in texts))


@pytest.mark.parametrize("form", ["jsonl", "parquet", "csv"])
def test_parallel_lists_in_every_format(form: str, tmp_path: Path) -> None:
    shape = {"explode": {"item": ["item"], "clicked": ["clicked"]}} | ({"list_separator": "|"} if form == "csv" else {})
    spec = entry(SESSIONS, form, ["user", "item", {"name": "history", "ids_of": "item"}], shape, item="item", user="user")
    write_listed(tmp_path / "logs", form)
    rows, features, lake = features_in_every_way(spec, tmp_path / "logs", DAY)
    assert rows["item"].to_pylist() == [5, 6, 8] and features[LABEL].to_pylist() == [0, 1, 0]
    assert features["history"].to_pylist() == [*[ids(spec, [6, 7])] * 2, [MISSING_ID]]
    assert features[ITEM_KEY].null_count == 0
    assert lake.manifest("raw_logs", spec.name, DAY)["reasons"] == {LENGTHS: 1}
    assert preflight(spec, tmp_path / "logs") == []


def test_lists_with_wrong_elements_are_quarantined(tmp_path: Path) -> None:
    kinds = {"time": "int", "clicked": "int", "tags": "list<int>"}
    values: list[Any] = [[1, 2], [1, "x"], "1", [1.5], [], None, [2**63], [[1]]]
    rows = [{"time": START + n, "clicked": 0, "tags": value} for n, value in enumerate(values)]
    folder = write_rows(tmp_path / "logs", "jsonl", rows)
    spec = entry(kinds, "jsonl", ["tags"], {})
    got, features, lake = features_in_every_way(spec, folder, DAY)
    assert got["tags"].to_pylist() == [[1, 2], [], None]
    assert features["tags"].to_pylist()[1:] == [[MISSING_ID]] * 2
    assert lake.manifest("raw_logs", spec.name, DAY)["reasons"] == {bad_value("list<int>", "tags"): 5}


def test_null_tokens_are_missing_elements(tmp_path: Path) -> None:
    kinds = {"time": "int", "clicked": "int", "tags": "list<string>"}
    rows = [{"time": START, "clicked": 0, "tags": ["a", "", "-", "b"]}, {"time": START, "clicked": 1, "tags": ["-"]}]
    folder = write_rows(tmp_path / "logs", "jsonl", rows)
    spec = entry(kinds, "jsonl", ["tags"], {"null_tokens": ["", "-"]})
    got, features, _ = features_in_every_way(spec, folder, DAY)
    assert got["tags"].to_pylist() == [["a", None, None, "b"], [None]]
    assert features["tags"].to_pylist() == [hash_values("tags", pa.array(["a", "b"])).tolist(), [MISSING_ID]]


def test_a_split_text_has_the_ids_of_the_list(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(["a", "b", "ä", "", "long name"], rng.integers(0, 6))) for _ in range(200)]
    folder = in_folder(tmp_path, "log.tsv", "".join(f"{START}\t{n % 2}\t{text}\t{text}\n" for n, text in enumerate(texts)))
    kinds = {"time": "int", "clicked": "int", "text": "string", "listed": "list<string>"}
    cuts = [{"max_values": 2}, {"max_values": 2, "keep": "last"}, {}]
    sparse = ["text"]
    for n, cut in enumerate(cuts):
        sparse += [{"name": f"text_{n}", "column": "text", "split": " ", "ids_of": "text", **cut}]
        sparse += [{"name": f"listed_{n}", "column": "listed", "ids_of": "text", **cut}]
    spec = entry(kinds, "tsv", sparse, {"list_separator": " "})
    features = features_in_every_way(spec, folder, DAY)[1]
    for n in range(len(cuts)):
        assert features[f"text_{n}"].to_pylist() == features[f"listed_{n}"].to_pylist()
    assert max(map(len, features["listed_2"].to_pylist())) > 2 == max(map(len, features["listed_1"].to_pylist()))


def test_elements_of_one_text_in_a_vocabulary(tmp_path: Path) -> None:
    kinds = {"time": "int", "clicked": "int", "tags": "list<string>"}
    folder = in_folder(tmp_path, "log.tsv", f"{START}\t1\ta|b|a\n{START}\t0\t\n")
    spec = entry(kinds, "tsv", [{"name": "tags", "vocabulary": {"min_count": 2}}], {"list_separator": "|"})
    from ml.compute.runner import LocalRunner
    from ml.features.clean import clean_day
    from ml.lake import Lake
    from ml.logs.ingest import ingest_day

    lake = Lake.at(tmp_path / "lake")
    ingest_day(spec.log, DAY, str(folder), lake, LocalRunner())
    assert clean_day(spec, DAY, lake, str(folder), LocalRunner()).vocabularies["tags"].ids == 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"list_separator": None}, "columns.history: tsv has lists as text only"),
        ({"part_separator": None}, "part_separator: needed"),
        ({"part_separator": " "}, "part_separator: ' ' is also"),
        ({"list_separator": "\t"}, "also separates the fields"),
        ({"explode": {"shown": ["item", "price"]}}, "explode.shown.1: no column 'price'"),
        ({"explode": {"shown": ["item"], "other": ["item"]}, "part_separator": None}, "explode.other.0: 'item' is listed more"),
        ({"explode": {"shown": ["history"]}, "part_separator": None}, "explode.shown.0: 'history' is list<string>"),
        ({"explode": {"user": ["item", "clicked"]}}, "explode.user: the columns have 'user' too"),
        ({"explode": {"shown": ["clicked", "item"]}}, "explode.shown: without a header"),
        ({"explode": {"shown": ["clicked"]}}, "part_separator: no field of explode gives several"),
        ({"explode": {"shown": ["time"]}, "part_separator": None}, "time.column: 'time' differs between the elements"),
        ({"explode": {}}, "at least 1 item"),
        ({"columns": {"time": "int", "clicked": "int", "user": "string", "item": "string"}, "explode": None,
          "part_separator": None}, "list_separator: no column is a list"),
    ],
)  # fmt: skip
def test_shapes_that_make_no_sense_are_refused(source: dict[str, Any], message: str) -> None:
    with refused(message):
        mind(**source)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"user": "history"}, "'history' is list<string>; lists are read by sparse features"),
        ({"slices": ["history"]}, "'history' is list<string>"),
        ({"label": {"column": "history"}}, "'history' is list<string>"),
        ({"dense": [{"name": "history"}]}, "'history' is list<string>"),
        ({"sparse": ["item", {"name": "c", "cross": ["item", "history"]}]}, "'history' is list<string>"),
        ({"sparse": ["item", {"name": "history", "bucketise": [1]}]}, "not a number"),
        ({"sparse": ["item", {"name": "history", "split": "-"}]}, "not a string"),
        ({"sparse": ["item", {"name": "user", "keep": "last"}]}, "only with `split`, or a column that is a list"),
        ({"sparse": ["item", {"name": "history", "ids_of": "user"}]}, "no other sparse feature 'user'"),
        ({"sparse": ["clicked2", {"name": "history", "ids_of": "clicked2"}]}, "no column"),
        ({"sparse": ["time", {"name": "history", "ids_of": "time"}]}, "has values of string, but 'time' of int"),
        ({"sparse": ["time", {"name": "u", "column": "user", "split": "-", "ids_of": "time"}]}, "declare 'user' as list<int>"),
        ({"sparse": ["item", {"name": "history", "ids_of": "item", "vocabulary": {}}]}, "not for a feature with vocabulary"),
        ({"sparse": [{"name": "item", "vocabulary": {}}, {"name": "history", "ids_of": "item"}]}, "ids cannot be shared"),
        (
            {"feature_tables": [{"name": "t", "entity": ["history"], "values": [{"name": "n", "count": {"hours": 1.0}}]}]},
            "one value",
        ),
        ({"time": {"by_position": True}}, "not for a log without a clock"),
    ],
)
def test_uses_of_lists_that_make_no_sense_are_refused(change: dict[str, Any], message: str) -> None:
    sparse = change.pop("sparse", FEATURES)
    with pytest.raises(ValidationError, match=message):
        entry(MIND, "tsv", sparse, SHAPE, **change)


HIVE = {"day": "string", "at": "string", "item": "string", "clicked": "int", "country": "string", "shop": "int"}


def hive(form: str = "csv", **source: Any) -> DatasetSpec:
    reading = {"files": f"day=%Y-%m-%d/**/*.{form}", "path_columns": ["day", "country", "shop"], **source}
    time = {"column": "day", "clock": "at", "format": "%Y-%m-%d %H:%M"}
    return entry(HIVE, form, ["item", "country", "shop"], reading, time=time)


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_columns_of_the_path(form: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    places = ["country=de/shop=7", "country=New%20Zealand/shop=8", "country=__HIVE_DEFAULT_PARTITION__/shop="]
    for n, place in enumerate(places):
        folder = tmp_path / "logs" / f"day={DAY}" / place
        folder.mkdir(parents=True)
        rows = pa.table({"at": [f"0{n}:30"], "item": ["a"], "clicked": pa.array([n % 2])})
        if form == "csv":
            (folder / "part-0.csv").write_text(",".join(str(column[0]) for column in rows.columns) + "\n")
        else:
            pq.write_table(rows, str(folder / "part-0.parquet"))
    spec = hive(form)
    spark = request.getfixturevalue("spark") if form == "csv" else None
    rows, features, _ = features_in_every_way(spec, tmp_path / "logs", DAY, spark)
    assert rows["country"].to_pylist() == ["de", "New Zealand", None] and rows["shop"].to_pylist() == [7, 8, None]
    assert rows["event_time"].to_pylist() == [(START + 3600 * n + 1800) * 10**6 for n in range(3)]
    assert features["country"].to_pylist() == hash_values("country", pa.array(["de", "New Zealand", None])).tolist()
    assert [finding.key for finding in preflight(spec, tmp_path / "logs") if finding.severity == "error"] == []


@pytest.mark.parametrize(
    ("place", "message"), [("country=de", "no folder `shop=...`"), ("country=de/shop=x", "shop=x in the path is not int")]
)
def test_paths_that_lack_a_column_are_refused(place: str, message: str, tmp_path: Path) -> None:
    folder = tmp_path / "logs" / f"day={DAY}" / place
    folder.mkdir(parents=True)
    (folder / "part-0.csv").write_text("01:30,a,1\n")
    with pytest.raises(WrongFile, match=message):
        features_in_every_way(hive(), tmp_path / "logs", DAY)
    [finding] = [finding for finding in preflight(hive(), tmp_path / "logs") if finding.severity == "error"]
    assert finding.key == "source.path_columns" and message in finding.found


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"path_columns": ["region"]}, "no column 'region'"),
        ({"path_columns": list(HIVE)}, "no column is left"),
        ({"path_columns": []}, "at least 1 item"),
        ({"path_columns": ["item"], "explode": {"item": ["item"]}, "list_separator": " "}, "also a part of an exploded field"),
        ({"path_columns": ["item"], "columns": HIVE | {"item": "list<int>"}, "list_separator": " "}, "a folder has one value"),
    ],
)
def test_path_columns_that_make_no_sense_are_refused(source: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        hive(**source)


def test_blanks_around_texts_are_removed_on_request(tmp_path: Path) -> None:
    kinds = {"time": "int", "clicked": "string", "page": "string", "tags": "list<string>", "item": "string", "place": "int"}
    shape = {"list_separator": ";", "explode": {"shown": ["item", "place"]}, "part_separator": ":", "null_tokens": ["", "-"]}
    folder = in_folder(tmp_path, "log.csv", f"{START}, yes , home , a ; b;-, x : 1 ;y:2\n{START}, no,  - , - ,x:3\n")
    sparse = ["page", "tags", "item"]
    rows, features, _ = features_in_every_way(entry(kinds, "csv", sparse, shape | {"trim": True}), folder, DAY)
    assert rows["page"].to_pylist() == ["home", "home", None] and rows["clicked"].to_pylist() == ["yes", "yes", "no"]
    assert rows["tags"].to_pylist() == [["a", "b", None]] * 2 + [None] and rows["item"].to_pylist() == ["x", "y", "x"]
    assert features["page"][0] == features["page"][1] and features["page"][2].as_py() == MISSING_ID
    sent = pa.RecordBatch.from_pydict({"page": [" home "], "tags": [[" a", "-  "]], "item": ["x "]})
    typed = RawColumns(entry(kinds, "csv", sparse, shape | {"trim": True}))(sent)
    assert typed.to_pylist() == [{"page": "home", "tags": ["a", None], "item": "x"}]
    plain = features_in_every_way(entry(kinds, "csv", sparse, shape), folder.rename(tmp_path / "plain"), DAY)[0]
    assert plain["page"].to_pylist() == [" home ", " home ", "  - "]
