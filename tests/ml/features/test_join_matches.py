"""How many rows each side table has a match for, and its malformed lines, are recorded."""

from pathlib import Path

import pytest

from ml.compute.runner import LocalRunner
from ml.features.clean import clean_day
from ml.logs.read import quarantine_table, raw_table
from ml.quality.explain import explain_failure
from ml.quality.validate import validate
from ml.stages import CLEANED_FEATURES
from tests.helpers.shop_features import shop_day
from tests.ml.features.test_clean import DAYS, JOINED

DAY = DAYS[0]


def write_some_items(folder: Path, lake, share: float, malformed: int = 0) -> int:  # type: ignore[no-untyped-def]
    """Writes a side table that about a share of the day's rows match, and returns how many rows do."""
    items = raw_table(lake, "shop", DAY)["item"].drop_null()
    matched, lines = 0, ["id,colour,weight\n", "-999,red,1.5\n"]
    for item in items.value_counts().to_pylist():
        if matched < share * len(items):
            matched += item["counts"]
            lines.append(f"{item['values']},blue,2.5\n")
    (folder / "items.csv").write_text("".join([*lines, *["not,an,item,at,all\n"] * malformed]))
    return matched


@pytest.mark.parametrize(("share", "passes"), [(0.0, False), (0.03, False), (0.4, True), (1.0, True)])
def test_a_join_that_matches_almost_nothing_fails_a_check(  # type: ignore[no-untyped-def]
    share: float, passes: bool, lake, tmp_path: Path, write_raw
) -> None:
    write_raw(lake, JOINED, DAY, shop_day(JOINED, 0, 900))
    matched = write_some_items(tmp_path, lake, share)
    done = clean_day(JOINED, DAY, lake, str(tmp_path), LocalRunner())
    [(name, table)] = done.joins.items()
    assert table.matches.matched == matched <= table.matches.keyed
    assert lake.manifest(CLEANED_FEATURES, "shop", DAY)["joins"][name] == table.facts
    [verdict] = [v for v in validate(JOINED, CLEANED_FEATURES, DAY, lake).verdicts if v.name == "join_match"]
    assert verdict.passed is passes and verdict.severity == "error" and verdict.key == "expectations.join_match"
    assert name in verdict.observed
    text = explain_failure(verdict, JOINED, CLEANED_FEATURES, DAY, lake)
    assert "correct the files of the side table, or change expectations.join_match in the catalog entry" in text


def test_malformed_lines_of_a_side_table_are_quarantined(lake, tmp_path: Path, write_raw) -> None:  # type: ignore[no-untyped-def]
    write_raw(lake, JOINED, DAY, shop_day(JOINED, 0, 900))
    write_some_items(tmp_path, lake, 1.0, malformed=30)
    done = clean_day(JOINED, DAY, lake, str(tmp_path), LocalRunner())
    [table] = done.joins.values()
    assert table.quarantined == 30 and table.reasons == {"wrong number of fields": 30}
    first = quarantine_table(lake, "shop", DAY, CLEANED_FEATURES).to_pylist()[0]
    assert first["file"] == "items.csv" and first["line"] == table.rows + 2  # the header is line 1
