"""What reading a file of another tool finds: faults, which refuse the file, and notes, which tell the user what was changed."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError

from ml.catalog.document import CatalogError, Document
from ml.catalog.explain import describe
from ml.catalog.fault_text import what_is_wrong

Path = Sequence[str | int]


class Report:
    """Faults and notes of one file, in the order in which they are found."""

    def __init__(self, document: Document, top: str | None) -> None:
        self._document, self._top = document, [top] if top else []
        self.faults: list[str] = []
        self.notes: list[str] = []

    def fault(self, keys: Path, what: str) -> None:
        """Records what cannot be read or expressed."""
        self.faults.append(describe(self._document.path, [*self._top, *keys], what, self._document))

    def note(self, keys: Path, what: str) -> None:
        """Records what was read differently from how it is written."""
        self.notes.append(describe(self._document.path, [*self._top, *keys], what, self._document))

    def invalid(self, keys: Path, error: ValidationError, who: str = "") -> None:
        """Records the faults of a validation, with the name of the parameter or metric."""
        for found in error.errors(include_url=False):
            self.fault([*keys, *found["loc"]], f"{who}{what_is_wrong(found, None)}")

    def check(self) -> None:
        """Raises `CatalogError` with a line for each fault, if there are any."""
        if self.faults:
            raise CatalogError("\n".join(dict.fromkeys(self.faults)))
