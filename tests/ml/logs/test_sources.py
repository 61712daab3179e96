"""Finding files and reading them as blocks: patterns, dates, stamps, whole and damaged archives, byte ranges."""

from __future__ import annotations

import bz2
import gzip
import lzma
import warnings
import zipfile
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from upath import UPath

from ml.catalog.reading import Source
from ml.logs import streams
from ml.logs.packed import UNPACKERS
from ml.logs.source_table import read_table
from ml.logs.sources import NoLogs, find_files
from ml.logs.streams import blocks
from ml.logs.text.layout import WrongFile

LINES = b"".join(b"%d,w%d\n" % (i, i * i) for i in range(3000))


def source(files: str = "*", **more: Any) -> Source:
    return Source.model_validate({"files": files, "format": "csv", "columns": {"a": "int", "b": "string"}} | more)


def pack(folder: Path, kind: str, data: bytes) -> Path:
    path = folder / f"log.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("in/log.csv", data)
    else:
        path.write_bytes(PACK[kind](data))
    return path


def lz4_compress(data: bytes) -> bytes:
    packed = pa.BufferOutputStream()
    with pa.CompressedOutputStream(packed, "lz4") as stream:
        stream.write(data)
    return packed.getvalue().to_pybytes()


PACK = {
    "csv": bytes,
    "gz": gzip.compress,
    "zst": zstandard.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "lz4": lz4_compress,
}


@pytest.mark.parametrize("kind", [*PACK, "zip"])
def test_every_packing_gives_the_same_rows(kind: str, tmp_path: Path) -> None:
    pack(tmp_path, kind, LINES)
    table, quarantine = read_table(source(), tmp_path)
    assert table.column("a").to_pylist() == list(range(3000))
    assert not len(quarantine)


@pytest.mark.parametrize("kind", [*(suffix.lstrip(".") for suffix in UNPACKERS), "zip"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.95])
def test_rows_before_a_truncation_are_kept(kind: str, share: float, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = b"".join(b"%d,%d\n" % (i, v) for i, v in enumerate(rng.integers(0, 2**62, 100_000).tolist()))
    path = pack(tmp_path, kind, data)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    table, quarantine = read_table(source(), tmp_path)
    kept = table.num_rows
    assert table.column("a").to_pylist() == list(range(kept))
    if share or kind == "zip":  # an empty file is not damaged: it has no lines
        assert [r.startswith("damaged file: ") for r in quarantine.reasons] == [True]
        assert quarantine.table.column("line").to_pylist() == [kept + 1]
    if kind != "zip":  # the directory of a zip archive is at its end
        assert kept >= 100_000 * share * 0.5 - 20_000


@pytest.mark.parametrize("kind", [*(suffix.lstrip(".") for suffix in UNPACKERS)])
def test_packed_files_that_were_appended_to_each_other_are_read_to_the_end(kind: str, tmp_path: Path) -> None:
    path = pack(tmp_path, kind, LINES)
    path.write_bytes(path.read_bytes() + PACK[kind](b"3000,last\n"))
    table, quarantine = read_table(source(), tmp_path)
    assert table.column("a").to_pylist() == list(range(3001)) and not len(quarantine)


def test_rows_before_a_flipped_byte_are_kept(tmp_path: Path) -> None:
    path = pack(tmp_path, "zip", b"".join(b"%d,w%d\n" % (i, i * i) for i in range(100_000)))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    table, quarantine = read_table(source(), tmp_path)
    good = [row["a"] for row in table.to_pylist() if row["a"] is not None and row["b"] == f"w{row['a'] ** 2}"]
    assert good[:40_000] == list(range(40_000))
    assert any(reason.startswith("damaged file: ") for reason in quarantine.reasons)


@pytest.mark.parametrize(
    "text", ["a,b\n1,x\n2,y\n", "a,b\r\n1,x\r\n2,y", "\ufeffa,b\n1,x\n2,y\n", "b,more,a\nx,,1\ny,\u00e9,2\n"]
)
def test_headers(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(text.encode())
    (tmp_path / "b.csv").write_bytes(text.split("\n")[0].encode() + b"\n")
    (tmp_path / "c.csv").write_bytes(b"")
    table, quarantine = read_table(source(header=True), tmp_path)
    assert table.to_pydict() == {"a": [1, 2], "b": ["x", "y"]}
    assert not len(quarantine)


def test_a_header_that_lacks_a_column_names_file_and_column(tmp_path: Path) -> None:
    (tmp_path / "wrong.csv").write_text("a,c\n1,x\n")
    with pytest.raises(WrongFile, match=r"wrong\.csv: header lacks column 'b'"):
        read_table(source(header=True), tmp_path)


def test_renamed_columns_and_latin_1(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("Größe,a:token\nfür,1\n".encode("latin-1"))
    table, _ = read_table(source(header=True, encoding="latin-1", rename={"Größe": "b", "a:token": "a"}), tmp_path)
    assert table.to_pydict() == {"a": [1], "b": ["für"]}


def test_a_byte_order_mark_within_a_file_is_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbf1,x\n\xef\xbb\xbf2,y\n")
    table, quarantine = read_table(source(), tmp_path)
    assert table.to_pydict() == {"a": [1], "b": ["x"]}
    assert quarantine.reasons == {"bad number in column a": 1}


def test_missing_folder_and_unmatched_pattern_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NoLogs, match=r"nowhere: no such folder .*LOGS=<folder>"):
        find_files(source("*.csv"), tmp_path / "nowhere")
    with pytest.raises(NoLogs, match=r"no file here matches '\*\.csv'.*LOGS=<folder>"):
        find_files(source("*.csv"), tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(NoLogs, match="a file, not a folder"):
        find_files(source("*.csv"), tmp_path / "file")


def test_dated_paths_give_days_in_order(tmp_path: Path) -> None:
    for name in (
        "2026/2026-01-10.csv",
        "2026/2026-01-09.csv",
        "2025/2025-12-31.csv",
        "2026/2026-02-31.csv",
        "2025/2026-01-01.csv",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(LINES)
    found = find_files(source("%Y/%Y-%m-%d.csv"), tmp_path)
    assert [file.day for file in found] == [date(2025, 12, 31), date(2026, 1, 9), date(2026, 1, 10)]
    assert found[0].name == "2025/2025-12-31.csv"


def test_stamps_change_with_the_content(tmp_path: Path) -> None:
    path = pack(tmp_path, "zip", LINES)
    [before] = find_files(source(), tmp_path)
    pack(tmp_path, "zip", LINES)
    assert find_files(source(), tmp_path) == [before]
    pack(tmp_path, "zip", LINES.replace(b"w", b"v"))
    assert find_files(source(), tmp_path)[0].stamp != before.stamp
    path.unlink()
    plain = pack(tmp_path, "csv", LINES)
    [before] = find_files(source(), tmp_path)
    plain.write_bytes(LINES + b"1,x\n")
    assert find_files(source(), tmp_path)[0].stamp != before.stamp


def test_any_filesystem(tmp_path: Path) -> None:
    folder = UPath("memory://landing/sources")
    folder.mkdir(parents=True)
    (folder / "a.csv").write_bytes(LINES)
    (folder / "b.csv.gz").write_bytes(gzip.compress(LINES))
    table, _ = read_table(source("*.csv*"), folder)
    assert table.num_rows == 6000
    assert [file.name for file in find_files(source("*.csv*"), folder)] == ["a.csv", "b.csv.gz"]


@pytest.mark.parametrize("block", [7, 64, 1000, 1 << 20])
def test_blocks_partition_a_file_for_any_block_size(block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(block)
    data = b"\n".join(b"x" * int(n) for n in rng.geometric(0.05, 400)) + b"\n\n\ny"
    monkeypatch.setattr(streams, "BLOCK", block)
    monkeypatch.setattr(streams, "PIECE", 13)
    for kind in ("csv", "gz"):
        path = pack(tmp_path, kind, data)
        [file] = find_files(source(path.name), tmp_path)
        whole = list(blocks(file))
        alone = [b for k in range(len(data) // block + 1) for b in blocks(file, k, k)]
        assert whole == alone
        assert len({b.index for b in whole}) == len(whole)
        long = {line for line in data.split(b"\n") if len(line) > block}
        assert b"".join(b.data for b in whole) == b"".join(
            line for line in data.splitlines(keepends=True) if len(line.rstrip(b"\n")) <= block
        )
        assert sum(b.too_long is not None for b in whole) == sum(line in long for line in data.split(b"\n"))


def test_parquet_is_read_whole_with_any_file_extension(tmp_path: Path) -> None:
    table = pa.table({"a": list(range(5000))})
    pq.write_table(table, tmp_path / "a.pq", row_group_size=500)
    source = Source.model_validate({"files": "*", "format": "parquet", "columns": {"a": "int"}})
    [file] = find_files(source, tmp_path)
    assert not file.splittable and read_table(source, tmp_path)[0].num_rows == 5000
    (tmp_path / "b.parquet.gz").write_bytes(b"")
    with pytest.raises(WrongFile, match=r"b\.parquet\.gz: Parquet inside a packed file is not supported"):
        find_files(source, tmp_path)


def test_the_last_of_two_members_with_one_name_is_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for text in ("1\n2\n", "3\n"):
            archive.writestr("a.csv", text)
        archive.writestr("__MACOSX/._a.csv", b"\0\0")
    source = Source.model_validate({"files": "*.zip", "format": "csv", "columns": {"a": "int"}})
    assert read_table(source, tmp_path)[0]["a"].to_pylist() == [3]


@pytest.mark.parametrize("name", ["a.csv.br", "a.csv.lzma", "a.tar.gz", "a.tar.bz2", "a.tgz", "a.7z", "a.CSV.SNAPPY"])
@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_files_that_are_not_unpacked_are_refused_by_name(name: str, form: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(bz2.compress(LINES))
    suffix = name.lower().removeprefix("a.csv").removeprefix("a")
    with pytest.raises(
        WrongFile, match=rf"{name}: {suffix} files are not supported, only plain files, .gz, .zst, .bz2, .xz, .lz4 and .zip"
    ):
        find_files(source(format=form), tmp_path)


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (gzip.compress(LINES), "packed with gzip, not text; name it .gz"),
        (bz2.compress(LINES), "packed with bzip2"),
        (lzma.compress(LINES), "packed with xz"),
        (zstandard.compress(LINES), "packed with Zstandard, not text; name it .zst"),
        ("a,b\n1,x\n".encode("utf-16"), "UTF-16, not text; convert it to UTF-8"),
    ],
)
def test_content_that_is_not_text_is_named(content: bytes, said: str, header: bool, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes(content)
    with pytest.raises(WrongFile, match=rf"log\.csv: the content is {said}"):
        read_table(source(header=header), tmp_path)


def test_parquet_and_zip_files_with_the_names_of_text_are_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "log.csv")
    with pytest.raises(WrongFile, match=r"log\.csv: the content is Parquet, not text; set source\.format: parquet"):
        read_table(source(), tmp_path)
    pack(tmp_path, "zip", LINES).rename(tmp_path / "log.csv")
    with pytest.raises(WrongFile, match=r"log\.csv: the content is a zip archive, not text; name it \.zip"):
        read_table(source(), tmp_path)


def test_a_header_that_cannot_be_read_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes(b"a,b\r1,x\r")
    with pytest.raises(WrongFile, match=r"log\.csv: the header cannot be read .*must end with LF"):
        read_table(source(header=True), tmp_path)


@pytest.mark.parametrize(
    ("files", "name"),
    [
        ("%Y%m%d.csv", "20250301.csv"),
        ("log-%Y-%m-%d*.csv", "log-2025-03-01b.csv"),
        ("%Y%m/%d.csv", "202503/01.csv"),
        ("**/%Y%m%d*.csv", "a/b/20250301-7.csv"),
        ("%Y/**/%m%d.csv", "2025/x/0301.csv"),
        ("part[0-9]-%Y%m%d.csv", "part3-20250301.csv"),
        ("part[!a-z]-%Y%m%d.csv", "part3-20250301.csv"),
    ],
)
def test_codes_stand_beside_each_other_and_beside_wildcards(files: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(LINES)
    (tmp_path / "other.csv").write_bytes(LINES)
    [found] = find_files(source(files), tmp_path)
    assert (found.name, found.day) == (name, date(2025, 3, 1))


def test_a_double_star_within_a_name_is_a_star(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes(LINES)
    [found] = find_files(source("**.csv"), tmp_path)
    assert found.name == "log.csv"
