"""Entries with one fault each: none is silent. Correct entries: none is warned of."""

import random
import shutil
from pathlib import Path

import pytest
from pydantic import ValidationError

from ml.catalog.spec import DatasetSpec
from ml.preflight.check import preflight
from tests.helpers.entry_faults import FAULTS, Fault, faulty
from tests.helpers.small_logs import LAYOUTS, write_log
from tests.helpers.trials import SEED, seeds

TRIALS = seeds(5)  # of each fault in each layout; about 400 faults apply


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("seed", range(SEED, SEED + 3))
def test_a_correct_entry_has_no_findings(layout: str, seed: int, tmp_path: Path) -> None:
    entry = write_log(layout, tmp_path, seed)
    assert preflight(DatasetSpec.model_validate(entry), tmp_path) == []


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_no_single_fault_is_silent(fault: Fault, tmp_path: Path) -> None:
    silent: list[str] = []
    drawn = 0
    for layout in LAYOUTS:
        for seed in TRIALS:
            folder, draw = tmp_path / f"{layout}-{seed}", random.Random(f"{layout} {fault.__name__} {seed}")
            entry = write_log(layout, folder, seed)
            found = faulty(entry, folder, fault, draw)
            if found is None:
                continue
            changed, what = found
            drawn += 1
            try:
                spec = DatasetSpec.model_validate(changed)
            except ValidationError:
                continue  # refused when it is loaded
            findings = preflight(spec, folder)
            if not findings:
                silent.append(f"{layout} {seed}: {what}")
            assert all(finding.key and finding.found and finding.change for finding in findings)
            shutil.rmtree(folder)
    assert drawn, "the fault applies to no layout"
    assert silent == []
