"""Shows catalog entries that are not valid: the other datasets are loaded, and the UI says what is wrong with these."""

import re
from collections.abc import Mapping
from typing import Any

import dagster as dg

from assets.policy import OWNERS
from ml.catalog.load import CatalogError

INTERVAL = 600  # seconds


def broken_entries(broken: Mapping[str, CatalogError]) -> dg.Definitions:
    """Build an asset, a check and a sensor for each entry that is not valid.

    The asset is in the group of its dataset and describes the error. The check fails with it. The sensor is on from the start,
    and its ticks fail with it, so that the error appears without a run.

    Args:
        broken: Name of the entry's file -> its error.
    """
    named: dict[str, CatalogError] = {}
    for name, error in sorted(broken.items()):
        group = re.sub(r"[^A-Za-z0-9_]", "_", name)  # a file can have any name, a group cannot
        named[f"{group}_{len(named)}" if group in named else group] = error
    built = [_entry(group, error) for group, error in named.items()]
    return dg.Definitions(
        assets=[asset for asset, _, _ in built],
        asset_checks=[check for _, check, _ in built],
        sensors=[sensor for _, _, sensor in built],
    )


def _entry(group: str, error: CatalogError) -> tuple[dg.AssetSpec, Any, dg.SensorDefinition]:
    message, key = str(error), dg.AssetKey([group, "catalog_entry"])
    asset = dg.AssetSpec(
        key,
        group_name=group,
        owners=OWNERS,
        kinds={"yaml"},
        description=f"The catalog entry is not valid, so its dataset is not loaded:\n\n```\n{message}\n```",
        metadata={"error": dg.MetadataValue.text(message)},
    )

    @dg.asset_check(asset=key, name="valid", description="The catalog entry is valid.")
    def valid() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=False, metadata={"error": dg.MetadataValue.text(message)})

    @dg.sensor(
        name=f"{group}_catalog_entry",
        minimum_interval_seconds=INTERVAL,
        default_status=dg.DefaultSensorStatus.RUNNING,
        asset_selection=[key],
        description="Fails until the catalog entry is valid and the code location is loaded again.",
    )
    def catalog_entry() -> dg.SkipReason:
        raise CatalogError(f"{message}\nCorrect the entry, then reload the code location.")

    return asset, valid, catalog_entry
