"""Writes a partition of `online_updates`: the state at the end of a day, what was measured, and the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from upath import UPath

from ml.artifacts.snapshot import digest, write_file
from ml.lake import Lake
from ml.online.record import PREDICTIONS_FILE, SLICES_FILE, DayRecord
from ml.online.serving_of_day import DayServing
from ml.online.start import Run, Start
from ml.parquet import table_bytes
from ml.training.state import TrainState
from ml.training.state_dict import save_snapshot


def write_online_day(
    staging: UPath,
    state: TrainState,
    record: DayRecord,
    serving: DayServing,
    *,
    start: Start,
    run: Run,
    keys: Mapping[str, Any],
) -> dict[str, Any]:
    """Write the files of a day, and its manifest last.

    Args:
        staging: The folder of the partition, inside `Lake.write`.
        state: The state at the end of the day, whose pass has ended.
        record: What was measured.
        serving: The serving model.
        start: What the day started from.
        run: The run at the end of the day, with the version that the next day continues.
        keys: Further keys of the manifest.

    Returns:
        The manifest.
    """
    tables = {SLICES_FILE: record.slices_table(), PREDICTIONS_FILE: record.predictions_table()}
    beside = {name: write_file(staging, name, table_bytes(table)) for name, table in tables.items()}
    save_snapshot(state, staging, beside=beside)
    manifest = {
        "fingerprint": state.schema.fingerprint,
        "recipe_fingerprint": state.recipe.fingerprint,
        "recipe": state.recipe.model_dump(mode="json"),
        "base": "/".join(start.place) if start.place else None,
        "run": asdict(run),
        **_measured(record, state, serving),
        **keys,
        "digest": digest(staging),
    }
    Lake.write_manifest(staging, manifest)
    return manifest


def _measured(record: DayRecord, state: TrainState, serving: DayServing) -> dict[str, Any]:
    """Return the keys of the manifest that describe the day as a whole."""
    running = state.running
    assert running is not None
    synced = {"rows": "rows_synced", "deleted": "rows_deleted", "bytes": "bytes_synced"}
    return {
        "metrics": {"rows": record.rows, "slices": len(record.slices), "rows_so_far": state.rows},
        "loss": running.loss_sum / running.num_losses if running.num_losses else None,
        "scores": record.scores(),
        "gains": record.gains(),
        "ranking": record.ranking.summary() if record.ranking else None,
        "synced": {name: sum(row[column] for row in record.slices) for name, column in synced.items()}
        | {"snapshot_bytes": serving.nbytes, "rows_by_table": record.rows_by_table},
        "tables": {name: asdict(stats) for name, stats in state.stats().items()},
        "seconds": {name: [of[name] for of in record.seconds] for name in (record.seconds[0] if record.seconds else ())},
    }
