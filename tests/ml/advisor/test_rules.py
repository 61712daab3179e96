"""Wrong keys of rule files are refused by rule and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from ml.advisor.rule_files import load_rules
from ml.advisor.rules import Rules
from ml.catalog.load import CatalogError
from tests.helpers.rule_files import RULE, rule, write


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"when": "rowz > 1"}, r"rules\.0\.when: rule mine: there is no quantity 'rowz'"),
        ({"when": "ids > 1"}, r"rules\.0\.when: rule mine: there is no quantity 'ids'"),
        ({"when": "rows >"}, r"rules\.0\.when: rule mine: 'rows >' is not an expression"),
        ({"when": "__import__('os')"}, r"rules\.0\.when: rule mine: .* is not a call of one of"),
        ({"when": "recipe.batchsize > 1"}, r"rules\.0\.when: rule mine: there is no quantity 'recipe.batchsize'"),
        ({"when": "table.rows > 1"}, r"rules\.0\.when: rule mine: there is no quantity 'table.rows'"),
        ({"when": "len(lists.tpos) > 1"}, r"rule mine: there is no list 'tpos'"),
        ({"set": {"batchsize": 1}}, r"rules\.0\.set\.batchsize: rule mine: there is no recipe key 'batchsize'"),
        ({"set": {"model.topp": [1]}}, r"rules\.0\.set\.model\.topp: rule mine: there is no recipe key"),
        ({"set": {"table.kind": "static"}}, r"rules\.0\.set\.table\.kind: rule mine: there is no recipe key"),
        ({"for": "table", "set": {"table.knd": "static"}}, r"rules\.0\.set\.table\.knd: rule mine: there is no recipe key"),
        ({"compute": {"batch_size": "rowz"}}, r"rules\.0\.compute\.batch_size: rule mine: there is no quantity 'rowz'"),
        ({"models": ["dlrn"]}, r"rules\.0\.models: rule mine: expected some of"),
        ({"reason": "It has {rowz} rows, therefore so."}, r"rules\.0\.reason: rule mine: there is no quantity 'rowz'"),
        ({"reason": "It has {rows rows, therefore so."}, r"rules\.0\.reason: rule mine: "),
        ({"for": "dense_feature"}, r"rules\.0\.set: rule mine: dense features have no recipe keys"),
        ({"set": {}}, r"rules\.0: rule mine: expected set, compute or suggest"),
        ({"because": "x"}, r"rules\.0\.because: unknown key"),
        ({"source": ""}, r"rules\.0\.source: "),
    ],
)
def test_errors_name_file_rule_and_key(tmp_path: Path, changes: dict[str, object], expected: str) -> None:
    with pytest.raises(CatalogError, match=expected) as raised:
        load_rules(rule(tmp_path, **changes))
    assert str(raised.value).startswith(str(tmp_path / "mine.yaml"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lists: {tops: [[64], [128, 64]]}", r"lists\.tops: expected different shapes, from large to small"),
        (
            "search: [{name: a, key: batch_size, factor: 2, grid: [1, 2]}]",
            r"search\.0: parameter a: expected one of factor, range, .* found factor and grid",
        ),
        ("search: [{name: a, key: batch_size}]", r"search\.0: parameter a: expected one of factor, range, .* found none"),
        ("search: [{name: a, key: batchsize, factor: 2}]", r"search\.0\.key: parameter a: there is no recipe key"),
        ("search: [{name: a, key: schedule.warm_up, range: [1, 0]}]", r"search\.0\.range: parameter a: expected two ascending"),
        (
            "bounds: [{key: batch_size, low: '1', high: rows, reason: It diverges above this value., source: a study}]",
            r"bounds\.0\.high: bound of batch_size: there is no quantity 'rows'",
        ),
        ("- 1", "expected keys with values at the top"),
    ],
)
def test_errors_of_other_parts_name_them_too(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(CatalogError, match=expected):
        load_rules(write(tmp_path, text))


def test_two_rules_of_one_file_cannot_have_the_same_name() -> None:
    with pytest.raises(ValueError, match="two of them have the name mine"):
        Rules.model_validate({"rules": [RULE, RULE]})
