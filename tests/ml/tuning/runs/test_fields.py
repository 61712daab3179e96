"""Fields of a run: what is accepted, and how PUT and MERGE differ."""

from __future__ import annotations

from typing import Any

import pytest

from ml.tuning.errors import ApiError
from ml.tuning.runs.fields import MAX_KEYS, MAX_LOG, apply, merged, read_fields
from ml.tuning.values import Reader


def read(data: dict[str, Any]) -> dict[str, Any]:
    reader = Reader(data)
    found = read_fields(reader)
    reader.close()
    return found


@pytest.mark.parametrize(
    "data",
    [
        {"name": "run", "state": "completed", "favorite": True, "deleted": False},
        {"assignments": {"lr": 0.1, "arch": "dcn", "layers": None}, "metadata": {"{'\"\\}": 1}},
        {"values": {"auc": {"value": 2}, "time": {"value": 2.5, "value_stddev": 0.1}}},
        {"source_code": {"hash": "abc", "content": ""}, "model": {"type": "xgboost"}, "datasets": {"iris": {}}},
        {"logs": {"stdout": {"content": ""}}, "sys_metadata": {"feature_importances": {"scores": {"a": 1}, "type": "gain"}}},
        {"assignments_sources": {"user": {"sort": 1, "default_show": True}}, "dev_metadata": {"x": 1}},
        {"assignments": None, "metadata": None, "values": None, "logs": None, "model": None},
    ],
)
def test_valid_fields_are_read_as_they_are(data: dict[str, Any]) -> None:
    assert read(data) == data


@pytest.mark.parametrize(
    ("data", "path"),
    [
        ({"name": None}, "name"),
        ({"name": ""}, "name"),
        ({"name": 1}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"state": None}, "state"),
        ({"state": "broken"}, "state"),
        ({"favorite": "yes"}, "favorite"),
        ({"deleted": 1}, "deleted"),
        ({"values": []}, "values"),
        ({"values": {"auc": 1}}, "values.auc"),
        ({"values": {"auc": {"value": "high"}}}, "values.auc.value"),
        ({"values": {"auc": {"value_stddev": 1}}}, "values.auc.value"),
        ({"values": {"auc": {"value": 1, "value_stddev": -1}}}, "values.auc.value_stddev"),
        ({"values": {"auc": {"value": 1, "other": 1}}}, "values.auc.other"),
        ({"metadata": {"a": {}}}, "metadata.a"),
        ({"metadata": {"a": "x" * 501}}, "metadata.a"),
        ({"metadata": {"x" * 101: 1}}, "metadata"),
        ({"source_code": {"hash": 123}}, "source_code.hash"),
        ({"source_code": []}, "source_code"),
        ({"model": "xgboost"}, "model"),
        ({"model": {"kind": "xgboost"}}, "model.kind"),
        ({"logs": {"stdout": {}}}, "logs.stdout.content"),
        ({"logs": {"stdout": {"content": 1}}}, "logs.stdout.content"),
        ({"datasets": {"iris": 1}}, "datasets.iris"),
        ({"assignments_meta": {"lr": {"source": "SigOpt"}}}, "assignments_meta.lr.source"),
        ({"assignments_sources": {"x" * 31: {"sort": 1}}}, "assignments_sources"),
        ({"completed": 0}, "completed"),
        ({"unknown": None}, "unknown"),
    ],
)
def test_invalid_fields_are_refused_with_their_path(data: dict[str, Any], path: str) -> None:
    with pytest.raises(ApiError) as refused:
        read(data)
    assert refused.value.status == 400 and refused.value.message.startswith(path)


def test_logs_are_truncated() -> None:
    assert read({"logs": {"stdout": {"content": "a" * 5000}}})["logs"]["stdout"]["content"] == "a" * MAX_LOG


def test_merge_is_recursive_and_null_deletes() -> None:
    old = {"a": {"value": 1, "value_stddev": 0.5}, "b": {"value": 2}}
    assert merged(old, {"a": {"value": 3}, "b": None, "c": {"value": 4}}) == {
        "a": {"value": 3, "value_stddev": 0.5},
        "c": {"value": 4},
    }
    assert merged(None, {"a": None, "b": 1}) == {"b": 1}
    assert merged({"a": 1}, {"a": {"x": 1}}) == {"a": {"x": 1}}
    assert old == {"a": {"value": 1, "value_stddev": 0.5}, "b": {"value": 2}}


def test_put_replaces_and_merge_merges() -> None:
    row = {"metadata": {"a": 1}, "values": {"auc": {"value": 1}}}
    given = {"metadata": {"b": 2}, "values": None, "name": "new"}
    assert apply(row, given, merge=False) == {"metadata": {"b": 2}, "values": None, "name": "new"}
    assert apply(row, given, merge=True) == {"metadata": {"a": 1, "b": 2}, "values": None, "name": "new"}


def test_maps_cannot_grow_without_limit() -> None:
    row = {"metadata": {str(key): 1 for key in range(MAX_KEYS)}}
    assert len(apply(row, {"metadata": {"0": 2}}, merge=True)["metadata"]) == MAX_KEYS
    with pytest.raises(ApiError, match="metadata: has more than"):
        apply(row, {"metadata": {"one": 2}}, merge=True)


def test_metadata_of_assignments_needs_the_assignment() -> None:
    meta = {"assignments_meta": {"lr": {"source": "user"}}}
    assert apply({"assignments": {"lr": 1}}, meta, merge=True) == meta
    assert apply({}, {**meta, "assignments": {"lr": 1}}, merge=False)["assignments_meta"] == meta["assignments_meta"]
    with pytest.raises(ApiError, match=r"assignments_meta\.lr"):
        apply({"assignments": {"batch": 1}}, meta, merge=True)
