"""What a preflight finds: which key of the catalog entry does not fit the files, and what to change."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from ml.catalog.spec import Band, Severity
from ml.quality.noise import Share


@dataclass(frozen=True)
class Finding:
    """One key of an entry that does not fit its files.

    Attributes:
        severity: `error` stops before anything runs, `warning` does not.
        key: Path of the key in the catalog entry, such as `time.unit`.
        found: What the files hold.
        change: What to change.
        days: Days, `YYYY-MM-DD`, that need the file of the finding; empty if it concerns the entry or every day.

    Example:
        >>> print(Finding("error", "time.unit", "all times are in 1970", "set `unit: ms`"))
        error: time.unit: all times are in 1970; set `unit: ms`
    """

    severity: Severity
    key: str
    found: str
    change: str
    days: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.severity}: {self.key}: {self.found}; {self.change}"


def errors(findings: Iterable[Finding]) -> list[Finding]:
    """Returns the findings that stop a run."""
    return [finding for finding in findings if finding.severity == "error"]


def of_days(findings: Iterable[Finding], days: Collection[str]) -> list[Finding]:
    """Returns findings for a run of some days: an error of a file that none of them needs becomes a warning.

    Args:
        findings: Of a preflight.
        days: The days of the run, `YYYY-MM-DD`.
    """
    return [
        replace(finding, severity="warning") if finding.days and not set(finding.days) & set(days) else finding
        for finding in findings
    ]


def refusal(dataset: str, findings: Iterable[Finding]) -> str:
    """Returns the message of a run that stops: the errors and then the warnings, one a line."""
    ordered = sorted(findings, key=lambda finding: finding.severity != "error")
    lines = "\n".join(f"  {finding}" for finding in ordered)
    return f"the catalog entry of {dataset} does not fit its files, so nothing was run:\n{lines}"


def exceeds(count: int, total: int, band: Band) -> bool:
    """Whether a share of a sample is above a band by more than sampling noise explains."""
    share = Share(count, total)
    return band.max is not None and share > band.max and not share.is_noise(high=band.max)
