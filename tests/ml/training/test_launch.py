"""A day is trained with its options, by any number of processes."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from ml.distributed.launchers import Processes
from ml.lake import Lake
from ml.training.day import DayOptions
from ml.training.launch import main, train_day_on
from tests.helpers.training_days import made_spec, small_recipe, write_days


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_a_recipe_reaches_every_process(lake: Lake, count: int) -> None:
    (day,) = write_days(lake, made_spec(), days=1, rows=320)
    recipe = small_recipe(batch_size=16, seed=3)
    trained = train_day_on(Processes(count), made_spec(), day, lake, options=DayOptions(recipe=recipe, progress=False))
    assert trained.recipe == recipe and trained.report.steps == 20
    assert lake.manifest("tuned_models/dlrm", "made", day)["recipe_fingerprint"] == recipe.fingerprint


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "2026-01-01"], "no dataset 'nowhere'"),
        (["synthetic", "2026-01-01", "--model", "none"], "synthetic has no model 'none'"),
        (["synthetic", "2026-01-01"], "torchrun --nproc-per-node 2 -m ml.training.launch"),
    ],
)
def test_the_command_line_names_what_is_wrong(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    result = CliRunner().invoke(main, [*arguments, "--lake", str(tmp_path)])
    assert result.exit_code == 2 and message in result.output
