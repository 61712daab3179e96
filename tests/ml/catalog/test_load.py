"""The four catalog files with wrong keys and values, in thousands of ways.

A wrong entry is refused with file, key and expectation, a valid one is loaded as written, and no other exception is raised.
"""

from __future__ import annotations

import copy
import re
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ml.catalog.expand import expand_entry
from ml.catalog.explain import coercions
from ml.catalog.load import CATALOG, CatalogError, load_catalog, load_dataset
from ml.recipes.recipe import recipe_of
from tests.helpers.catalog_files import NAMES, TEXTS, KeyPath, at, changed, data_of, harmless, refusal, walk
from tests.helpers.trials import examples

FREE = {"models", "columns", "rename", "overrides", "recent"}  # mappings whose keys are the user's own


def names_key(message: str, keys: KeyPath) -> bool:
    """Whether a line's key path contains the last of the keys, or leads to its parent; list entries are named."""
    steps = [str(key) for key in keys if isinstance(key, str)]
    paths = [line.partition(": ")[0].split(".") for line in message.splitlines()]
    return any(path[0] == steps[0] and (steps[-1] in path or len(path) <= len(keys) or "{" in steps[-1]) for path in paths)


def mappings(name: str) -> list[KeyPath]:
    found = [keys for keys, value in walk(data_of(name)) if isinstance(value, dict) and keys[-1] not in FREE]
    return [(), *found]


def test_the_catalog_as_it_is_loads_and_says_what_the_files_say() -> None:
    for name, spec in load_catalog().items():
        assert coercions(expand_entry(data_of(name)), spec.model_dump()) == []


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_key_anywhere_is_refused(tmp_path: Path, name: str) -> None:
    for keys in mappings(name):
        data = copy.deepcopy(data_of(name))
        at(data, keys)["zzz"] = 1
        message = refusal(tmp_path, name, data)
        assert "zzz: unknown key, found 1" in message and names_key(message, (*keys, "zzz")), message


@pytest.mark.parametrize("name", NAMES)
def test_a_misspelt_key_is_refused_with_the_right_one(tmp_path: Path, name: str) -> None:
    for keys in mappings(name):
        for key in at(data_of(name), keys):
            data = copy.deepcopy(data_of(name))
            mapping = at(data, keys)
            mapping[key + key[-1]] = mapping.pop(key)
            message = refusal(tmp_path, name, data)
            assert "unknown key, found" in message and f"did you mean {key!r}?" in message, message
            assert names_key(message, (*keys, key + key[-1])), message


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_key_is_refused_with_what_it_is_for(tmp_path: Path, name: str) -> None:
    for key in ("name", "description", "source", "time", "partitions", "label", "sparse"):
        data = data_of(name)
        del data[key]
        assert f"{key}: missing; expected: " in refusal(tmp_path, name, data)
    for keys in (("source", "files"), ("source", "format"), ("source", "columns"), ("partitions", "start")):
        data = data_of(name)
        del at(data, keys[:-1])[keys[-1]]
        assert f"{'.'.join(keys)}: missing; expected: " in refusal(tmp_path, name, data)


WRONG: dict[type, list[Any]] = {
    bool: ["yes", "maybe", 3, 0, 1, 1.0, [True], {"a": True}, date(2020, 1, 1)],
    int: ["7", "many", 7.5, True, [7], {"a": 7}, date(2020, 1, 1)],
    float: ["0.5", "half", True, [0.5], {"a": 0.5}, float("nan"), float("inf")],
    str: [3, 2.5, True, ["a"], {"a": "b"}, date(2020, 1, 1)],
    date: [20140101, "soon", "2014-02-31", True, 1.5, ["2014-01-01"], "2014-01-01T00:00:00"],
    list: [3, True, "text", {"a": 1}],
    dict: [3, True, "text", ["a"]],
}


@pytest.mark.parametrize("name", NAMES)
def test_a_value_of_another_type_anywhere_is_refused(tmp_path: Path, name: str) -> None:
    tried = 0
    for keys, value in walk(data_of(name)):
        for wrong in WRONG[type(value)] if value is not None else []:
            is_short_form = keys[0] in ("dense", "sparse") and len(keys) == 2 and isinstance(wrong, str | dict)
            if is_short_form or (type(value) is int and wrong == 7.5 and _takes_float(name, keys)):
                continue
            message = refusal(tmp_path, name, changed(name, keys, wrong))
            assert names_key(message, keys), (keys, wrong, message)
            assert re.search("expected|unknown key|missing|give |no column", message), (keys, wrong, message)
            tried += 1
    assert tried > 150


def _takes_float(name: str, keys: KeyPath) -> bool:
    numbers = ("min", "max", "window_hours", "at_least", "scale", "filled_in_seconds", "live_hours", "slice_minutes")
    return keys[-1] in numbers or bool({"clip", "bucketise", "recent", "popularity_minutes"} & set(keys))


IMPOSSIBLE: list[tuple[str, KeyPath, Any, str]] = [
    ("criteo", ("demo_days",), 1, "demo_days"),
    ("criteo", ("name",), "Criteo", "name"),
    ("criteo", ("name",), "globo", "name"),
    ("criteo", ("sparse",), [], "sparse"),
    ("criteo", ("source", "columns"), {}, "source.columns"),
    ("criteo", ("source", "columns", "C{1..26}"), "str", "source.columns.C1"),
    ("criteo", ("source", "columns", ""), "int", "source.columns"),
    ("criteo", ("source", "format"), "xml", "source.format"),
    ("criteo", ("source", "files"), "", "source.files"),
    ("criteo", ("source", "files"), "/etc/passwd", "source.files"),
    ("criteo", ("source", "files"), "../other/*.gz", "source.files"),
    ("synthetic", ("source", "files"), "%Y-%m.csv", "source.files"),
    ("synthetic", ("source", "files"), "%Y-%m-%d-%Q.csv", "source.files"),
    ("synthetic", ("source", "files"), "%", "source.files"),
    ("criteo", ("source", "separator"), "\n", "source.separator"),
    ("criteo", ("source", "separator"), "::", "source.separator"),
    ("criteo", ("source", "spill_days"), 1, "source.spill_days"),
    ("criteo", ("source", "encoding"), "utf-16", "source.encoding"),
    ("criteo", ("source", "rename"), {"a": "nowhere"}, "source.rename"),
    ("criteo", ("source", "rename"), {"a": "label", "b": "label"}, "source.rename"),
    ("criteo", ("source", "columns", "event_time"), "int", "source.columns"),
    ("criteo", ("time", "timezone"), "Mars/Olympus", "time.timezone"),
    ("criteo", ("time", "timezone"), "../../etc/passwd", "time.timezone"),
    ("criteo", ("time", "timezone"), "America", "time.timezone"),
    ("criteo", ("time", "timezone"), "", "time.timezone"),
    ("criteo", ("time", "column"), "I1", "time"),
    ("criteo", ("time",), {}, "time"),
    ("criteo", ("partitions", "end"), None, "time.by_position"),
    ("criteo", ("partitions", "end"), date(2013, 12, 31), "partitions.end"),
    ("criteo", ("partitions", "end"), date(9999, 12, 31), "partitions.end"),
    ("criteo", ("label", "column"), "clicked", "label.column"),
    ("criteo", ("label",), {"column": "C1", "at_least": 1.0}, "label.at_least"),
    ("criteo", ("label",), {}, "label"),
    ("criteo", ("label",), {"at_least": 3, "negatives": {}}, "label.at_least"),
    ("criteo", ("label",), {"negatives": {}}, "label.negatives"),
    ("criteo", ("sparse", 0), "C{26..1}", "sparse"),
    ("criteo", ("sparse", 0), "C{1..27}", "sparse.C27.column"),
    ("criteo", ("sparse", 0), "C{1..99999999}", "sparse"),
    ("criteo", ("sparse", 0), "C{1..9}{1..9}", "sparse"),
    ("criteo", ("sparse", 0), "", "sparse.0.name"),
    ("criteo", ("sparse", 0), "a.b", "sparse.a.b.name"),
    ("criteo", ("sparse", 0), "label", "sparse.label"),
    ("criteo", ("sparse", 0), "I1", "sparse"),
    ("criteo", ("sparse", 0), {"name": "told", "column": "label"}, "sparse.told"),
    ("criteo", ("dense", 0), {"name": "told", "column": "label"}, "dense.told"),
    ("criteo", ("dense", 0), {"name": "C1"}, "dense.C1.column"),
    ("criteo", ("dense", 0), {"name": "I1", "clip": [5, 5]}, "dense.I1.clip"),
    ("criteo", ("dense", 0), {"name": "I1", "clip": [5]}, "dense.I1.clip.1"),
    ("criteo", ("dense", 0), {"name": "I1", "scale": float("inf")}, "dense.I1.scale"),
    ("criteo", ("slices",), ["nowhere"], "slices.0"),
    ("criteo", ("user",), "nobody", "user"),
    ("criteo", ("oracle",), "I1", "oracle"),
    ("criteo", ("splits",), {"validation": 0.5, "test": 0.5}, "splits"),
    ("criteo", ("splits",), {"validation": -0.1}, "splits.validation"),
    ("criteo", ("splits",), {"by": "luck"}, "splits.by"),
    ("criteo", ("expectations", "label_rate"), {}, "expectations.label_rate"),
    ("criteo", ("expectations", "label_rate"), {"min": 0.5, "max": 0.1}, "expectations.label_rate.min"),
    ("criteo", ("expectations", "label_rate", "severity"), "fatal", "expectations.label_rate.severity"),
    ("criteo", ("expectations", "recent_days"), 0, "expectations.recent_days"),
    ("criteo", ("expectations", "recent_days"), 10**9, "expectations.recent_days"),
    ("criteo", ("expectations", "recent_days"), 10**30, "expectations.recent_days"),
    ("criteo", ("expectations", "unique"), ["nowhere"], "expectations.unique"),
    ("criteo", ("expectations", "columns"), {"C{1..2}": {"value": {"min": 0}}}, "expectations.columns.C1.value"),
    ("criteo", ("expectations", "columns"), {"C{1..2}": {}, "C1": {}}, "expectations.columns"),
    ("globo", ("label", "negatives", "per_positive"), 0, "label.negatives.per_positive"),
    ("globo", ("label", "negatives", "window_hours"), 0, "label.negatives.window_hours"),
    ("globo", ("label", "negatives", "window_hours"), 1e12, "label.negatives.window_hours"),
    ("globo", ("label", "negatives", "seed"), -1, "label.negatives.seed"),
    ("globo", ("item",), None, "label.negatives"),
    ("globo", ("time", "unit"), "iso8601", "time.column"),
    ("globo", ("sparse", 6), {"name": "hour", "hour_of_day": True, "column": "user_id"}, "sparse.hour"),
    ("globo", ("sparse", 7), {"name": "x", "cross": ["user_id"]}, "sparse.x.cross"),
    ("globo", ("sparse", 7), {"name": "x", "cross": ["user_id", "user_id"]}, "sparse.x.cross"),
    ("globo", ("sparse", 7), {"name": "x", "cross": ["user_id", "nowhere"]}, "sparse.x.cross"),
    ("movielens", ("join", 0, "columns"), ["title"], "join.0.columns"),
    ("movielens", ("join", 0, "columns"), ["age"], "join.0.columns"),
    ("movielens", ("join", 1, "columns"), ["age", "gender", "occupation", "user"], "join.1.columns"),
    ("movielens", ("join", 0, "table_key"), "title", "join.0.table_key"),
    ("movielens", ("join", 0, "table_key"), "movie_title", "join.0.table_key"),
    ("movielens", ("join", 0, "log_key"), "age", "join.0.log_key"),
    ("movielens", ("sparse", 5, "bucketise"), [], "sparse.age_group.bucketise"),
    ("movielens", ("sparse", 5, "bucketise"), [3, 2], "sparse.age_group.bucketise"),
    ("movielens", ("sparse", 5, "column"), "gender", "sparse.age_group.bucketise"),
    ("movielens", ("sparse", 6, "column"), "age", "sparse.genres.split"),
    ("movielens", ("sparse", 6, "bucketise"), [1, 2], "sparse.genres.split"),
    ("movielens", ("expectations", "columns"), {"zip_code": {"null_rate": {"max": 0.1}}}, "expectations.columns.zip_code"),
    ("movielens", ("expectations", "columns"), {"genres": {"value": {"max": 1}}}, "expectations.columns.genres.value"),
    ("synthetic", ("simulation", "seed"), -1, "simulation.seed"),
    ("synthetic", ("simulation", "malformed_rate"), 0.9, "simulation.malformed_rate"),
    ("synthetic", ("simulation",), None, "oracle"),
    ("synthetic", ("sparse", 5, "vocabulary"), {"min_count": 0}, "sparse.tags.vocabulary.min_count"),
]


@pytest.mark.parametrize(("name", "keys", "value", "key"), IMPOSSIBLE)
def test_an_impossible_value_is_refused_by_its_key(tmp_path: Path, name: str, keys: KeyPath, value: Any, key: str) -> None:
    whole = data_of(name)
    target: Any = whole
    for step in keys[:-1]:
        target = target.setdefault(step, {}) if isinstance(target, dict) else target[step]
    target[keys[-1]] = value
    message = refusal(tmp_path, name, whole)
    assert any(line.startswith(f"{key}: ") for line in message.splitlines()), message


def test_an_empty_folder_is_no_catalog(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"no \*\.yaml files"):
        load_catalog(tmp_path)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.soak
@examples(150)
@given(data=st.data())
def test_any_value_anywhere_is_refused_or_means_what_it_says(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: Any
) -> None:
    scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates()
    values = st.recursive(
        scalars,
        lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=6), below, max_size=3),
        max_leaves=6,
    )
    keys = data.draw(st.sampled_from([keys for keys, _ in walk(data_of(name))]))
    folder = tmp_path_factory.getbasetemp() / "values"
    folder.mkdir(exist_ok=True)
    text = yaml.safe_dump(changed(name, keys, data.draw(values)), sort_keys=False, allow_unicode=True)
    harmless(folder, name, text.encode("utf-8", "surrogatepass"))


def test_faults_come_together_with_their_lines(tmp_path: Path) -> None:
    text = TEXTS["synthetic"].decode().replace("format: csv", "format: cvs")
    text = text.replace("  - category\n", "  - {name: category, vocabulary: {min_cuont: 10}}\n")
    lines = text.splitlines()
    first = next(i for i, line in enumerate(lines, 1) if "format: cvs" in line)
    second = next(i for i, line in enumerate(lines, 1) if "min_cuont" in line)
    assert refusal(tmp_path, "synthetic", text).splitlines() == [
        f"source.format: expected 'csv', 'tsv', 'jsonl' or 'parquet', found 'cvs' (line {first})",
        f"sparse.category.vocabulary.min_cuont: unknown key, found 10; did you mean 'min_count'? (line {second})",
    ]


def test_a_range_is_pointed_at_where_the_file_has_it(tmp_path: Path) -> None:
    text = TEXTS["criteo"].decode().replace("log1p: true", "log1p: perhaps")
    line = next(i for i, line in enumerate(text.splitlines(), 1) if "perhaps" in line)
    first = refusal(tmp_path, "criteo", text).splitlines()[0]
    assert first == f"dense.I1.log1p: expected true or false, found 'perhaps' (line {line})"


def test_a_recipe_beside_the_entry_comes_before_the_built_in_one(tmp_path: Path) -> None:
    whole = data_of("criteo") | {"models": {"dlrm": {}, "ours": {"recipe": "mine"}}}
    message = refusal(tmp_path, "criteo", whole)
    assert message.startswith("models.ours.recipe: expected one of the recipes ['dcn_v2', 'deepfm', 'dlrm', ")
    assert "found 'mine'" in message
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "mine.yaml").write_text("extends: dlrm\nseed: 7")
    path = tmp_path / "criteo.yaml"
    path.write_text(yaml.safe_dump(whole))
    spec = load_dataset(path)
    assert spec.primary == "dlrm" and spec.models["dlrm"].folder == CATALOG / "recipes"
    assert spec.models["ours"].folder == tmp_path / "recipes"
    assert recipe_of(spec, "ours") == recipe_of(spec, "dlrm").model_copy(update={"seed": 7})
