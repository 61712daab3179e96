"""What a user wishes of the training of a model, as the edits of its recipe say, and the limit of memory without a wish."""

from __future__ import annotations

from pydantic import ValidationError

from ml.advisor.advice import Wishes
from ml.advisor.hardware import Hardware
from ml.catalog.document import CatalogError, read_document
from ml.catalog.explain import describe
from ml.catalog.fault_text import what_is_wrong
from ml.catalog.spec import DatasetSpec
from ml.recipes.edits import read_edits
from ml.recipes.wishes import WishesSection, size_in_bytes

MEMORY_SHARE = 0.8  # of the memory that a process can use; predictions are within a quarter


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
