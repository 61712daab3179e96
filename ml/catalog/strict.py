"""The base of every model of the catalog, and how a validator says which key is at fault. No key is defined here."""

from __future__ import annotations

from typing import Annotated

import pydantic
from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticCustomError

# What is written '7', 1 or yes is not taken for 7, true or true.
Bool = Annotated[bool, pydantic.Strict()]
Int = Annotated[int, pydantic.Strict()]
Float = Annotated[float, pydantic.Strict()]

FAULT = "fault"  # pydantic's type of an error that `fault` made


class Strict(BaseModel):
    """Frozen, and an unknown key is an error: a typo must never become a silent default. Numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def fault(key: str, what: str) -> PydanticCustomError:
    """The error for a validator to raise. key: path below the model (`source.columns`), or empty for the model itself.

    pydantic knows where the model lies, `ml.catalog.explain` puts both together.
    """
    return PydanticCustomError(FAULT, "{what}", {"key": key, "what": what})
