"""From raw Criteo TSV to features in Parquet, compared with the DLRM reference code, Polars, and Spark's own expressions.

All sides start from the same file and write Parquet. The file has more than two million rows, made from the real sample or, if
there is none, from generated rows of the same shape (the note says which). Two cores are used; Spark and compiled kernels are
warm. The log has two days, because a vocabulary is used only from the second day on. Our side checks every line and sorts the
rows; the baselines do neither.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
from upath import UPath

from benchmarks._criteo_baselines import dlrm_reference, polars_features, spark_features
from benchmarks.real_logs import NoRealLogs, criteo_folder
from benchmarks.result import Result
from ml.catalog.load import load_catalog
from ml.catalog.spec import DatasetSpec
from ml.compute.runner import SparkRunner
from ml.compute.spark import start_session
from ml.features.clean import clean_day
from ml.features.transforms import compile_transforms
from ml.lake import Lake
from ml.logs.ingest import ingest_day
from ml.logs.sources import find_files
from ml.logs.streams import blocks
from ml.logs.text.layout import Layout
from ml.logs.text.parse import parse_block
from ml.parquet import write_table
from ml.schema import EVENT_TIME

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ROWS, FEW, MIN_COUNT = 2_200_000, 40_000, 10
LOG = "train.tsv"
DENSE = [f"I{n}" for n in range(1, 14)]
SPARSE = [f"C{n}" for n in range(1, 27)]


def run() -> list[Result]:
    spark = start_session("local[2]")
    hashed, words = _spec(vocabularies=False), _spec(vocabularies=True)
    with tempfile.TemporaryDirectory() as folder:
        root, few = Path(folder), Path(folder) / "few"
        log, source = root / LOG, _write_log(root, ROWS)
        _write_log(few, FEW)
        for spec in (hashed, words):
            _product(spec, few, root / "warm", spark)
        _straight(hashed, few, root / "warm", spark)
        spark_features(spark, few / LOG, root / "warm" / "spark")

        plain = FEW / _timed(dlrm_reference, few / LOG, few)
        read = ROWS / _fastest(_read_only, log)
        results: list[Result] = []
        for spec, name, min_count in ((hashed, "hashed ids", 0), (words, "vocabularies", MIN_COUNT)):
            whole, cleaning = min(_product(spec, root, root / f"{name} {n}", spark) for n in range(2))
            polars = ROWS / _fastest(polars_features, log, root, min_count, True)
            what, ours = f"Criteo TSV to features, {name}", ROWS / whole
            alone = f"raw_logs and cleaned_features; the latter alone {ROWS / cleaning:,.0f} rows/s"
            note = f"{alone}. Floor: pyarrow only reads the TSV. {source}"
            results += [
                Result(what, "rows/s", ours, plain, "the DLRM reference code, one core", read, note),
                Result(what, "rows/s", ours, polars, "Polars, both partitions, two cores", read, source),
            ]
        native = ROWS / _fastest(spark_features, spark, log, root / "spark")
        straight = ROWS / _fastest(_straight, hashed, root, root / "straight", spark)
        polars = ROWS / _fastest(polars_features, log, root, 0, False)
    what, ours = results[0].name, results[0].ours
    no_stop = "the same parser, transforms and writer, block by block, without order, quarantine and raw_logs"
    return [
        *results,
        Result(what, "rows/s", ours, native, "Spark's own expressions, two cores", read, source),
        Result(f"{what}, without raw_logs", "rows/s", straight, polars, "Polars, two cores", read, no_stop),
    ]


def _timed(work: Callable[..., object], *arguments: object) -> float:
    started = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - started


def _fastest(work: Callable[..., object], *arguments: object) -> float:
    return min(_timed(work, *arguments) for _ in range(2))


def _spec(vocabularies: bool) -> DatasetSpec:
    declared: dict[str, Any] = load_catalog()["criteo"].model_dump(mode="json")
    declared["source"]["files"] = LOG
    declared["partitions"] = {"start": "2014-01-01", "end": "2014-01-02"}
    # The baselines have no buckets of counts.
    declared["sparse"] = [feature for feature in declared["sparse"] if not feature["bucketise"]]
    if vocabularies:
        declared["sparse"] = [{"name": name, "vocabulary": {"min_count": MIN_COUNT}} for name in SPARSE]
    return DatasetSpec.model_validate(declared)


def _product(spec: DatasetSpec, logs: Path, lake: Path, spark: SparkSession) -> tuple[float, float]:
    """Return the seconds from the raw file to both days' features, and the part of them spent in `cleaned_features`."""
    runner, there = SparkRunner(spark), Lake.at(lake)
    started, cleaning = time.perf_counter(), 0.0
    for day in spec.days():
        ingest_day(spec.log, day, str(logs), there, runner)
        cleaning += clean_day(spec, day, there, str(logs), runner, spark).seconds
    return time.perf_counter() - started, cleaning


def _straight(spec: DatasetSpec, logs: Path, out: Path, spark: SparkSession) -> None:
    """Write features of the raw file block by block, with Evergreen's parser, transforms and writer."""
    file = find_files(spec.source, str(logs))[0]
    layout, last = Layout.declared(spec.source), file.size // (8 << 20)

    def task(index: int) -> int:
        rows = 0
        for block in blocks(file, index, index):
            table = parse_block(layout, block.data).table
            timed = table.add_column(0, EVENT_TIME, pa.array(np.arange(len(table))))
            features = compile_transforms(spec)(timed.combine_chunks().to_batches()[0])
            write_table(pa.Table.from_batches([features]), UPath(out / f"part-{block.index:05d}.parquet"))
            rows += len(features)
        return rows

    SparkRunner(spark).map(task, range(last + 1))


def _read_only(path: Path) -> None:
    names = ["label", *DENSE, *SPARSE]
    types = {name: pa.string() if name in SPARSE else pa.int64() for name in names}
    pcsv.read_csv(
        path,
        read_options=pcsv.ReadOptions(column_names=names),
        parse_options=pcsv.ParseOptions(delimiter="\t", quote_char=False),
        convert_options=pcsv.ConvertOptions(column_types=types, null_values=[""], strings_can_be_null=True),
    )


def _write_log(folder: Path, rows: int) -> str:
    """Write a TSV of `rows` rows and return its source. Every copy of the sample after the first has other rare categories."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        sample, source = _real(criteo_folder() / "train.txt.gz"), "real sample repeated"
    except NoRealLogs:
        sample, source = _generated(), "generated rows: no real logs found"
    rng = np.random.default_rng(0)
    with (folder / LOG).open("wb") as file:
        options = pcsv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
        for copy in range(-(-rows // len(sample))):
            table = sample.slice(0, min(len(sample), rows - copy * len(sample)))
            for name in SPARSE if copy else []:
                other = pc.call_function("binary_replace_slice", [table[name]], pc.ReplaceSliceOptions(4, 8, f"{copy:04x}"))
                changed = pa.array(rng.random(len(table)) < 0.2)
                values = pc.call_function("if_else", [changed, other, table[name]])
                table = table.set_column(table.schema.get_field_index(name), name, values)
            pcsv.write_csv(table, file, options)
    return source


def _real(path: Path) -> pa.Table:
    names = ["label", *DENSE, *SPARSE]
    return pcsv.read_csv(
        path,
        read_options=pcsv.ReadOptions(column_names=names),
        parse_options=pcsv.ParseOptions(delimiter="\t"),
        convert_options=pcsv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True),
    )


def _generated(rows: int = 140_000) -> pa.Table:
    """Rows of Criteo's shape: counts with missing values, and Zipf-distributed categories of 3 to 100,000 values."""
    rng = np.random.default_rng(1)
    columns: dict[str, pa.Array] = {"label": pa.array((rng.random(rows) < 0.25).astype(int).astype(str))}
    for name in DENSE:
        columns[name] = pa.array((rng.zipf(1.6, rows) % 10_000).astype(str), mask=rng.random(rows) < 0.2)
    for n, name in enumerate(SPARSE):
        values = rng.zipf(1.3, rows) % int(3 * 1.5**n)
        words = np.array([f"{value * 2_654_435_761 % 2**32:08x}" for value in range(int(3 * 1.5**n))])
        columns[name] = pa.array(words[values], mask=rng.random(rows) < 0.1)
    return pa.table(columns)
