"""The preflight of a dataset's catalog entry in Dagster: it stops a run before it reads a log, or warns of what it found."""

from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.partitions import daily
from assets.policy import key
from assets.tables import table
from ml.catalog.spec import DatasetSpec
from ml.stages import RAW_LOGS

if TYPE_CHECKING:
    from ml.preflight.finding import Finding

NAME = "preflight"
_FOUND: "dict[str, tuple[Any, list[Finding]]]" = {}  # by folder: a sensor asks every half a minute


def findings_of(spec: DatasetSpec, folder: str) -> "list[Finding]":
    """Return the findings of the preflight: of the recipes, and of the logs.

    Those of the logs are computed again when a file or the entry has changed.

    Args:
        spec: The dataset.
        folder: Its landing folder.
    """
    from ml.advisor.check import check_recipes
    from ml.logs.sources import stamps_of
    from ml.preflight.check import preflight

    actions = [spec.actions.source] if spec.actions else []
    stamps = [stamps_of(source, folder) for source in (spec.source, *actions, *(side.source for side in spec.join))]
    made_from = (spec.model_dump_json(), *stamps)
    if folder not in _FOUND or _FOUND[folder][0] != made_from:
        _FOUND[folder] = made_from, preflight(spec, folder)
    return check_recipes(spec) + _FOUND[folder][1]


def check_spec(spec: DatasetSpec) -> dg.AssetCheckSpec:
    """Return the spec of the check that shows the preflight's warnings on `raw_logs`."""
    return dg.AssetCheckSpec(
        NAME,
        asset=key(spec, RAW_LOGS),
        description="The catalog entry matches the files: a sample of them is read before anything else. Errors stop the run.",
        partitions_def=daily(spec),
    )


def run_preflight(context: dg.AssetExecutionContext, spec: DatasetSpec, folder: str) -> dg.AssetCheckResult:
    """Check the entry, log the warnings, and return the check's result.

    Raises:
        dg.Failure: The entry does not fit its files. The message says what was found and what to change.
    """
    from ml.preflight.finding import errors, of_days, refusal

    found = of_days(findings_of(spec, folder), context.partition_keys)
    if errors(found):
        raise dg.Failure(refusal(spec.name, found), metadata={"findings": _table(found)}, allow_retries=False)
    for finding in found:
        context.log.warning("preflight of %s: %s", spec.name, finding)
    return dg.AssetCheckResult(
        check_name=NAME,
        asset_key=key(spec, RAW_LOGS),
        passed=not found,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"findings": _table(found)},
    )


def _table(found: "list[Finding]") -> dg.MetadataValue:
    columns: dict[str, str] = dict.fromkeys(("severity", "key", "found", "change"), "string")
    return table(columns, ({name: getattr(finding, name) for name in columns} for finding in found))
