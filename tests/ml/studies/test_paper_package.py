"""Packages with as many rows as in the paper's arithmetic."""

from __future__ import annotations

from ml.studies.paper_package import paper_package
from ml.studies.sync_cost import FORMATS


def test_a_package_of_the_paper_has_ids_and_times_beside_the_weights() -> None:
    sizes = {rows: paper_package(rows, 1000, 64) for rows in FORMATS}
    for rows, width in (("float32", 256), ("float16", 128), ("int8", 68)):
        package = sizes[rows]
        assert package.arithmetic == 256_000 and 0 <= package.nbytes - 1000 * (width + 16) < 1000
        assert set(package.seconds) == {"encode", "write", "read"}
