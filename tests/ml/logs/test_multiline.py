"""Quoted fields that contain line ends."""

from __future__ import annotations

import csv
import gzip
import io
import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from ml.catalog.spec import DatasetSpec
from ml.logs.formats import count_lines, read_blocks
from ml.logs.quarantine import CONTROL, FIELDS, UNBALANCED, bad_value
from ml.logs.sources import find_files
from ml.logs.text.join_kernel import LONGEST_FIELD
from ml.logs.text.joined_rows import join_rows, split_rows
from ml.preflight.check import preflight
from tests.helpers.feature_ways import features_in_every_way
from tests.helpers.shaped_logs import DAY, START, entry, in_folder

KINDS = {"time": "int", "title": "string", "note": "string", "clicked": "int"}


def spec(**source: Any) -> DatasetSpec:
    return entry(KINDS, "csv", ["title", "note"], {"quoted": True, "multiline": True, **source})


def quarantine(lake: Any) -> list[dict[str, Any]]:
    return pq.read_table(str(lake.partition("raw_logs", "shown", DAY) / "quarantine.parquet")).to_pylist()


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_rows_of_several_lines(end: str, tmp_path: Path, spark: Any) -> None:
    draw = random.Random(3)
    words = ["a", "b c", "\n", "\r\n", '"', ",", "", "\n\n", "ä", '5" x']
    rows = [[START + n, *("".join(draw.choices(words, k=draw.randint(0, 4))) for _ in range(2)), n % 2] for n in range(300)]
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator=end).writerows([["time", "title", "note", "clicked"], *rows])
    folder = in_folder(tmp_path, "log.csv", text.getvalue())
    (folder / "log.csv.gz").write_bytes(gzip.compress((folder / "log.csv").read_bytes()))
    (folder / "log.csv").unlink()
    got, _, _ = features_in_every_way(spec(header=True, files="*.csv.gz"), folder, DAY, spark)
    wanted = [[value or None if isinstance(value, str) else value for value in row] for row in rows]
    assert [list(row.values())[1:] for row in got.to_pylist()] == wanted
    assert preflight(spec(header=True, files="*.csv.gz"), folder) == []


def test_malformed_rows_count_as_their_lines(tmp_path: Path) -> None:
    lines = [
        f'{START},"one\ntwo",x,1',  # lines 1 and 2
        f'{START},a,"three\nfour\nfive",yes',  # 3 to 5: one malformed value
        f'{START},"six\nseven"',  # 6 and 7: two fields
        f"{START + 1},b,c,1",  # 8
        f'{START + 2},"open,c,1',  # 9: takes the next lines until a quote
        f"{START + 3},d,e,0",
        f'{START + 4},f,"g",0',  # 11
        f'{START + 5},5" x,"i\nj",1',  # 12 and 13: a quote within a field
        f'{START + 6},last,"k,1',  # 14: open until the end
        f"{START + 7},d,e,0",
    ]
    folder = in_folder(tmp_path, "log.csv", "\n".join(lines) + "\n")
    got, _, lake = features_in_every_way(spec(), folder, DAY)
    assert got["title"].to_pylist() == ["one\ntwo", "b", '5" x'] and got["note"].to_pylist() == ["x", "c", "i\nj"]
    found = quarantine(lake)
    assert [row["line"] for row in found] == [3, 6, 7, 9, 10, 11, 14, 15]
    assert [row["reason"] for row in found] == [bad_value("int", "clicked"), *[FIELDS] * 2, *[UNBALANCED] * 5]
    assert found[0]["text"].decode() == lines[1] and found[2]["text"] == b'seven"' and found[4]["text"].decode() == lines[5]
    assert lake.manifest("raw_logs", "shown", DAY)["quarantined"] == 8


def test_an_open_quote_takes_a_limited_part_of_the_file(tmp_path: Path) -> None:
    rows = [f"{START + n},some text {n},note,1" for n in range(60_000)]
    rows[10] = f'{START},"open,note,1'
    folder = in_folder(tmp_path, "log.csv", "\n".join(rows) + "\n")
    got, _, lake = features_in_every_way(spec(), folder, DAY)
    lost = lake.manifest("raw_logs", "shown", DAY)["quarantined"]
    assert got.num_rows + lost == len(rows) and 20_000 < lost < 40_000


def test_rows_are_joined_however_the_file_is_cut() -> None:
    data = b'a,"b\r\nc""\n",d\n\0"x\ny\n"\n,"",\n'
    whole = b"".join(join_rows([data], ","))
    assert split_rows(whole).replace(b"\2", b"\0") == data and whole.count(b"\n") == 3
    for size in (1, 2, 5):
        assert b"".join(join_rows([data[i : i + size] for i in range(0, len(data), size)], ",")) == whole


@pytest.mark.parametrize("control", ["\0", "\1", "\2"])
def test_rows_with_bytes_that_stand_for_line_ends_are_malformed(control: str, tmp_path: Path) -> None:
    rows = ['"a{}b",x,1', '"a\n{}",x,1', "a{},x,1", "a,x,1{}", "a,x,1{}\r", '"a\nb",x,1', "a,x,1{}"]
    text = "\n".join(f"{START},{row.format(control)}" for row in rows)
    got, _, lake = features_in_every_way(spec(), in_folder(tmp_path, "log.csv", text), DAY)
    assert got["title"].to_pylist() == ["a\nb"]
    assert [row["line"] for row in quarantine(lake)] == [1, 2, 3, 4, 5, 6, 9]
    assert lake.manifest("raw_logs", "shown", DAY)["reasons"] == {CONTROL: 7}


def test_a_header_of_several_lines(tmp_path: Path) -> None:
    rows = f'time,"the\ntitle",note,clicked\n{START},"a\nb",x,1\n{START},c,d,yes\n'
    folder = in_folder(tmp_path, "log.csv", rows)
    named = spec(header=True, rename={"the\ntitle": "title"})
    got, _, lake = features_in_every_way(named, folder, DAY)
    assert got["title"].to_pylist() == ["a\nb"] and [row["line"] for row in quarantine(lake)] == [5]
    assert not any(finding.severity == "error" for finding in preflight(named, folder))


def test_lines_of_a_file_with_an_open_quote_are_counted_as_they_are_read(tmp_path: Path) -> None:
    source = spec().source
    for text in (f'{START},"open,b,1\n{START},c,d,1\n', f'{START},"open,b,1\n{START},c', f'{START},"a\nb",c,1\n'):
        folder = in_folder(tmp_path, "log.csv", text)
        [file] = find_files(source, folder)
        assert [n for _, n, _ in count_lines(source, file)] == [block.num_lines for block in read_blocks(source, file)] == [2]


def test_the_line_after_a_field_that_is_too_long_is_a_row() -> None:
    data = b'"' + b"x" * LONGEST_FIELD + b'\n"a\nb"\n'
    assert b"".join(join_rows([data], ",")).endswith(b'x\n"a\0b"\n')


def test_the_preflight_proposes_it(tmp_path: Path) -> None:
    folder = in_folder(tmp_path, "log.csv", "".join(f'{START},"one\ntwo",x,{n % 2}\n' for n in range(50)))
    assert any("multiline: true" in str(finding) for finding in preflight(spec(multiline=False), folder))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quoted": False}, "needs `quoted: true`"),
        ({"format": "jsonl"}, "only for csv and tsv"),
    ],
)
def test_line_ends_that_make_no_sense_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        spec(**change)
    with pytest.raises(ValidationError, match="not for a log without a clock"):
        entry(KINDS, "csv", ["title"], {"quoted": True, "multiline": True}, time={"by_position": True})
