"""The example of docs/bring-your-own-logs.md, read from the page, runs from raw lines to reports."""

import gzip
import json
import random
import re
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import dagster as dg
import pytest

from assets.progress import is_done, stages_done
from assets.resources import LakeResource, LandingResource, MlflowResource, SparkResource
from ml.catalog.load import CatalogError, load_dataset
from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from orchestration.definitions import build_defs
from orchestration.jobs import job_name

PAGE = (Path(__file__).parents[2] / "docs" / "bring-your-own-logs.md").read_text()
ROWS = 800


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found, language
    return found[1]


def write_logs(folder: Path, spec: DatasetSpec) -> int:
    """Write a file per day as on the page, with the page's two lines and a damaged line. Return the number of rows."""
    draw = random.Random(7)
    kinds = {product: draw.choice(("shoe", "hat", "coat")) for product in range(60)}
    products = block("csv") + "".join(f"{p},{draw.choice(('Acme', 'Globex'))},{kind}\n" for p, kind in kinds.items() if p != 12)
    (folder / "products.csv").write_text(products)
    zone = ZoneInfo(spec.time.timezone)
    written = 0
    for number, day in enumerate(spec.days()):
        midnight = datetime.fromisoformat(day).replace(tzinfo=zone)
        lines = block("json").splitlines() if number == 0 else []
        for i in range(ROWS):
            product = draw.randrange(60)
            row = {
                "at": (midnight + timedelta(seconds=86_400 * i / ROWS)).isoformat(),
                "visitor": f"v-{draw.randrange(100)}",
                "product": product,
                "page": draw.choice(("home", "search")),
                "price": draw.choice((None, 4.5, 19.9, 80.0)) if i % 10 == 0 else round(draw.uniform(1, 60), 2),
                "labels": draw.choice(("", "red", "red,sale", "new,sale")),
                "stars": draw.choice((3.0, 4.5)),
                "bought": int(draw.random() < {"shoe": 0.7, "hat": 0.2, "coat": 0.05}[kinds[product]]),
            }
            lines.append(json.dumps(row))
        written += len(lines)
        lines.insert(5, '{"at": "2025-03-01T10:00:00+01:00", "visitor": ')
        with gzip.open(folder / f"events-{day}.jsonl.gz", "wt", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
    return written


@pytest.fixture
def shop(tmp_path: Path) -> DatasetSpec:
    path = tmp_path / "shop.yaml"
    path.write_text(block("yaml"))
    return load_dataset(path)


@pytest.mark.slow
def test_the_worked_example_runs_from_raw_lines_to_reports(shop: DatasetSpec, tmp_path: Path):
    (tmp_path / "landing" / "shop").mkdir(parents=True)
    written = write_logs(tmp_path / "landing" / "shop", shop)
    resources = {
        "lake": LakeResource(root=str(tmp_path / "home")),
        "landing": LandingResource(root=str(tmp_path / "landing")),
        "spark": SparkResource(master="none"),
        "mlflow": MlflowResource(home=str(tmp_path / "home")),
    }
    job = build_defs([shop], resources).resolve_job_def(job_name(shop))
    with dg.DagsterInstance.ephemeral() as instance:
        for day in shop.days():
            result = job.execute_in_process(partition_key=day, instance=instance)
            failed = [e.check_name for e in result.get_asset_check_evaluations() if not e.passed and e.blocking]
            assert result.success and not failed
    lake = Lake.at(tmp_path / "home")
    manifests = [lake.manifest("raw_logs", "shop", day) for day in shop.days()]
    assert sum(m["rows"] for m in manifests) == written
    assert [m["quarantined"] for m in manifests] == [1, 1, 1]
    figures = json.loads((lake.require("evaluation_reports", "shop", shop.days()[-1]) / "metrics.json").read_text())
    assert figures["data"]["rows"] == manifests[-1]["rows"]
    assert 0 < figures["model"]["auc"] < 1

    # A row of the first day arrives late. After this day has run again, the later days are due.
    assert [stages_done(lake, shop, day) for day in shop.days()] == [True, True, True]
    late = next((tmp_path / "landing" / "shop").glob(f"*{shop.days()[0]}*"))
    late.write_bytes(late.read_bytes() + gzip.compress(gzip.decompress(late.read_bytes()).splitlines(keepends=True)[0]))
    logs = LandingResource(root=str(tmp_path / "landing")).folder("shop")
    assert [is_done(lake, shop, day, logs) for day in shop.days()] == [False, True, True]
    with dg.DagsterInstance.ephemeral() as instance:
        for done in range(1, 4):
            assert job.execute_in_process(partition_key=shop.days()[done - 1], instance=instance).success
            due = [is_done(lake, shop, day, logs) for day in shop.days()]
            assert due[:done] == [True] * done and (done == 3 or due[done] is False)


def test_the_wrong_entry_is_refused_with_the_message_of_the_page(tmp_path: Path):
    path = tmp_path / "shop.yaml"
    path.write_text(block("yaml").replace("min_count: 5", "min_cuont: 5"))
    with pytest.raises(CatalogError) as refused:
        load_dataset(path)
    shown = re.search(r"```output\n(catalog/shop\.yaml: .*?)\n```", PAGE)
    assert shown and str(refused.value).replace(str(path), "catalog/shop.yaml") == shown[1]
