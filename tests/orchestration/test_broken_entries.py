"""An entry that is not valid does not affect other datasets, and is shown as failed in the UI and on the command line."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import click
import dagster as dg
import pytest

from ml.catalog.load import CATALOG, CatalogError, load_catalog, read_catalog
from orchestration.broken_entries import broken_entries
from orchestration.definitions import defs
from orchestration.deployments import catalog
from orchestration.replay import the_dataset

BROKEN = {
    "shop": ("name: shop\nsorce: {}\n", "shop.yaml: sorce: unknown key"),
    "not a name": ("files: **/*.parquet\n", "not a name.yaml: files: line 1"),
    "ml-1m": ("", "ml-1m.yaml: expected keys with values at the top"),
}
SHOWN = ("shop", "not_a_name", "ml_1m", "synthetic")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A catalog of one valid entry and the broken ones, and one whose recipe is wrong."""
    shutil.copy(CATALOG / "movielens.yaml", tmp_path)
    for name, (text, _) in BROKEN.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    synthetic = (CATALOG / "synthetic.yaml").read_text()
    (tmp_path / "synthetic.yaml").write_text(synthetic.replace("hour: {kind: static", "hour: {kind: nothing"))
    monkeypatch.setenv("EVERGREEN_CATALOG", str(tmp_path))
    monkeypatch.setenv("EVERGREEN_HOME", str(tmp_path / "home"))
    return tmp_path


def test_the_others_are_loaded(folder: Path) -> None:
    found = catalog()
    assert list(found.datasets) == ["movielens"] and set(found.broken) == {*BROKEN, "synthetic"}
    for name, (_, said) in BROKEN.items():
        assert said in str(found.broken[name])
    assert "synthetic.yaml: models." in str(found.broken["synthetic"])
    assert set(read_catalog(folder).datasets) == {"movielens", "synthetic"}
    with pytest.raises(CatalogError) as refused:
        load_catalog(folder)
    assert all(said in str(refused.value) for _, said in BROKEN.values())


def test_the_ui_shows_broken_entries_as_failed(folder: Path) -> None:
    loaded = defs()
    assert isinstance(loaded, dg.Definitions)
    dg.Definitions.validate_loadable(loaded)
    keys = {key.to_user_string() for key in loaded.resolve_all_asset_keys()}
    assert "movielens/raw_logs" in keys and {f"{name}/catalog_entry" for name in SHOWN} <= keys
    assert not any(key.startswith(("synthetic/raw", "shop/raw")) for key in keys)


def test_names_that_become_the_same_are_told_apart() -> None:
    shown = broken_entries({name: CatalogError(name) for name in ("a b", "a-b", "a_b")})
    dg.Definitions.validate_loadable(shown)
    assert len({key.path[0] for key in shown.resolve_all_asset_keys()}) == 3


@pytest.mark.parametrize("name", BROKEN)
def test_check_and_sensor_of_a_broken_entry_fail_with_its_error(name: str, folder: Path) -> None:
    shown = broken_entries({name: catalog().broken[name]})
    (sensor,) = shown.sensors or ()
    assert isinstance(sensor, dg.SensorDefinition) and sensor.default_status is dg.DefaultSensorStatus.RUNNING
    with pytest.raises(CatalogError, match="reload the code location"):
        sensor(dg.build_sensor_context())
    (asset,) = shown.assets or ()
    assert isinstance(asset, dg.AssetSpec) and BROKEN[name][1] in (asset.description or "")
    (check,) = shown.asset_checks or ()
    result = check()
    assert not result.passed and BROKEN[name][1] in result.metadata["error"].text


def test_the_command_line_names_broken_entries(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "evergreen"):
        assert the_dataset("movielens").name == "movielens"
    assert "The catalog entry of shop is not valid and is skipped" in caplog.text
    for name in ("shop", "ml-1m", "not a name"):
        with pytest.raises(click.ClickException, match=BROKEN[name][1]):
            the_dataset(name)
    with pytest.raises(click.BadParameter, match="no dataset 'nothing' in the catalog; it has movielens"):
        the_dataset("nothing")
