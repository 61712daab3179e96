"""A small lake that was filled by the module behind `make demo`."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator

import pytest

from tests.helpers.markdown import blocks_of
from tests.helpers.paths import ROOT
from tests.helpers.workplace import DAYS, Workplace


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """Three small days of the built-in log, from lines to reports, without Spark."""
    folder = tmp_path_factory.mktemp("docs")
    catalog, home = folder / "catalog", folder / ".evergreen"
    shutil.copytree(ROOT / "catalog", catalog)
    entry = catalog / "synthetic.yaml"
    small = entry.read_text().replace("impressions_per_day: 300000", "impressions_per_day: 3000, users: 400, items: 100")
    assert small != entry.read_text()
    entry.write_text(small)
    for name in ("bring-your-own-logs", "tutorial"):
        whole = next(block for block in blocks_of(ROOT / "docs" / f"{name}.md") if block.text.startswith("name: "))
        (catalog / f"{whole.text.split()[1]}.yaml").write_text(whole.text)
    for name in (".venv", "env.sh", "Makefile", "workspace.yaml"):
        (folder / name).symlink_to(ROOT / name)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("EVERGREEN_", "MLFLOW_TRACKING"))} | {
        "EVERGREEN_HOME": str(home),
        "EVERGREEN_DAGSTER": str(home / "dagster"),
        "EVERGREEN_CATALOG": str(catalog),
        "EVERGREEN_SPARK_MASTER": "none",
        "DAGSTER_HOME": str(ROOT),
    }
    found = Workplace(folder, catalog, env)
    printed = found.run(sys.executable, "-m", "orchestration.demo", "synthetic", "--days", str(len(DAYS)))
    assert all(day in printed for day in DAYS)
    return found


@pytest.fixture
def at_work(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workplace]:
    """The folder and the environment variables of the workplace, in this process."""
    import mlflow

    for name in [name for name in os.environ if name.startswith(("EVERGREEN_", "MLFLOW_TRACKING"))]:
        monkeypatch.delenv(name)
    for name, value in workplace.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(workplace.folder)
    yield workplace
    mlflow.set_tracking_uri("")
