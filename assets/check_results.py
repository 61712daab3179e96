"""The result of a check of several days: it fails if one of them fails, and shows the values of the first that does."""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg


def result_of_days(
    failing: Sequence[str],
    values: Mapping[str, Any],
    reasons: Sequence[str] = (),
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.WARN,
    check_name: str | None = None,
    asset_key: dg.AssetKey | None = None,
) -> dg.AssetCheckResult:
    """Build the result of a check.

    Args:
        failing: The days that fail.
        values: Metadata of the day that is shown. Undefined values (None) are left out.
        reasons: Why the day fails, for the explanation.
        severity: Severity of a failure.
        check_name: Name of the check, if the function makes several checks.
        asset_key: The checked asset, if the function makes several checks.
    """
    return dg.AssetCheckResult(
        asset_key=asset_key,
        check_name=check_name,
        passed=not failing,
        severity=severity,
        metadata={
            **{name: value for name, value in values.items() if value is not None},
            **({"explanation": "; ".join(reasons)} if failing and reasons else {}),
            "failing_days": dg.MetadataValue.json(list(failing)),
        },
    )
