"""Labels that are words, values of a list, or -1 and 1, read alike by ingestion, features, statistics and serving."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from ml.catalog.labels import LabelRule
from ml.catalog.load import CatalogError, load_dataset
from ml.catalog.spec import DatasetSpec
from ml.logs.labels import label_codes
from ml.logs.quarantine import LABEL_MISSING, LABEL_UNKNOWN
from ml.quality.scan_parquet import scan_parquet
from ml.retrieval.interactions import positive
from ml.schema import LABEL
from ml.stages import RAW_LOGS
from tests.helpers.feature_ways import features_in_every_way

DAY = "2026-01-01"
START = 1_767_225_600


def entry(label: dict[str, Any], kind: str = "string", **more: Any) -> DatasetSpec:
    columns = {"time": "int", "user": "string", "item": "int", "said": kind}
    return DatasetSpec.model_validate(
        {
            "name": "said",
            "description": "A log whose label is in words.",
            "source": {"files": "*.csv", "format": "csv", "columns": columns},
            "time": {"column": "time"},
            "partitions": {"start": DAY, "end": DAY},
            "user": "user",
            "item": "item",
            "label": {"column": "said", **label},
            "sparse": ["user", "item"],
            **more,
        }
    )


CASES = [
    ({"is": ["click", "buy"]}, "string", ["click", "view", "buy", "Click", "", "skip"], [1, 0, 1, 0, None, 0]),
    ({"is": ["click"], "is_not": ["view"]}, "string", ["click", "view", "buy", ""], [1, 0, LABEL_UNKNOWN, None]),
    ({"is": [1], "is_not": [-1]}, "int", ["1", "-1", "0", "2", ""], [1, 0, LABEL_UNKNOWN, LABEL_UNKNOWN, None]),
    ({"is": [1, 2.5]}, "float", ["1", "2.5", "0", "1.0", ""], [1, 1, 0, 1, None]),
    ({"is": [False]}, "bool", ["false", "true", "0", ""], [1, 0, 1, None]),
    (
        {},
        "string",
        ["yes", "No", "TRUE", "f", " y ", "1", "0", "-1", "maybe", ""],
        [1, 0, 1, 0, 1, 1, 0, *[LABEL_UNKNOWN] * 2, None],
    ),
    ({}, "bool", ["true", "False", "1", ""], [1, 0, 1, None]),
    ({}, "int", ["1", "0", "-1", ""], [1, 0, LABEL_UNKNOWN, None]),
]


@pytest.mark.parametrize(("label", "kind", "texts", "means"), CASES)
def test_a_label_means_the_same_everywhere(
    label: dict[str, Any], kind: str, texts: list[str], means: list[Any], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """`means` has 1, 0, None for a missing label, or the reason of the quarantine."""
    spec, folder = entry(label, kind), tmp_path / "logs"
    folder.mkdir()
    lines = [f"{START + n},u{n % 2},{n},{text}\n" for n, text in enumerate(texts)]
    (folder / "log.csv").write_text("".join(lines))
    spark = request.getfixturevalue("spark") if "is_not" in label else None  # Spark takes long, and runs the same tasks
    rows, features, lake = features_in_every_way(spec, folder, DAY, spark)
    wanted = [mean for mean in means if mean in (0, 1)]
    assert features[LABEL].to_pylist() == wanted
    assert positive(spec, rows).tolist() == [bool(one) for one in wanted]
    reasons = [LABEL_MISSING if mean is None else mean for mean in means if mean not in (0, 1)]
    manifest = lake.manifest(RAW_LOGS, spec.name, DAY)
    assert manifest["reasons"] == {reason: reasons.count(reason) for reason in sorted(set(reasons))}
    profile = scan_parquet(spec, RAW_LOGS, lake.partition(RAW_LOGS, spec.name, DAY), {}, (0, 2**62))
    assert (profile.positives, profile.bad_labels) == (sum(wanted), 0)


def test_dictionaries_have_the_labels_of_their_values() -> None:
    rule = LabelRule("label", "label", "said", positive=("buy",), negative=("view",))
    values = pa.array(["buy", "view", "other", None]).take(pa.array(np.random.default_rng(0).integers(0, 4, 200)))
    chunks = pa.chunked_array([values.slice(0, 77), values.slice(77)])
    for other in (values.dictionary_encode(), chunks, chunks.dictionary_encode()):
        assert np.array_equal(label_codes(other, rule), label_codes(values, rule))


def test_further_labels_are_read_by_their_values() -> None:
    spec = entry({"is": ["buy"]}, labels={"seen": {"column": "said", "is": ["buy", "view"]}})
    assert [rule.positive for rule in spec.label_rules] == [("buy",), ("buy", "view")]
    assert len({entry({"is": ["buy"]}, labels={"seen": {"column": "said", "is": [v]}}).fingerprint for v in "ab"}) == 2


def test_raw_rows_depend_on_the_values_that_are_quarantined_only() -> None:
    one, other = entry({"is": ["buy"]}), entry({"is": ["click"]})
    assert one.log.fingerprint == other.log.fingerprint and one.fingerprint != other.fingerprint
    assert entry({"is": ["buy"], "is_not": ["view"]}).log.fingerprint != one.log.fingerprint
    assert DatasetSpec.model_validate(one.model_dump(mode="json")) == one


@pytest.mark.parametrize(
    ("label", "kind", "message"),
    [
        ({"is": ["a"], "at_least": 1.0}, "string", "cannot be combined with at_least"),
        ({"is_not": ["a"]}, "string", "needs `is`"),
        ({"is": ["a", "a"]}, "string", "more than once"),
        ({"is": ["a"], "is_not": ["a"]}, "string", "more than once"),
        ({"is": []}, "string", "at least 1 item"),
        ({"is": [True]}, "string", "found True; put the word in quotes"),
        ({"is": ["1"]}, "int", "'said' is int, expected such a value, found '1'"),
        ({"is": [True]}, "int", "found True"),
        ({"is": ["yes"], "is_not": [0]}, "string", "found 0"),
        ({"at_least": 1.0}, "string", "expected a number; `is` lists values"),
        ({"column": None, "negatives": {}, "is": ["a"]}, "string", "needs column"),
    ],
)
def test_lists_that_make_no_sense_are_refused(label: dict[str, Any], kind: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        entry(label, kind)


def test_a_refusal_names_the_path_and_the_line(tmp_path: Path) -> None:
    path = tmp_path / "said.yaml"
    path.write_text(
        "name: said\ndescription: d\nsource: {files: a, format: csv, columns: {t: int, said: string}}\ntime: {column: t}\n"
        "partitions: {start: 2026-01-01}\nsparse: [t]\nlabel:\n  column: said\n  is: [yes]\n"
    )
    with pytest.raises(CatalogError, match=r"said.yaml: label.is.0: .*found True; put the word in quotes.*\(line 9\)"):
        load_dataset(path)
    path.write_text(path.read_text().replace("is: [yes]", "are: [yes]"))
    with pytest.raises(CatalogError, match=r"label.are: unknown key.*'is'"):
        load_dataset(path)
