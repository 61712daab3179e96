"""The base class of catalog and recipe models, and errors that name the key at fault."""

from __future__ import annotations

from typing import Annotated, Any

import pydantic
from pydantic import BaseModel, BeforeValidator, ConfigDict
from pydantic_core import PydanticCustomError, PydanticKnownError

# '7', 1 and yes are not converted to 7, true and true.
Bool = Annotated[bool, pydantic.Strict()]
Int = Annotated[int, pydantic.Strict()]
Float = Annotated[float, pydantic.Strict()]


def _not_bool(kind: Any) -> BeforeValidator:
    """Returns a validator that refuses true and false, which pydantic converts to 1 and 0, with pydantic's error `kind`."""

    def check(value: Any) -> Any:
        if isinstance(value, bool):
            raise PydanticKnownError(kind)
        return value

    return BeforeValidator(check)


# Numbers of recipes and rules, also as text: YAML reads 1e-3 as text. Unlike pydantic's own, they refuse true and false.
IntOrText = Annotated[int, _not_bool("int_type")]
FloatOrText = Annotated[float, _not_bool("float_type")]
NumberOrText = Annotated[int | float, _not_bool("float_type")]

Scalar = Bool | Int | Float | str
"""A value of a column as a catalog entry names it."""

NOT_IN_FEATURE_NAMES = r".\s/:*?\[\]{}\\"
"""Characters that names of features cannot have, as in a class of a regular expression. (Tables and parameters of a model are
named after features, with dots as separators.)"""
FEATURE_NAME = f"^[^{NOT_IN_FEATURE_NAMES}]+$"
"""Pattern of the names of features."""

FAULT = "fault"  # pydantic's type of the errors that `fault` returns


class Strict(BaseModel):
    """A frozen model that refuses unknown keys, so that a typo is not silently ignored, and numbers that are not finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def is_none(value: object) -> bool:
    """Whether a key is not given. With `exclude_if`, entries from before the key existed keep their fingerprints."""
    return value is None


def is_false(value: object) -> bool:
    """Whether a switch is off, for `exclude_if` as with `is_none`."""
    return value is False


def fault(key: str, what: str) -> PydanticCustomError:
    """Returns the error for a validator to raise.

    Args:
        key: Path of the key below the model, such as `source.columns`; empty for the model itself.
        what: What is wrong. `ml.catalog.explain` adds the file and the path of the model.
    """
    return PydanticCustomError(FAULT, "{what}", {"key": key, "what": what})
