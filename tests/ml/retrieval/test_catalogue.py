"""The catalogue against a slow reading of all rows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.retrieval.catalogue import Catalogue
from ml.schema import MISSING_ID


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 6))
def test_it_holds_the_last_row_of_each_live_item(seed: int, window: int, parts: int) -> None:
    rng = np.random.default_rng(seed)
    catalogue, held = Catalogue(window), []
    for part in range(parts):
        count = int(rng.integers(0, 20))
        times, ids = part * 10 + np.sort(rng.integers(0, 10, count)), rng.integers(0, 8, count)
        numbers = [1000 * part + n for n in range(count)]
        catalogue.add(
            times,
            ids,
            pa.table({"n": pa.array(numbers, pa.int64()), "tags": pa.array([[n] for n in numbers], pa.list_(pa.int64()))}),
        )
        held += zip(times.tolist(), ids.tolist(), numbers, strict=True)
        now = part * 10 + 10 + int(rng.integers(0, 3)) * (part + 1 == parts)
        last = {item: n for time, item, n in held if time >= now - window and item != MISSING_ID}
        live = catalogue.live(now)
        assert live is not None and len(live) == len(last)
        assert dict(zip(live.ids.tolist(), live.features["n"].to_pylist(), strict=True)) == last
        assert live.features["tags"].to_pylist() == [[n] for n in live.features["n"].to_pylist()]
        assert live.ids.tolist() == sorted(last)


def test_an_empty_catalogue_has_no_items() -> None:
    assert Catalogue(5).live(0) is None
