"""Logs of common shapes run from their folder to a report with one YAML: nothing is converted by hand."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from assets.resources import LakeResource, LandingResource, MlflowResource, SparkResource
from ml.catalog.load import load_dataset
from ml.lake import Lake
from ml.preflight.check import preflight
from ml.preflight.finding import errors
from orchestration.definitions import build_defs
from orchestration.jobs import job_name

MANY_ITEMS = """
name: shapes
description: Articles shown to users, many labelled ones in a line.
source:
  files: "behaviors-*.tsv"
  format: tsv
  columns: {impression: string, user: string, at: string, history: list<string>, item: string, clicked: int}
  list_separator: " "
  explode: {shown: [item, clicked]}
  part_separator: "-"
time: {column: at, format: "%m/%d/%Y %I:%M:%S %p"}
partitions: {start: 2019-11-11, end: 2019-11-12}
user: user
item: item
label: {column: clicked}
sparse: [user, item, {name: history, ids_of: item, max_values: 5, keep: last}, {name: hour, hour_of_day: true}]
demo_days: 2
"""
POLICY = """
name: shapes
description: Items chosen by a policy, with the context of each choice.
source:
  files: "policy=*/day=%Y-%m-%d/log.csv"
  format: csv
  header: true
  path_columns: [policy]
  columns: {timestamp: string, item_id: int, position: int, click: string, propensity_score: float,
            "user_feature_{0..3}": string, "affinity_{0..2}": float, policy: string}
time: {column: timestamp, unit: iso8601}
partitions: {start: 2019-11-24, end: 2019-11-25}
item: item_id
label: {column: click}
dense: ["affinity_{0..2}"]
sparse: [item_id, position, policy, "user_feature_{0..3}", {name: place, cross: [item_id, position]}]
slices: [policy]
demo_days: 2
"""
SPARSE = """
name: shapes
description: Reviews of three years, few on a day, with tags.
source:
  files: "reviews.jsonl"
  format: jsonl
  columns: {time: string, user: int, item: int, verdict: string, tags: list<string>}
time: {column: time, format: "%Y/%m/%d %H:%M"}
partitions: {start: 2023-01-01, end: 2025-12-31}
user: user
item: item
label: {column: verdict, is: [good, great], is_not: [bad]}
sparse: [user, item, {name: tags, max_values: 4}]
expectations: {quarantine_rate: {max: 0.2}}
demo_days: 2
"""
USERS = [f"U{n}" for n in range(25)]


def many_items(folder: Path, draw: random.Random) -> list[str]:
    for n, day in enumerate(("2019-11-11", "2019-11-12")):
        lines = []
        for i in range(90):
            at = datetime.fromisoformat(day) + timedelta(minutes=15 * i + draw.randrange(15))
            items = draw.sample(range(40), draw.randrange(4, 12))
            shown = " ".join(f"N{item}-{int(draw.random() < (0.6 if item < 10 else 0.05))}" for item in items)
            history = " ".join(f"N{draw.randrange(40)}" for _ in range(draw.randrange(8)))
            lines.append(f"{n}-{i}\t{draw.choice(USERS)}\t{at:%m/%d/%Y %I:%M:%S %p}\t{history}\t{shown}\n")
        (folder / f"behaviors-{n}.tsv").write_text("".join(lines))
    return ["2019-11-11", "2019-11-12"]


def policy(folder: Path, draw: random.Random) -> list[str]:
    header = ["", "timestamp", "item_id", "position", "click", "propensity_score"]
    header += [f"user_feature_{n}" for n in range(4)] + [f"affinity_{n}" for n in range(3)]
    for name in ("random", "bts"):
        for day in ("2019-11-24", "2019-11-25"):
            lines = [",".join(header)]
            for i in range(300):
                at = datetime.fromisoformat(day).replace(tzinfo=UTC) + timedelta(seconds=280 * i)
                item = draw.randrange(20)
                row = [i, at.isoformat(), item, 1 + i % 3, draw.random() < (0.5 if item < 5 else 0.1), 0.05]
                row += [f"{draw.randrange(9):08x}" for _ in range(4)] + [round(draw.random(), 3) for _ in range(3)]
                lines.append(",".join(map(str, row)))
            target = folder / f"policy={name}" / f"day={day}" / "log.csv"
            target.parent.mkdir(parents=True)
            target.write_text("\n".join(lines) + "\n")
    return ["2019-11-24", "2019-11-25"]


def sparse_years(folder: Path, draw: random.Random) -> list[str]:
    rows, day = [], datetime(2023, 1, 1)
    while day < datetime(2026, 1, 1):
        for _ in range(draw.choice((0, 1, 2, 12))):
            at = day + timedelta(minutes=draw.randrange(1440))
            good = draw.random() < 0.4
            verdict = draw.choice(("good", "great")) if good else "unsure" if draw.random() < 0.02 else "bad"
            tags = draw.sample(["new", "sale", "red", "blue"], draw.randrange(4))
            rows.append((at, {"user": draw.randrange(40), "item": draw.randrange(30), "verdict": verdict, "tags": tags}))
        day += timedelta(days=1)
    (folder / "reviews.jsonl").write_text(
        "".join(json.dumps({"time": f"{at:%Y/%m/%d %H:%M}", **row}) + "\n" for at, row in sorted(rows, key=lambda one: one[0]))
    )
    counts = Counter(at.date() for at, _ in rows)
    return [str(max(date for date, count in counts.items() if count >= 12))]


CASES = {"many_items": (MANY_ITEMS, many_items), "policy": (POLICY, policy), "sparse_years": (SPARSE, sparse_years)}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_folder_and_one_yaml_lead_to_a_report(name: str, tmp_path: Path) -> None:
    text, write = CASES[name]
    generate: Callable[[Path, random.Random], list[str]] = write
    (tmp_path / "shapes.yaml").write_text(text)
    spec, folder = load_dataset(tmp_path / "shapes.yaml"), tmp_path / "landing" / "shapes"
    folder.mkdir(parents=True)
    days = generate(folder, random.Random(7))
    assert not errors(preflight(spec, folder))
    spec = spec.starting_at(days[0])
    resources = {
        "lake": LakeResource(root=str(tmp_path / "home")),
        "landing": LandingResource(root=str(tmp_path / "landing")),
        "spark": SparkResource(master="none"),
        "mlflow": MlflowResource(home=str(tmp_path / "home")),
    }
    job = build_defs([spec], resources).resolve_job_def(job_name(spec))
    with dg.DagsterInstance.ephemeral() as instance:
        for day in days:
            result = job.execute_in_process(partition_key=day, instance=instance)
            failed = [e.check_name for e in result.get_asset_check_evaluations() if not e.passed and e.blocking]
            assert result.success and not failed
    lake = Lake.at(tmp_path / "home")
    rows = lake.manifest("raw_logs", "shapes", days[-1])["rows"]
    figures = json.loads((lake.require("evaluation_reports", "shapes", days[-1]) / "metrics.json").read_text())
    assert figures["data"]["rows"] == rows > 0
