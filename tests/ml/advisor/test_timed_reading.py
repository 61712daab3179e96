from __future__ import annotations

from ml.advisor import timed_reading
from ml.advisor.timed_reading import DAYS, DENSE, SPARSE, measure_reading
from ml.datasets.reader import BlockReader
from ml.datasets.splits import SPLITS
from ml.lake import Lake


def test_reading_has_a_cost_of_a_day_and_one_of_a_value() -> None:
    found = measure_reading()
    assert found.seconds_per_pass > 0 and found.seconds_per_value > 0


def test_the_day_that_is_read_has_its_rows_and_features(lake: Lake) -> None:
    spec = timed_reading._spec()
    day = min(DAYS)
    timed_reading._write(lake, spec, day, DAYS[day])
    batches = list(BlockReader(lake, spec, [day], splits=SPLITS, batch_size=10))
    assert sum(len(batch) for batch in batches) == DAYS[day]
    assert batches[0].dense.shape[1] == DENSE and len(batches[0].sparse.keys()) == SPARSE
