"""A side table that is damaged stops a day, as a damaged log does, and one that has changed makes the day due."""

from __future__ import annotations

import gzip
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest

from ml.compute.runner import LocalRunner
from ml.features.clean import clean_day
from ml.features.side_files import DamagedSideTable, joined_with_current_files
from ml.lake import Lake
from tests.helpers.shop_features import shop, shop_day
from tests.helpers.small_logs import side_table

DAY = "2020-01-02"
BRANDS = b"id,brand\n" + b"".join(b"%d,brand %d\n" % (n, n * n * n % 9973) for n in range(5000))


def spec_of(files: str) -> Any:
    side = side_table("item", "id", ["brand"], files, {"id": "int", "brand": "string"})
    return shop(join=[side], sparse=["item", "brand"], slices=["brand"])


def pack(path: Path, content: bytes) -> None:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("items.csv", content)
    else:
        path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


@pytest.mark.parametrize("name", ["items.csv.gz", "items.zip"])
def test_a_side_table_that_was_cut_stops_the_day(name: str, lake: Lake, tmp_path: Path, write_raw: Any) -> None:
    spec, path = spec_of(name), tmp_path / name
    write_raw(lake, spec, DAY, shop_day(spec, 1, 200))
    pack(path, BRANDS)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 5])
    with pytest.raises(DamagedSideTable, match=rf"{name}.*: damaged file: .*Copy the file again"):
        clean_day(spec, DAY, lake, tmp_path, LocalRunner())
    assert not lake.has("cleaned_features", "shop", DAY)
    path.write_bytes(whole)
    assert clean_day(spec, DAY, lake, tmp_path, LocalRunner()).rows == 200


@pytest.mark.parametrize("name", ["items.csv", "items.csv.gz", "items.zip"])
def test_a_changed_side_table_makes_the_day_due(name: str, lake: Lake, tmp_path: Path, write_raw: Any) -> None:
    spec, path = spec_of(name), tmp_path / name
    write_raw(lake, spec, DAY, shop_day(spec, 1, 50))
    pack(path, BRANDS)
    clean_day(spec, DAY, lake, tmp_path, LocalRunner())
    assert joined_with_current_files(spec, DAY, lake, tmp_path)
    pack(path, BRANDS)
    os.utime(path, ns=(1, 1))  # a copy of the same content
    assert joined_with_current_files(spec, DAY, lake, tmp_path)
    pack(path, BRANDS.replace(b"brand 1\n", b"brand one\n"))
    assert not joined_with_current_files(spec, DAY, lake, tmp_path)
    clean_day(spec, DAY, lake, tmp_path, LocalRunner())
    assert joined_with_current_files(spec, DAY, lake, tmp_path)
    path.unlink()
    assert not joined_with_current_files(spec, DAY, lake, tmp_path)
    assert joined_with_current_files(shop(), DAY, lake, tmp_path)  # no side table
