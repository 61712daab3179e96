"""A day in the lake is complete and in order, has the same bytes with any runner, and is never partial."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ml.catalog.log_spec import LogSpec
from ml.compute.runner import LocalRunner, SparkRunner
from ml.lake import Lake
from ml.logs.index import LogIndex
from ml.logs.ingest import ingest_day
from ml.logs.ingest_task import raw_schema
from ml.logs.read import quarantine_table, raw_parts, raw_table
from ml.logs.text.layout import WrongFile
from tests.helpers.trials import SEED, TRIALS

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

DAY = "2026-05-02"
MIDNIGHT = 1777680000  # 2026-05-02 UTC
COLUMNS = {"t": "int", "v": "string", "x": "float", "y": "int"}


def spec(**source: Any) -> LogSpec:
    return LogSpec.model_validate(
        {
            "dataset": "small",
            "source": {"files": "*.csv", "format": "csv", "columns": COLUMNS} | source,
            "time": {"column": "t"},
            "partitions": {"start": date(2026, 5, 1), "end": date(2026, 5, 3)},
            "label": {"column": "y"},
        }
    )


def write_log(folder: Path, in_order: bool, files: int = 5, rows: int = 4000) -> None:
    """Writes rows of three days, in time order or shuffled, many of them in the same second, and some bad."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    moments = MIDNIGHT + rng.choice([-86400, 0, 0, 0, 86400], (files, rows)) + rng.integers(0, 3000, (files, rows))
    for f, times in enumerate(np.sort(moments, axis=None).reshape(files, rows) if in_order else moments):
        lines = [f"{t},f{f} {i},{i / 7:.4f},{i % 2}\n" for i, t in enumerate(times.tolist())]
        for i in rng.choice(rows, rows // 20, replace=False).tolist():
            lines[i] = ["bad\n", f"{MIDNIGHT},a,b,1\n", "\n", f"{MIDNIGHT},a,1.0,7\n", ",a,1.0,1\n"][i % 5]
        (folder / f"{f}.csv").write_text("".join(lines))


def digest(lake: Lake) -> dict[str, str]:
    folder = Path(lake.partition("raw_logs", "small", DAY).path)
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("in_order", [True, False])
def test_rows_are_in_time_then_file_then_line_order(in_order: bool, tmp_path: Path, lake: Lake) -> None:
    write_log(tmp_path / "logs", in_order)
    done = ingest_day(spec(), DAY, tmp_path / "logs", lake, LocalRunner(), part_rows=1500)
    table = raw_table(lake, "small", DAY)
    assert table.schema == raw_schema(spec()) and table.num_rows == done.rows
    assert LogIndex.build(spec(), tmp_path / "logs", lake, LocalRunner()).in_order(DAY) == in_order
    assert len(raw_parts(lake, "small", DAY)) >= 3
    keys = [(t, *map(int, v[1:].split())) for t, v in zip(table["event_time"].to_pylist(), table["v"].to_pylist(), strict=True)]
    assert keys == sorted(keys)
    assert table["event_time"].to_pylist() == [t * 1_000_000 for t in table["t"].to_pylist()]
    lines = [line for f in range(5) for line in (tmp_path / "logs" / f"{f}.csv").read_text().splitlines()]
    fields = [line.split(",") for line in lines]
    good = [f for f in fields if len(f) == 4 and f[0] and f[2] != "b" and f[3] != "7"]
    assert done.rows == sum(MIDNIGHT <= int(f[0]) < MIDNIGHT + 86400 for f in good)
    assert set(done.reasons) == {
        "bad number in column x",
        "blank line",
        "time missing",
        "unknown label",
        "wrong number of fields",
    }
    quarantine = quarantine_table(lake, "small", DAY)
    assert quarantine.num_rows == done.quarantined == sum(done.reasons.values())
    places = list(zip(quarantine["file"].to_pylist(), quarantine["line"].to_pylist(), strict=True))
    assert places == sorted(places)
    manifest = lake.manifest("raw_logs", "small", DAY)
    assert (manifest["rows"], manifest["quarantined"], manifest["reasons"]) == (done.rows, done.quarantined, done.reasons)
    assert manifest["fingerprint"] == spec().fingerprint and len(manifest["files"]) == 5


@pytest.mark.slow
def test_the_same_bytes_however_a_log_in_no_order_is_divided(
    tmp_path: Path, lake: Lake, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_log(tmp_path / "logs", in_order=False)
    ingest_day(spec(), DAY, tmp_path / "logs", lake, LocalRunner(), part_rows=1500)
    first = digest(lake)
    assert sum("part-" in name for name in first) > 3
    for task_bytes in (1, 100_000, 10**9):
        ingest_day(spec(), DAY, tmp_path / "logs", lake, LocalRunner(), task_bytes=task_bytes, part_rows=1500)
        assert digest(lake) == first
    ingest_day(spec(), DAY, tmp_path / "logs", lake, SparkRunner(spark), task_bytes=100_000, part_rows=1500)
    assert digest(lake) == first
    fresh = Lake.at(tmp_path / "fresh")  # with an index made on Spark as well
    ingest_day(spec(), DAY, tmp_path / "logs", fresh, SparkRunner(spark), part_rows=1500)
    assert digest(fresh) == first
    for module in ("streams", "block_ranges"):
        monkeypatch.setattr(f"ml.logs.{module}.BLOCK", 20_000)
    apart = Lake.at(tmp_path / "apart")
    ingest_day(spec(), DAY, tmp_path / "logs", apart, LocalRunner(), task_bytes=40_000, part_rows=1500)
    # A signature hashes lines block by block, so it depends on the size of a block, which is fixed. Rows do not.
    assert {**digest(apart), "manifest.json": first["manifest.json"]} == first
    manifests = [found.manifest("raw_logs", "small", DAY) for found in (apart, fresh)]
    assert len({json.dumps({**manifest, "signature": ""}, sort_keys=True) for manifest in manifests}) == 1


@pytest.mark.slow
def test_the_same_bytes_of_a_log_in_order_on_every_runner(tmp_path: Path, lake: Lake, spark: SparkSession) -> None:
    write_log(tmp_path / "logs", in_order=True)
    ingest_day(spec(), DAY, tmp_path / "logs", lake, LocalRunner(), task_bytes=60_000, part_rows=1500)
    first, rows = digest(lake), raw_table(lake, "small", DAY)
    assert sum("part-" in name for name in first) >= 3
    ingest_day(spec(), DAY, tmp_path / "logs", lake, SparkRunner(spark), task_bytes=60_000, part_rows=1500)
    assert digest(lake) == first
    for task_bytes in (1, 10**9):
        ingest_day(spec(), DAY, tmp_path / "logs", lake, LocalRunner(), task_bytes=task_bytes, part_rows=1500)
        assert raw_table(lake, "small", DAY).equals(rows)


def test_a_day_within_one_instant_is_cut_into_parts(tmp_path: Path, lake: Lake) -> None:
    for f in range(3):
        (tmp_path / f"{DAY} {f}.csv").write_text("".join(f"{MIDNIGHT},{f} {i},1.0,1\n" for i in range(1000)))
    for task_bytes in (1, 10**9):
        ingest_day(spec(files="%Y-%m-%d *.csv"), DAY, tmp_path, lake, LocalRunner(), task_bytes=task_bytes, part_rows=700)
        assert [pq.read_metadata(part).num_rows for part in raw_parts(lake, "small", DAY)] == [700] * 4 + [200]
        assert raw_table(lake, "small", DAY)["v"].to_pylist() == [f"{f} {i}" for f in range(3) for i in range(1000)]


def test_a_day_without_lines_is_an_empty_partition(tmp_path: Path, lake: Lake) -> None:
    (tmp_path / "a.csv").write_text(f"{MIDNIGHT},a,1.0,1\n")
    done = ingest_day(spec(), "2026-05-03", tmp_path, lake, LocalRunner())
    assert (done.rows, done.quarantined, done.files) == (0, 0, 0)
    assert raw_table(lake, "small", "2026-05-03").schema == raw_schema(spec())


def test_a_wrong_header_leaves_no_partition(tmp_path: Path, lake: Lake) -> None:
    (tmp_path / "a.csv").write_text("t,v,y\n1,a,1\n")
    with pytest.raises(WrongFile, match=r"a\.csv: header lacks column 'x'"):
        ingest_day(spec(header=True), DAY, tmp_path, lake, LocalRunner())
    assert not lake.has("raw_logs", "small", DAY)


@pytest.mark.parametrize("form", ["jsonl", "parquet", "tsv"])
def test_every_format_gives_the_same_day(form: str, tmp_path: Path, lake: Lake) -> None:
    rng = np.random.default_rng(0)
    rows = [
        {"t": int(MIDNIGHT + t), "v": None if i % 9 == 0 else f"w{i}", "x": i / 8, "y": i % 2 if i % 50 else None}
        for i, t in enumerate(rng.integers(-9000, 9000, 3000))
    ]
    path = tmp_path / f"a.{form}"
    if form == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif form == "tsv":
        path.write_text("".join("\t".join("" if v is None else str(v) for v in row.values()) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=700)
    done = ingest_day(spec(files=f"*.{form}", format=form), DAY, tmp_path, lake, LocalRunner())
    wanted = sorted((r for r in rows if r["t"] >= MIDNIGHT and r["y"] is not None), key=lambda row: row["t"])
    assert raw_table(lake, "small", DAY).drop_columns("event_time").to_pylist() == wanted
    assert done.reasons == {"label missing": sum(r["y"] is None and r["t"] >= MIDNIGHT for r in rows)}


def test_parquet_that_does_not_fit(tmp_path: Path, lake: Lake) -> None:
    columns = {"t": [MIDNIGHT] * 4, "v": ["a"] * 4, "x": ["1.5", "x", "inf", "2"], "y": [1.0, 0.0, 1.0, 0.5]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    whole = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "b.parquet").write_bytes(whole[: len(whole) // 2])
    done = ingest_day(spec(files="*.parquet", format="parquet"), DAY, tmp_path, lake, LocalRunner())
    assert done.rows == 1
    first = [(q["file"], q["line"], q["reason"]) for q in quarantine_table(lake, "small", DAY).to_pylist()]
    assert first == [("a.parquet", n, f"bad number in column {c}") for n, c in ((2, "x"), (3, "x"), (4, "y"))]


KILLED = """
import sys
from ml.lake import Lake
from ml.logs.ingest import ingest_day
from ml.compute.runner import LocalRunner
from tests.ml.logs.test_ingest import DAY, spec
print("begin", flush=True)
ingest_day(spec(), DAY, sys.argv[1], Lake.at(sys.argv[2]), LocalRunner(), task_bytes=200_000, part_rows=20_000)
"""


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("in_order", [True, False])
def test_killed_at_any_moment_then_rerun(in_order: bool, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    write_log(logs, in_order, files=8, rows=30_000)
    whole = Lake.at(tmp_path / "whole")
    started = time.perf_counter()
    ingest_day(spec(), DAY, logs, whole, LocalRunner(), task_bytes=200_000, part_rows=20_000)
    takes = time.perf_counter() - started
    lake = Lake.at(tmp_path / "killed")
    killed = 0
    for share in np.random.default_rng(SEED).permutation(np.linspace(0.05, 0.97, 7 * TRIALS)):
        command = [sys.executable, "-c", KILLED, str(logs), str(lake.root)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert process.stdout is not None and process.stdout.readline() == b"begin\n"
        time.sleep(takes * share)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        killed += process.returncode == -signal.SIGKILL
        # Whatever can be seen is complete.
        if lake.has("raw_logs", "small", DAY):
            assert digest(lake) == digest(whole)
            lake.discard("raw_logs", "small", DAY)
        else:
            assert not os.path.exists(lake.partition("raw_logs", "small", DAY).path)  # noqa: PTH110
    assert killed
    ingest_day(spec(), DAY, logs, lake, LocalRunner(), task_bytes=200_000, part_rows=20_000)
    assert digest(lake) == digest(whole)
