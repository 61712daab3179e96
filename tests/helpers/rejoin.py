"""Joins split streams again by the daily catch-up, and compares the examples with the truth."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ml.catalog.load import load_dataset
from ml.catalog.spec import DatasetSpec
from ml.compute.runner import LocalRunner, Runner
from ml.joiner.catch_up import join_day
from ml.joiner.split.events import truth_column
from ml.lake import Lake
from ml.logs.ingest import ingest_day
from ml.logs.read import raw_table
from ml.stages import JOINED_EXAMPLES


@dataclass
class Rejoined:
    """Counts over all days.

    Attributes:
        spec: The dataset that joins the streams.
        quarantined: Lines in quarantine.
        repeated: Impressions that repeat another one.
        without_key: Impressions without a key.
        actions: Actions by what became of them.
    """

    spec: DatasetSpec
    quarantined: int = 0
    repeated: int = 0
    without_key: int = 0
    actions: Counter[str] = field(default_factory=Counter)


def rejoin(out: Path, name: str, lake: Lake, runner: Runner | None = None) -> Rejoined:
    """Ingests both logs of split streams and joins each day."""
    runner = runner or LocalRunner()
    spec = load_dataset(out / f"{name}.yaml")
    assert spec.actions_log
    done = Rejoined(spec)
    for day in spec.days():
        done.quarantined += sum(ingest_day(log, day, out, lake, runner).quarantined for log in (spec.log, spec.actions_log))
    for day in spec.days():
        joined = join_day(spec, day, lake, runner)
        done.repeated += joined.repeated
        done.without_key += joined.without_key
        done.actions += Counter(joined.actions)
    return done


def differences(out: Path, lake: Lake, spec: DatasetSpec, examples: pa.Table | None = None) -> dict[str, int]:
    """Compares examples with the truth.

    Args:
        out: Folder of the streams.
        lake: The lake that they were joined in.
        spec: The dataset that joins the streams.
        examples: The examples; by default those of all days in the lake.

    Returns:
        Number of examples that are `missing`, `extra` (repeated ones among them), or have another label (`wrong`) or another
        delay (`delay`) than the truth, summed over the labels.
    """
    assert spec.actions and spec.label.column
    if examples is None:
        examples = pa.concat_tables([raw_table(lake, spec.name, day, JOINED_EXAMPLES) for day in spec.days()])
    truth = pq.read_table(out / "truth.parquet")
    truth = truth.filter(pc.field("impression") == "joined")
    key = list(spec.actions.key)
    counts = Counter[str]()
    for label, of_label in spec.actions.labels.items():
        (kind,) = of_label.types
        columns = [truth_column(name, kind) for name in ("label", "delay")]
        one = truth.select([*key, *columns]).rename_columns([*key, "true label", "true delay"])
        counts += Counter(_differences(one, examples, key, label))
    return {name: counts[name] for name in ("missing", "extra", "wrong", "delay", "twice")}


def _differences(truth: pa.Table, examples: pa.Table, key: list[str], label: str) -> dict[str, int]:
    delay = f"{label}_delay"
    truth = truth.append_column("is_true", pa.array(np.ones(len(truth), np.int8)))
    found = examples.select([*key, label, delay]).append_column("is_found", pa.array(np.ones(len(examples), np.int8)))
    both = truth.join(found, keys=key, join_type="full outer")
    is_true, is_found = (both[name].is_valid().to_numpy() for name in ("is_true", "is_found"))
    matched = is_true & is_found
    positive = both["true label"].fill_null(0).to_numpy()
    wrong = matched & (positive != both[label].fill_null(-1).to_numpy())
    seconds = both["true delay"].fill_null(0).to_numpy() / 1e6
    off = matched & (positive == 1) & (seconds != both[delay].fill_null(-1).to_numpy())
    twice = len(both) - len(both.select(key).group_by(key).aggregate([]))
    counts = {"missing": is_true & ~is_found, "extra": is_found & ~is_true, "wrong": wrong, "delay": off}
    return {name: int(np.count_nonzero(of)) for name, of in counts.items()} | {"twice": twice}
