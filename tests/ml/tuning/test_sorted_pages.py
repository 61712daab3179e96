"""Pages of lists that are sorted by any value."""

from __future__ import annotations

import random
from itertools import chain
from typing import Any

import pytest

from ml.tuning.errors import ApiError
from ml.tuning.sorted_pages import sort_key, sorted_page


def pages(values: list[Any], **data: Any) -> list[list[int]]:
    """Ids on all pages, from the first to the last."""
    keyed = [(sort_key(value, index), {"id": index}) for index, value in enumerate(values)]
    following, found = "after" if data["ascending"] == "true" else "before", []
    while True:
        page = sorted_page(keyed, data, lambda item: item)
        assert page["count"] == len(values)
        found.append([item["id"] for item in page["data"]])
        if page["paging"][following] is None:
            return found
        data[following] = page["paging"][following]


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
@pytest.mark.parametrize("ascending", ["true", "false"])
def test_pages_hold_every_object_once_and_in_order(limit: int, ascending: str) -> None:
    values = [3, 1, 2.5, 1, "b", "a", 1]
    found = list(chain.from_iterable(pages(values, limit=str(limit), ascending=ascending)))
    expected = [1, 3, 6, 2, 0, 5, 4]
    assert found == (expected if ascending == "true" else expected[::-1])


def test_the_order_does_not_depend_on_the_order_of_the_rows() -> None:
    items = [(sort_key(number % 3, number), {"id": number}) for number in range(20)]
    shuffled = random.Random(1).sample(items, len(items))
    first, second = (sorted_page(rows, {"limit": "7"}, lambda item: item) for rows in (items, shuffled))
    assert first == second


def test_markers_lead_back_and_limit_a_list_on_both_sides() -> None:
    items = [(sort_key(number, number), number) for number in range(6)]

    def read(**data: str) -> tuple[list[int], dict[str, Any]]:
        page = sorted_page(items, data, lambda item: {"id": item})
        return [item["id"] for item in page["data"]], page["paging"]

    found, paging = read(limit="2")
    assert found == [5, 4]
    second, marks = read(limit="2", before=paging["before"])
    assert second == [3, 2]
    assert read(limit="2", after=marks["after"])[0] == [5, 4]
    assert read(limit="2", after=marks["after"], ascending="true")[0] == [4, 5]
    between = {"before": paging["after"], "after": marks["before"]}
    assert read(**between)[0] == [4, 3] and read(**between, ascending="true")[0] == [3, 4]
    assert read(**between, limit="1")[0] == [4] and read(**between, limit="1", ascending="true")[0] == [3]


def test_a_page_of_no_objects_leads_to_the_first_page() -> None:
    items = [(sort_key(number, number), {"id": number}) for number in range(3)]
    empty = sorted_page(items, {"limit": "0"}, lambda item: item)
    assert empty["data"] == [] and empty["count"] == 3
    rest = sorted_page(items, {"before": empty["paging"]["before"]}, lambda item: item)
    assert [item["id"] for item in rest["data"]] == [2, 1, 0]


@pytest.mark.parametrize(
    "data",
    [
        {"limit": "-1"},
        {"limit": "1001"},
        {"limit": "many"},
        {"before": "???"},
        {"before": ""},
        {"before": "é"},
        {"after": "W10"},
        {"before": "W3RydWUsIDEsIHt9XQ"},
        {"ascending": "perhaps"},
    ],
)
def test_invalid_parameters_are_refused(data: dict[str, str]) -> None:
    with pytest.raises(ApiError) as refused:
        sorted_page([(sort_key(1, 1), {}), (sort_key("a", 2), {})], data, lambda item: item)
    assert refused.value.status == 400
