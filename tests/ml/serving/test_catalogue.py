"""The live items: what they can be filtered by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from ml.lake import Lake
from ml.serving.past import recommender_at
from tests.helpers.kiosk_lake import DAY, END, put_raw, raw_rows, spec_of


def test_a_column_that_a_feature_splits_is_filtered_by_its_parts(tmp_path: Path) -> None:
    spec = spec_of(
        item_columns=["place"],
        sparse=["user", "item", {"name": "places", "column": "place", "split": " "}],
        models={"dlrm": {}},
    )
    lake, rows = Lake.at(str(tmp_path)), raw_rows()
    held = np.array(["here", "there", "here there"])[rows["item"].to_numpy() % 3]
    put_raw(lake, spec, rows.set_column(rows.column_names.index("place"), "place", pa.array(held)))
    source = recommender_at(spec, lake, DAY).source
    live = source.refresh(END, None)
    items = live.items["item"].to_numpy()
    for place, wanted in (("here", items % 3 != 1), ("there", items % 3 != 0), ("here there", items < 0)):
        allowed = source.allowed(live, {"place": [place]}, [])
        assert allowed is not None and allowed.tolist() == wanted.tolist()
    assert set(items % 3) == {0, 1, 2}
