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
        shown = rng.random(count) < 0.7
        catalogue.add(
            times,
            ids,
            pa.table({"n": pa.array(numbers, pa.int64()), "tags": pa.array([[n] for n in numbers], pa.list_(pa.int64()))}),
            shown,
        )
        held += zip(times.tolist(), ids.tolist(), numbers, shown.tolist(), strict=True)
        now = part * 10 + 10 + int(rng.integers(0, 3)) * (part + 1 == parts)
        alive = {item for time, item, _, was_shown in held if was_shown and time >= now - window and item != MISSING_ID}
        last = {item: n for _, item, n, _ in held if item in alive}
        live = catalogue.live(now)
        assert live is not None and len(live) == len(last)
        assert dict(zip(live.ids.tolist(), live.features["n"].to_pylist(), strict=True)) == last
        assert live.features["tags"].to_pylist() == [[n] for n in live.features["n"].to_pylist()]
        assert live.ids.tolist() == sorted(last)


def test_an_empty_catalogue_has_no_items() -> None:
    assert Catalogue(5).live(0) is None
