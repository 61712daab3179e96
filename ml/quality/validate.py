"""Checks a day against the contract of its stage: Great Expectations validates a small frame of aggregates.

The frame has a row per subject (a column, a split or the day) and a column per expectation. One pass over the data serves all
checks, and Great Expectations, which is slow on rows, sees aggregates only.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, cast

from ml.catalog.spec import DatasetSpec, Severity
from ml.lake import Lake
from ml.quality.contract import EQUAL, Expectation, contract
from ml.quality.measures import Evidence, Pair, Value, measure
from ml.quality.noise import Sampled
from ml.quality.profiling import profile_day
from ml.stages import CLEANED_FEATURES, MDS_DATASETS

NOISE = "So few rows are outside the expected range by chance too, so this is a warning."
NAMED = 5  # maximum number of subjects in a verdict; the worst come first


@dataclass(frozen=True)
class Verdict:
    """The result of one expectation.

    Args:
        name: The expectation's name.
        passed: Whether it holds.
        severity: `error` blocks downstream assets, `warning` does not. A value outside its band is only a warning if sampling
            noise explains it.
        observed: Values of the worst subjects, by subject.
        expected: The expected value or range.
        why: What a failure means.
        compared_with: Days that the day was compared with.
        key: Key of the catalog entry that decides the check; empty if none does.
    """

    name: str
    passed: bool
    severity: Severity
    observed: Mapping[str, str]
    expected: str
    why: str
    compared_with: tuple[str, ...] = ()
    key: str = ""


@dataclass(frozen=True)
class Validation:
    """The verdicts on a day.

    Args:
        verdicts: Verdicts in the contract's order.
        seconds: Time of the checks.
        rows: Number of rows of the day.
        import_seconds: Time of importing Great Expectations.
    """

    verdicts: list[Verdict]
    seconds: float
    rows: int
    import_seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether no expectation of severity `error` failed."""
        return all(v.passed or v.severity == "warning" for v in self.verdicts)


@dataclass(frozen=True)
class _Ruling:
    """Great Expectations' result for one expectation."""

    passed: bool
    fault: str = ""


def validate(spec: DatasetSpec, stage: str, day: str, lake: Lake) -> Validation:
    """Checks one day of one stage.

    An exception inside Great Expectations becomes a failed verdict of severity `error`.

    Args:
        spec: The dataset.
        stage: One of `ml.stages.VALIDATED`.
        day: The partition key.
        lake: Where the data is stored.

    Returns:
        One verdict per expectation of the stage's contract.

    Raises:
        MissingPartition: The day is not in the lake.
        ValueError: The data cannot be read.
    """
    began = time.perf_counter()
    load_library()
    logging.getLogger("great_expectations.data_context.types.base").setLevel(logging.WARNING)  # it sets its own level to INFO
    loaded = time.perf_counter()
    evidence = gather(spec, stage, day, lake)
    expectations = contract(spec, stage)
    values = {e.name: measure(evidence, e.measure, e.columns) for e in expectations}
    rulings = decide([e for e in expectations if any(v is not None for v in values[e.name].values())], values)
    verdicts = [_verdict(e, values[e.name], rulings.get(e.name), evidence) for e in expectations]
    return Validation(verdicts, time.perf_counter() - loaded, evidence.today.rows, loaded - began)


def load_library() -> None:
    """Imports Great Expectations without Spark Connect.

    If Spark Connect lacks a package, importing it calls `sys.exit` in processes without a main file, such as Dagster's run
    workers.
    """
    modules: dict[str, Any] = cast(Any, sys.modules)
    hidden = (
        modules.setdefault("pyspark.sql.connect", None) is None
    )  # a None entry makes the import fail as if the module were missing
    try:
        import great_expectations  # noqa: F401
    finally:
        if hidden:
            del modules["pyspark.sql.connect"]


def gather(spec: DatasetSpec, stage: str, day: str, lake: Lake) -> Evidence:
    """Loads profiles of the day and of recent days with the same fingerprint."""
    today = profile_day(spec, stage, day, lake)
    before = [d for d in lake.days(stage, spec.name) if d < day][-spec.expectations.recent_days :]
    own = today.manifest.get("fingerprint")
    recent = {
        d: profile_day(spec, stage, d, lake) for d in before if lake.manifest(stage, spec.name, d).get("fingerprint") == own
    }
    features = profile_day(spec, CLEANED_FEATURES, day, lake) if stage == MDS_DATASETS else None
    return Evidence(spec, stage, today, recent, features)


def decide(expectations: Sequence[Expectation], values: Mapping[str, Mapping[str, Value]]) -> dict[str, _Ruling]:
    """Returns Great Expectations' result for each expectation, by name."""
    import great_expectations as gx
    from great_expectations import expectations as library
    from great_expectations.data_context.types.base import ProgressBarsConfig
    from great_expectations.exceptions.exceptions import GreatExpectationsError

    suite = [getattr(library, e.type)(**_columns_of(e), **e.kwargs, meta={"name": e.name}) for e in expectations]
    context = gx.get_context(mode="ephemeral")
    context.variables.analytics_enabled = False
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas("profiles").add_dataframe_asset("day")
    batch = asset.add_batch_definition_whole_dataframe("whole").get_batch({"dataframe": frame(expectations, values)})
    try:
        done = batch.validate(gx.ExpectationSuite(name="contract", expectations=suite), result_format="BOOLEAN_ONLY")
    except GreatExpectationsError as error:
        return {e.name: _Ruling(False, f"{type(error).__name__}: {error}") for e in expectations}
    plain: list[dict[str, Any]] = [result.to_json_dict() for result in done.results]
    return {result["expectation_config"]["meta"]["name"]: _ruling(result) for result in plain}


def _columns_of(expectation: Expectation) -> dict[str, str]:
    name = expectation.name
    return {"column_A": f"{name} found", "column_B": f"{name} expected"} if expectation.type == EQUAL else {"column": name}


def frame(expectations: Sequence[Expectation], values: Mapping[str, Mapping[str, Value]]) -> Any:
    """Builds the pandas frame that is validated: a row per subject, a column per expectation, missing values elsewhere."""
    import pandas as pd

    subjects = list(dict.fromkeys(subject for e in expectations for subject in values[e.name]))
    columns: dict[str, list[Any]] = {}
    for e in expectations:
        cells = [values[e.name].get(subject) for subject in subjects]
        if e.type == EQUAL:
            columns[f"{e.name} found"] = [cell.found if isinstance(cell, Pair) else None for cell in cells]
            columns[f"{e.name} expected"] = [cell.expected if isinstance(cell, Pair) else None for cell in cells]
        else:
            columns[e.name] = [float("nan") if cell is None else cell for cell in cells]
    return pd.DataFrame(columns, index=pd.Index(subjects, name="subject"))


def _ruling(result: dict[str, Any]) -> _Ruling:
    info = result.get("exception_info") or {}
    entries = [info] if "raised_exception" in info else list(info.values())
    faults = [str(entry.get("exception_message")) for entry in entries if entry.get("raised_exception")]
    return _Ruling(bool(result["success"]) and not faults, "; ".join(faults))


def _verdict(e: Expectation, values: Mapping[str, Value], ruling: _Ruling | None, evidence: Evidence) -> Verdict:
    days = tuple(evidence.recent) if e.compares else ()
    if ruling is not None and ruling.fault:
        return Verdict(e.name, False, "error", {"Great Expectations": ruling.fault}, e.expected, e.why, days, e.key)
    passed, observed = ruling is None or ruling.passed, _worst(e, values)
    if e.compares:
        observed = observed or {"all": "no recent days to compare with"}
    elif not evidence.today.rows:
        observed = observed or {"all": "no rows"}
    elif missing := [subject for subject, value in values.items() if value is None]:
        passed, observed = False, dict.fromkeys(missing[:NAMED], "missing") | observed
    if not passed and e.severity == "error" and _is_noise(e, values):
        return Verdict(e.name, False, "warning", observed, e.expected, f"{e.why} {NOISE}", days, e.key)
    return Verdict(e.name, passed, e.severity, observed, e.expected, e.why, days, e.key)


def _is_noise(e: Expectation, values: Mapping[str, Value]) -> bool:
    """Whether every value outside the band is from so few rows that sampling explains it."""
    low, high = e.kwargs.get("min_value"), e.kwargs.get("max_value")
    outside = [value for value in values.values() if not isinstance(value, float) or _beyond(e, value) > 0]
    return bool(outside) and all(isinstance(value, Sampled) and value.is_noise(low, high) for value in outside)


def _worst(e: Expectation, values: Mapping[str, Value]) -> dict[str, str]:
    """The subjects that are furthest from the expected values, as text."""
    pairs = {subject: v for subject, v in values.items() if isinstance(v, Pair)}
    if e.type == EQUAL:
        wrong = {s: f"{p.found}, expected {p.expected}" for s, p in pairs.items() if p.found != p.expected}
        shown = wrong or ({s: p.found for s, p in pairs.items()} if len(pairs) == 1 else {"all": f"{len(pairs)} as expected"})
        return dict(list(shown.items())[:NAMED])
    numbers = {subject: v for subject, v in values.items() if isinstance(v, int | float)}
    ranked = sorted(numbers, key=lambda subject: -_beyond(e, numbers[subject]))
    return {subject: _shown(numbers[subject]) for subject in ranked[:NAMED]}


def _shown(value: float) -> str:
    return f"{value:.6g} ({value.counts})" if isinstance(value, Sampled) and value.counts else f"{value:.6g}"


def _beyond(e: Expectation, value: float) -> float:
    """Distance of a value from its band; inside, minus the distance from the nearest bound."""
    low, high = e.kwargs.get("min_value"), e.kwargs.get("max_value")
    return max(low - value if low is not None else -inf, value - high if high is not None else -inf)
