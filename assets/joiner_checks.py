"""Checks of the join of two logs: the match rate against recent days."""

from collections.abc import Iterable

import dagster as dg

from assets.days import checked_days
from assets.partitions import daily
from assets.policy import key
from assets.resources import LakeResource
from ml.catalog.spec import DatasetSpec
from ml.stages import JOINED_EXAMPLES

MATCH_RATE = "match_rate"


def build_joiner_checks(spec: DatasetSpec) -> dg.AssetChecksDefinition:
    """Build the checks of one dataset with `actions`."""
    asset = key(spec, JOINED_EXAMPLES)

    @dg.multi_asset_check(
        name=f"{spec.name}_{JOINED_EXAMPLES}_checks",
        specs=[
            dg.AssetCheckSpec(
                MATCH_RATE,
                asset=asset,
                blocking=True,
                partitions_def=daily(spec),
                description="The share of actions that count for an example is not significantly lower than on recent days. If "
                "it falls, the two logs no longer fit together, and clicked impressions would be trained on as unclicked.",
            )
        ],
    )
    def checks(context: dg.AssetCheckExecutionContext, lake: LakeResource) -> Iterable[dg.AssetCheckResult]:
        from ml.joiner.verdict import judge_day

        held = lake.open()
        found = {day: judge_day(spec, day, held) for day in checked_days(context, held, JOINED_EXAMPLES, spec)}
        failing = [day for day, verdict in found.items() if verdict.reasons]
        shown = found[failing[0] if failing else max(found)]
        values = {
            "match_rate": shown.rate,
            "recent_match_rate": shown.recent,
            "p_value": shown.p_value,
            "repeated_share": shown.repeated,
        }
        yield dg.AssetCheckResult(
            check_name=MATCH_RATE,
            asset_key=asset,
            passed=not failing,
            severity=dg.AssetCheckSeverity.ERROR,
            metadata={
                **{name: value for name, value in values.items() if value is not None},
                **({"explanation": "; ".join(shown.reasons)} if failing else {}),
                "failing_days": dg.MetadataValue.json(failing),
            },
        )

    return checks
