from __future__ import annotations

from typing import Any

import pytest

from ml.tuning.errors import ApiError
from ml.tuning.values import MAX_DEPTH, Reader, as_identity, check


def nested(levels: int) -> Any:
    return [nested(levels - 1)] if levels else 1


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": [1, {"b": float("nan")}]}, "a[1].b: must be a finite number"),
        ({"a": 10**400}, "a: must be a finite number with an absolute value of at most 1e+300"),
        ({"a": "\0"}, "a: contains NUL or half of a surrogate pair"),
        ({"a": ["\udc80"]}, "a[0]: contains NUL or half of a surrogate pair"),
        ({"\ud800": 1}, "'\\ud800': contains NUL or half of a surrogate pair"),
        ({"a": {1: 2}}, "a: keys must be strings"),
        ({"a": {1, 2}}, "a: has the type set, which JSON does not have"),
        (nested(MAX_DEPTH + 1), "has more than 32 levels"),
        ([], None),
        (nested(MAX_DEPTH), None),
        ({"a": [None, True, 2**70, 1.5, "é𝄞"]}, None),
    ],
)
def test_only_values_that_can_be_stored_are_accepted(value: Any, text: str | None) -> None:
    if text is None:
        assert check(value) == value
        return
    with pytest.raises(ApiError) as refusal:
        check(value)
    assert text in refusal.value.message
    assert refusal.value.status == 400
    refusal.value.message.encode()


def test_logs_lose_the_characters_that_cannot_be_stored() -> None:
    assert check({"logs": {"stdout": {"content": "a\0b\ud800"}}}) == {"logs": {"stdout": {"content": "a\ufffdb\ufffd"}}}


@pytest.mark.parametrize(
    ("value", "identity"), [("7", 7), (7, 7), ("x", None), (True, None), (-1, None), (10**18, None), ("²", None)]
)
def test_identities(value: object, identity: int | None) -> None:
    assert as_identity(value) == identity


def test_keys_that_nobody_reads_are_refused() -> None:
    reader = Reader({"name": "a", "x": 1, "b": 2}, "metrics[0]")
    reader.text("name")
    with pytest.raises(ApiError, match=r"metrics\[0\].b: is not a known key; expected name"):
        reader.close()
