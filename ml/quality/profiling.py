"""Measures a day's profile once and stores it in the lake, below `profiles/<stage>`."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.days import day_bounds
from ml.lake import Lake
from ml.quality.profile import Profile
from ml.quality.scan_mds import scan_mds
from ml.quality.scan_parquet import scan_parquet
from ml.stages import MDS_DATASETS, profiles

FILE = "profile.json"
VERSION = 2  # increase it when the content of profiles changes, so that stored profiles are measured again


def profile_day(spec: DatasetSpec, stage: str, day: str, lake: Lake) -> Profile:
    """Returns the profile of a day's data: the stored one, or a new one if the data or the catalog entry has changed.

    Args:
        spec: The dataset.
        stage: One of `ml.stages.VALIDATED`.
        day: The partition key.
        lake: Where the data is stored; the profile is stored beside it.

    Raises:
        MissingPartition: The day's data is not in the lake.
        ValueError: A file cannot be read; the message names it.
    """
    partition = lake.require(stage, spec.name, day)
    manifest = lake.manifest(stage, spec.name, day)
    digest, stored = _digest(spec, partition, manifest), profiles(stage)
    with suppress(FileNotFoundError):  # none is stored, or another process is replacing it
        if lake.manifest(stored, spec.name, day).get("digest") == digest:
            return Profile.from_json((lake.partition(stored, spec.name, day) / FILE).read_text())
    began = time.perf_counter()
    if stage == MDS_DATASETS:
        profile = scan_mds(spec, day, lake)
    else:
        profile = scan_parquet(spec, stage, partition, manifest, day_bounds(day, spec.zone))
    seconds = time.perf_counter() - began
    # Another process may measure the same day and store its profile first. A stored profile only saves measuring again.
    with suppress(OSError, ValueError), lake.write(stored, spec.name, day) as staging:
        (staging / FILE).write_text(profile.to_json())
        lake.write_manifest(
            staging, {"digest": digest, "fingerprint": spec.fingerprint, "rows": profile.rows, "seconds": seconds}
        )
    return profile


def _digest(spec: DatasetSpec, partition: UPath, manifest: Mapping[str, Any]) -> str:
    """Hash of the manifest, the files' sizes and times, what is to be measured, and `VERSION`."""
    files = sorted(partition.fs.ukey(path) for path in partition.fs.find(partition.path))
    measured = [VERSION, spec.fingerprint, spec.expectations.unique, manifest, files]
    return hashlib.sha256(json.dumps(measured, sort_keys=True).encode()).hexdigest()[:16]
