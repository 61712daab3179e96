"""Explains a failed check as text: what was observed, the lines behind it, and what to change."""

from __future__ import annotations

from collections import Counter

from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.logs.quarantine import excerpt
from ml.logs.read import quarantine_table
from ml.quality.validate import Verdict
from ml.stages import CLEANED_FEATURES

OF_LINES = ("quarantine_rate", "whole_files")  # checks that quarantined lines explain
REASONS, TEXT = 3, 80  # reasons that are named, and characters of a line


def explain_failure(verdict: Verdict, spec: DatasetSpec, stage: str, day: str, lake: Lake) -> str:
    """Explains why a day failed a check.

    Args:
        verdict: The failed check.
        spec: The dataset.
        stage: The stage that was checked.
        day: The partition key.
        lake: Where the day is stored.

    Returns:
        Check, day, observed and expected values; for malformed lines the most frequent reasons, each with file and line of its
        first line; and the catalog key to change.
    """
    observed = ", ".join(f"{subject} {value}" for subject, value in verdict.observed.items())
    lines = [
        f"check {verdict.name} of {stage} failed for {day}: observed {observed}; expected {verdict.expected}",
        verdict.why,
    ]
    if verdict.name in OF_LINES:
        lines += _reasons(spec, stage, day, lake)
        lines.append(f"quarantine: {lake.partition(stage, spec.name, day) / 'quarantine.parquet'}")
    joined = verdict.name == "join_match" or (stage == CLEANED_FEATURES and verdict.key.startswith("expectations.columns."))
    change = f"correct the files of the {'side table' if joined else 'log'}"
    if verdict.key:
        change = f"{change}, or change {verdict.key} in the catalog entry"
    return "\n  ".join([*lines, f"to go on: {change}, and run the day again"])


def _reasons(spec: DatasetSpec, stage: str, day: str, lake: Lake) -> list[str]:
    table = quarantine_table(lake, spec.name, day, stage)
    reasons = table.column("reason").to_pylist()
    found: list[str] = []
    for reason, count in Counter(reasons).most_common(REASONS):
        first = table.slice(reasons.index(reason), 1).to_pylist()[0]
        place = f"{first['file']}, line {first['line']}"
        found.append(f"{count:,} x {reason}; the first is {place}: {excerpt(first['text'], TEXT)}")
    return found
