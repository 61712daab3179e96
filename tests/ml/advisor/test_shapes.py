from __future__ import annotations

import pytest

from ml.advisor.cost import READING_TERMS
from ml.advisor.rules import KINDS
from ml.advisor.shapes import FURTHER_SHAPES, SHAPES
from ml.advisor.typical_rates import TYPICAL_RATES


@pytest.mark.parametrize("shapes", [SHAPES, SHAPES + FURTHER_SHAPES])
def test_shapes_cover_every_kind_of_model_and_every_term(shapes: tuple) -> None:
    assert {shape.model for shape in shapes} == set(KINDS)
    counted = {name for shape in shapes for name, number in shape.units.items() if number}
    assert counted | set(READING_TERMS) == set(TYPICAL_RATES) and counted.isdisjoint(READING_TERMS)


def test_no_shape_is_timed_twice() -> None:
    shapes = SHAPES + FURTHER_SHAPES
    assert all(shape not in shapes[:number] for number, shape in enumerate(shapes))
