"""The champion after each report: the rules of replacement, and what the decision must not depend on."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml.evaluation.promotion import DAYS, Standing, standings

AucAndLoss = dict[str, tuple[float | None, float | None]]


def compared(by_model: AucAndLoss, error: float | None) -> list[dict[str, Any]]:
    """Differences of all pairs of models that are no ranks, as reports have them, with one standard error for all."""
    pairs = combinations([name for name, metrics in by_model.items() if None not in metrics], 2)
    return [
        {
            "one": one,
            "other": other,
            "auc": {"value": (by_model[one][0] or 0) - (by_model[other][0] or 0), "error": error, "df": 500},
            "log_loss": {"value": (by_model[one][1] or 0) - (by_model[other][1] or 0), "error": error, "df": 500},
        }
        for one, other in pairs
    ]


def report(number: int, by_model: AucAndLoss, error: float | None = 0.001) -> dict[str, Any]:
    """As `metrics.json` has it. by_model: AUC and log loss, by model."""
    facts = {"snapshot_day": f"2026-01-{number:02d}"}
    models = {name: {"auc": auc, "log_loss": loss, "facts": facts} for name, (auc, loss) in by_model.items()}
    return {"day": f"2026-01-{number + 1:02d}", "models": models, "comparisons": compared(by_model, error)}


def reports(*days: AucAndLoss) -> list[dict[str, Any]]:
    return [report(number, by_model) for number, by_model in enumerate(days, 1)]


def champions(*days: AucAndLoss) -> list[str]:
    return [standing.champion for standing in standings(reports(*days))]


BETTER: AucAndLoss = {"dlrm": (0.70, 0.5), "deepfm": (0.71, 0.5)}
WORSE: AucAndLoss = {"dlrm": (0.70, 0.5), "deepfm": (0.69, 0.5)}

# Few values, so that ties occur.
scored = st.tuples(st.sampled_from([0.6, 0.7, 0.8, None]), st.sampled_from([0.4, 0.5]))
days_of_models = st.lists(
    st.dictionaries(st.sampled_from(["dlrm", "deepfm", "dcn_v2"]), scored | st.just((0.9, None)), max_size=3), max_size=14
)


@pytest.mark.parametrize(("error", "champion"), [(0.009, "deepfm"), (0.012, "dlrm"), (None, "dlrm")])
def test_days_together_must_be_significant(error: float | None, champion: str) -> None:
    """A gain of 0.01 on each of three days, whose mean has an error of 0.0052 or of 0.0069."""
    days = [report(number, BETTER, error) for number in (1, 2, 3)]
    assert standings(days)[-1].champion == champion
    turned = [{"one": pair["other"], "other": pair["one"], **negated(pair)} for pair in days[0]["comparisons"]]
    assert standings([day | {"comparisons": turned} for day in days])[-1].champion == champion
    assert standings([day | {"comparisons": []} for day in days])[-1].champion == "dlrm", "reports without comparisons"


def negated(pair: dict[str, Any]) -> dict[str, Any]:
    return {metric: pair[metric] | {"value": -pair[metric]["value"]} for metric in ("auc", "log_loss")}


def test_a_challenger_takes_over_after_days_in_a_row_and_no_sooner() -> None:
    assert champions(BETTER, BETTER, WORSE, BETTER, BETTER, BETTER) == ["dlrm"] * 5 + ["deepfm"]
    found = standings(reports(BETTER, BETTER, BETTER, BETTER))
    assert [standing.replaced for standing in found] == [None, None, "dlrm", None]
    assert [standing.challenger for standing in found] == ["deepfm", "deepfm", "dlrm", "dlrm"]
    assert found[0].behind == pytest.approx(0.01) and found[2].behind == 0
    assert found[2].trained_until == {"dlrm": "2026-01-03", "deepfm": "2026-01-03"}


def test_equal_aucs_are_told_apart_by_log_loss() -> None:
    assert champions(*[{"dlrm": (0.7, 0.5), "deepfm": (0.7, 0.49)}] * 3)[-1] == "deepfm"
    as_good: AucAndLoss = {"dlrm": (0.7, 0.5), "deepfm": (0.7, 0.5)}
    assert champions(*[BETTER] * DAYS, *[as_good] * 9)[-1] == "deepfm", "an equal model is not better"


def test_of_several_that_were_better_the_best_on_the_last_day_takes_over() -> None:
    three = {"dlrm": (0.70, 0.5), "deepfm": (0.72, 0.5), "dcn_v2": (0.71, 0.5)}
    assert champions(three, three, {**three, "dcn_v2": (0.73, 0.5)})[-1] == "dcn_v2"
    assert champions(three, three, {**three, "deepfm": (0.73, 0.5)})[-1] == "deepfm"


def test_models_that_only_rank_do_not_compete() -> None:
    found = standings(reports(*[{"two_tower": (0.99, None), "dlrm": (0.7, 0.5)}] * 4))
    assert {standing.champion for standing in found} == {"dlrm"}
    assert {standing.challenger for standing in found} == {None}


def test_a_new_model_needs_enough_days_and_a_missing_champion_is_replaced_at_once() -> None:
    alone: AucAndLoss = {"dlrm": (0.70, 0.5)}
    assert champions(alone, alone, BETTER, BETTER, BETTER) == ["dlrm"] * 4 + ["deepfm"]
    gone: AucAndLoss = {"wide_deep": (0.6, 0.5), "dcn_v2": (0.8, 0.5)}
    assert champions(BETTER, gone) == ["dlrm", "wide_deep"]


@pytest.mark.parametrize("facts", [{}, None])
def test_a_report_that_does_not_say_what_was_scored_counts_too(facts: dict[str, Any] | None) -> None:
    [standing] = standings([{"day": "2026-01-02", "models": {"dlrm": {"auc": 0.7, "log_loss": 0.5, "facts": facts}}}])
    assert standing.champion == "dlrm" and standing.trained_until == {}
    assert standings([{"day": "2026-01-02", "models": {"dlrm": {"auc": 0.7}}}, {"models": None}]) == []


def test_days_that_compare_nothing_neither_count_nor_interrupt() -> None:
    nothing: AucAndLoss = {"dlrm": (None, 0.5), "deepfm": (None, 0.5)}  # of one class
    found = standings([{"day": "2026-01-01", "models": {}}, *reports(BETTER, nothing, BETTER, {}, BETTER)])
    assert [standing.champion for standing in found] == ["dlrm", "dlrm", "deepfm"]
    assert [standing.day for standing in found] == ["2026-01-02", "2026-01-04", "2026-01-06"]


@given(days_of_models, st.integers(0, 14))
def test_a_decision_does_not_depend_on_later_reports(days: list[AucAndLoss], until: int) -> None:
    assert standings(reports(*days[:until])) == [s for s in standings(reports(*days)) if s.day <= f"2026-01-{until + 1:02d}"]


def won(recent: list[Standing], name: str, over: str) -> bool:
    """Return whether a model was better on enough consecutive days."""
    both = [standing.scores for standing in recent if {name, over} <= standing.scores.keys()]
    return len(both) == DAYS and all(scores[name] > scores[over] for scores in both)


@given(days_of_models)
def test_a_champion_changes_exactly_when_a_model_was_better_on_enough_days(days: list[AucAndLoss]) -> None:
    found = standings(reports(*days))
    for place, standing in enumerate(found):
        before, recent = found[place - 1].champion if place else None, found[max(0, place + 1 - DAYS) : place + 1]
        assert standing.champion in standing.scores
        assert standing.replaced == (before if before != standing.champion else None)
        if before in standing.scores:
            assert (standing.replaced is not None) == any(won(recent, name, before) for name in standing.scores)
            assert not standing.replaced or won(recent, standing.champion, before)
