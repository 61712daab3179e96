"""Tables of a stored model can be inspected, whatever number of ranks wrote it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from ml.artifacts.inspect import main, tables_of
from ml.artifacts.snapshot import OPTIMIZER, DamagedSnapshot, copy_weights, file_name
from tests.helpers.single_table import columns_of
from tests.helpers.stores import RULES, trained_store
from tests.ml.artifacts.test_snapshot import write


@pytest.mark.parametrize("shards", [1, 3])
def test_tables_can_be_looked_at(tmp_path: Path, shards: int) -> None:
    store = trained_store(12)
    frames = tables_of(write(store, tmp_path, shards))
    for number, rule in enumerate(RULES):
        expected = columns_of(store, number)
        assert frames[rule.name]["id"].tolist() == expected["id"].tolist()
        assert frames[rule.name]["count"].tolist() == expected["count"].tolist()
        seconds = frames[rule.name]["seen"].map(lambda moment: int(moment.timestamp())).tolist()
        assert seconds == expected["seen"].tolist()
        np.testing.assert_allclose(frames[rule.name]["norm"], expected["norm"], rtol=1e-5)


def test_a_model_for_inference_shows_ids_and_weights(tmp_path: Path) -> None:
    folder = write(trained_store(12), tmp_path / "trained")
    (tmp_path / "copied").mkdir()
    copy_weights(folder, tmp_path / "copied")
    whole, copied = tables_of(folder), tables_of(tmp_path / "copied")
    for table, frame in copied.items():
        assert frame.equals(whole[table][["id", "norm"]])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    folder = write(trained_store(9), tmp_path, shards=2)
    name = file_name(OPTIMIZER, 1, 2)
    (folder / name).unlink()
    with pytest.raises(DamagedSnapshot, match=f"{name} is missing"):
        tables_of(folder)


def test_the_command_shows_a_table_and_writes_parquet(tmp_path: Path) -> None:
    store = trained_store(12)
    folder = write(store, tmp_path / "trained")
    shown = CliRunner().invoke(main, [str(folder), "--table", "u", "--rows", "3"])
    assert shown.output.startswith(f"u: {store.live[1]} rows") and len(shown.output.strip().splitlines()) == 5
    assert CliRunner().invoke(main, [str(folder), "--parquet", str(tmp_path / "tables")]).exit_code == 0
    assert sorted(path.stem for path in (tmp_path / "tables").iterdir()) == sorted(rule.name for rule in RULES)
    assert "the model has no table 'x'" in CliRunner().invoke(main, [str(folder), "--table", "x"]).output
