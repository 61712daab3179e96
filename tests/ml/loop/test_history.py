"""The landing files of a loop: the simulated days before it, and what a service has stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.joiner.join import join
from ml.loop.entry import loop_entry
from ml.loop.history import land_served, write_history
from ml.loop.population import Population
from ml.loop.settings import Settings
from ml.parquet import read_parquet
from ml.schema import EVENT_TIME
from ml.serving.journal import Journal

SETTINGS = Settings(users=50, items=20, history_requests=400)


@pytest.fixture(scope="module")
def landing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("landing")
    write_history(SETTINGS, DatasetSpec.model_validate(loop_entry(SETTINGS)), folder)
    return folder


def rows(folder: Path):
    import pyarrow as pa

    return pa.concat_tables([read_parquet(str(file)) for file in sorted(folder.glob("*.parquet"))])


def test_the_days_before_the_loop_have_clicks_at_the_true_rate(landing: Path) -> None:
    spec = DatasetSpec.model_validate(loop_entry(SETTINGS))
    assert spec.actions is not None
    shown, acted = rows(landing / "impressions"), rows(landing / "actions")
    shown = shown.append_column(EVENT_TIME, shown["shown_at"])
    acted = acted.append_column(EVENT_TIME, acted["at"])
    joined = join(spec.actions, shown, acted, SETTINGS.start)
    assert len(joined.examples) == 2 * 400 * SETTINGS.shown
    population = Population(SETTINGS)
    place = {item: at for at, item in enumerate(population.item_ids.tolist())}
    chance = [
        population.click_chances(row["shown_at"], row["user"] - 1, 0)[place[row["item"]]]
        for row in joined.examples.slice(0, 2000).to_pylist()
    ]
    clicked = joined.examples["clicked"].to_numpy()[:2000]
    assert clicked.mean() == pytest.approx(np.mean(chance), abs=4 * np.sqrt(clicked.mean() / 2000))


def test_equal_settings_give_equal_files(landing: Path, tmp_path: Path) -> None:
    write_history(SETTINGS, DatasetSpec.model_validate(loop_entry(SETTINGS)), tmp_path)
    for file in landing.rglob("*.parquet"):
        assert (tmp_path / file.relative_to(landing)).read_bytes() == file.read_bytes()


def test_a_day_lands_from_what_a_service_has_stored(tmp_path: Path) -> None:
    spec, day = DatasetSpec.model_validate(loop_entry(SETTINGS)), SETTINGS.served_days[0]
    journal = Journal(spec, UPath(tmp_path / "stream"))
    start = SETTINGS.start
    for at, name in (
        (start - 1, "before"),
        (start, "first"),
        (start + 86_399_999_999, "last"),
        (start + 86_400_000_000, "after"),
    ):
        journal.append({"impressions": [{"request": name, "item": 1, "user": 2}]}, at)
    journal.append({"actions": [{"request": "first", "item": 1}]}, start + 5)
    journal.rotate(at_once=True)
    journal.append({"impressions": [{"request": "not published", "item": 1}]}, start + 7)
    assert land_served(spec, UPath(tmp_path / "stream"), tmp_path / "landing", day) == 2
    landed = rows(tmp_path / "landing" / "impressions")
    assert landed["request"].to_pylist() == ["first", "last"]
    assert landed["shown_at"].to_pylist() == [start, start + 86_399_999_999]
    assert rows(tmp_path / "landing" / "actions")["at"].to_pylist() == [start + 5]
