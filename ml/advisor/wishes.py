"""The user's limits and targets for training, from the edits of a recipe, and the limit of memory without one.

`ml.recipes.wishes` declares the section of the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from ml.advisor.hardware import Hardware
from ml.catalog.document import CatalogError, read_document
from ml.catalog.explain import describe
from ml.catalog.fault_text import what_is_wrong
from ml.catalog.spec import DatasetSpec
from ml.recipes.edits import read_edits
from ml.recipes.wishes import WishesSection, size_in_bytes

MEMORY_SHARE = 0.8  # of the memory that a process can use; predictions are within a quarter


@dataclass(frozen=True)
class Wishes:
    """The user's limits and targets for training.

    Attributes:
        seconds: Seconds of one core that the training of a day may take; unlimited by default.
        memory: Bytes of memory that the training process may take; by default a share of the memory of the machine.
        target: Metric and value at which the training of a day may end early, such as `("auc", 0.76)`.
        trials: Number of trials of a tuning; by default, ten for each parameter.
        parallel: Number of trials at a time; by default, one for each core.

    Example:
        >>> Wishes(seconds=60, target=("auc", 0.76)).target
        ('auc', 0.76)
    """

    seconds: float | None = None
    memory: float | None = None
    target: tuple[Literal["auc", "log_loss"], float] | None = None
    trials: int | None = None
    parallel: int | None = None

    @property
    def of_training(self) -> dict[str, Any]:
        """The wishes that advice on training depends on, as plain data."""
        known = {"seconds": self.seconds, "memory": self.memory, "target": list(self.target) if self.target else None}
        return {name: value for name, value in known.items() if value is not None}


def wishes_of(spec: DatasetSpec, model: str) -> Wishes:
    """Return the wishes in the section `wishes` of the edits of a model's recipe.

    Raises:
        CatalogError: The section is not valid; the message has the file, the path of each wrong key and its line.
    """
    edits = read_edits(spec.models[model].edits)
    if edits is None or not edits.wishes:
        return Wishes()
    try:
        said = WishesSection.model_validate(edits.wishes)
    except ValidationError as error:
        document = read_document(edits.path)
        lines = (
            describe(edits.path, ["wishes", *found["loc"]], what_is_wrong(found, WishesSection), document)
            for found in error.errors(include_url=False)
        )
        raise CatalogError("\n".join(lines)) from error
    return Wishes(said.seconds, size_in_bytes(said.memory) if said.memory else None, said.target.pair if said.target else None)


def memory_limit(wishes: Wishes, hardware: Hardware) -> float:
    """Return the bytes of memory that training may take: the wish, or a share of what a process can use."""
    return MEMORY_SHARE * hardware.memory if wishes.memory is None else wishes.memory
