"""Checks of the join of two logs: the match rate against recent days, and the progress of the live stream."""

from collections.abc import Iterable
from typing import Any

import dagster as dg

from assets.check_results import result_of_days
from assets.days import checked_days
from assets.partitions import daily
from assets.policy import key
from assets.resources import LakeResource, StreamsResource
from ml.catalog.spec import DatasetSpec
from ml.stages import JOINED_EXAMPLES

MATCH_RATE, LIVE_STREAM = "match_rate", "live_stream"


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
                description="The share of actions that count for an example is not significantly lower than on recent days, "
                "nor is the number of actions per example. If one falls, the two logs no longer match, or actions are missing, "
                "and clicked impressions would be trained on as unclicked.",
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
            "actions_per_example": shown.actions_per_example,
        }
        yield result_of_days(failing, values, shown.reasons, dg.AssetCheckSeverity.ERROR, MATCH_RATE, asset)

    return checks


def build_stream_check(spec: DatasetSpec) -> dg.AssetChecksDefinition:
    """Build the check of the live stream of one dataset with `actions`."""

    @dg.asset_check(
        asset=key(spec, JOINED_EXAMPLES),
        name=LIVE_STREAM,
        description="The live join reads what arrives, both logs arrive, at most a hundredth of the events is late, no more "
        "rows are in quarantine than `expectations.quarantine_rate` allows, and no file changes after it was read. Passes if "
        "the dataset has no stream folder.",
    )
    def live_stream(streams: StreamsResource) -> dg.AssetCheckResult:
        from ml.joiner.status import StreamStatus, joiner_folder
        from ml.joiner.stream_faults import stream_faults

        root = streams.folder(spec.name)
        if not (root / "impressions").exists():
            return dg.AssetCheckResult(passed=True, metadata={"stream": "none"}, severity=dg.AssetCheckSeverity.WARN)
        status = StreamStatus.read(joiner_folder(root))
        reasons = list(stream_faults(spec, root, status).values())
        if status is None:
            return _stream_result(reasons, {})
        metadata = {
            "batch": status.batch,
            "examples": status.counts.get("examples", 0),
            "late_share": status.recent.late_share,
            "quarantined_share": status.recent.quarantined_share,
            "repeated_impressions": status.counts.get("repeated impressions", 0),
            "state_rows": status.state_rows,
            "state_bytes": status.state_bytes,
            "watermark_lag_seconds": status.watermark_lag,
            **({} if status.match_rate is None else {"match_rate": status.match_rate}),
            "counts": dg.MetadataValue.json(status.counts),
        }
        return _stream_result(reasons, metadata)

    return live_stream


def _stream_result(reasons: list[str], metadata: dict[str, Any]) -> dg.AssetCheckResult:
    explained = {**metadata, **({"explanation": "; ".join(reasons)} if reasons else {})}
    return dg.AssetCheckResult(passed=not reasons, severity=dg.AssetCheckSeverity.WARN, metadata=explained)
