"""What a preflight says of a log of actions that does not fit its entry or the impressions."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ml.catalog.spec import DatasetSpec
from ml.preflight.check import preflight
from ml.preflight.finding import Finding, errors, of_days
from tests.helpers.joined_logs import drawn, feed, land

DAYS = ["2026-03-01", "2026-03-02", "2026-03-03"]


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    land(tmp_path, *drawn(random.Random(4), 600, 3 * 24 * 60))
    return tmp_path


def change(logs: Path, name: str, edit: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
    """Edits every row of a log; a row that becomes None is deleted."""
    for path in logs.glob(f"{name}-*.jsonl"):
        rows = [edit(json.loads(line)) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows if row is not None))


def the_error(spec: DatasetSpec, logs: Path) -> Finding:
    (found,) = errors(preflight(spec, logs))
    return found


def without(row: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}


def with_keys(row: dict[str, Any]) -> dict[str, Any] | None:
    return row if row["request"] is not None else None


def clean(logs: Path) -> None:
    for name in ("impressions", "actions"):
        change(logs, name, with_keys)


def test_two_logs_that_fit_pass(logs: Path) -> None:
    clean(logs)
    assert preflight(feed(), logs) == []


def test_keys_that_are_missing_in_some_rows_are_a_warning(logs: Path) -> None:
    found = preflight(feed(), logs)
    assert {(finding.severity, finding.key) for finding in found} == {("warning", "actions.key.0")}
    assert any("'request' in the impressions are missing" in finding.found for finding in found)


def test_a_missing_folder_of_actions_is_named_with_the_files_that_are_there(logs: Path) -> None:
    actions = {"source": feed().actions.source.model_dump(mode="json") | {"files": "clicks/actions-%Y-%m-%d.jsonl"}}  # type: ignore[union-attr]
    found = the_error(feed(actions=actions), logs)
    assert found.key == "actions.source.files" and "the folder has actions-2026-03-01.jsonl" in found.found
    for path in logs.glob("impressions-*"):
        path.unlink()
    keys = [finding.key for finding in errors(preflight(feed(actions=actions), logs))]
    assert keys == ["source.files", "actions.source.files"], "both are said at once"


def test_a_missing_column_of_actions_is_named(logs: Path) -> None:
    change(logs, "actions", lambda row: {**without(row, "kind"), "Kind": row["kind"]})
    found = the_error(feed(), logs)
    assert found.key == "actions.source.columns" and "no line has the key 'kind'" in found.found
    assert found.change.endswith("such as `rename: {Kind: kind}`")


@pytest.mark.parametrize("log", ["impressions", "actions"])
def test_a_key_that_is_missing_in_one_log_is_an_error(logs: Path, log: str) -> None:
    clean(logs)
    change(logs, log, lambda row: {**row, "request": None})
    found = the_error(feed(), logs)
    assert found.key == "actions.key.0" and f"sampled values of 'request' in the {log} are missing" in found.found


def test_keys_of_another_form_in_one_log_are_an_error(logs: Path) -> None:
    clean(logs)
    change(logs, "actions", lambda row: {**row, "request": f"req-{row['request']}"})
    found = the_error(feed(), logs)
    assert found.key == "actions.key" and "no action has the key of an impression" in found.found and "req-" in found.found
    for path in logs.glob("actions-2026-03-0[12].jsonl"):
        path.unlink()
    for path in logs.glob("impressions-2026-03-03.jsonl"):
        path.unlink()
    assert errors(preflight(feed(), logs)) == [], "the logs have no common days"


def test_a_wrong_unit_of_the_times_of_actions_names_it(logs: Path) -> None:
    clean(logs)
    change(logs, "actions", lambda row: {**row, "at": row["at"] // 1000})
    found = the_error(feed(), logs)
    assert found.key == "actions.time.unit" and found.found.startswith("the actions: ") and found.change == "set `unit: s`"


def test_types_that_no_label_lists_are_named(logs: Path) -> None:
    clean(logs)
    change(logs, "actions", lambda row: {**row, "kind": row["kind"].upper()})
    found = errors(preflight(feed(), logs))
    assert [finding.key for finding in found] == ["actions.labels.clicked.types", "actions.labels.bought.types"]
    assert "the values of 'kind' are 'CLICK'" in found[0].found
    change(logs, "actions", lambda row: {**row, "kind": "click"})
    (warning,) = preflight(feed(), logs)
    assert (warning.severity, warning.key) == ("warning", "actions.labels.bought.types")


def test_a_damaged_file_of_actions_concerns_the_days_whose_wait_reaches_it(logs: Path) -> None:
    clean(logs)
    (logs / f"actions-{DAYS[2]}.jsonl").write_bytes(b"PAR1" + bytes(100))
    found = preflight(feed(), logs)
    assert errors(found)[0].key == "actions.source.format" and errors(found)[0].days == (DAYS[1], DAYS[2])
    assert not errors(of_days(found, [DAYS[0]])) and errors(of_days(found, [DAYS[1]]))
