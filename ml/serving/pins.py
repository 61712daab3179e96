"""Pins: the day to which a user has pinned a model of the service, as one small file per model.

Running services read `<home>/serving/<dataset>/<model>.json` every second. While there is a pin, they serve the model of its
day, and ignore newer days and published packages.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from ml.disk import replace_text


class WrongPin(ValueError):
    """A pin cannot be read; the message names its file."""


@dataclass(frozen=True)
class Pins:
    """The pins of one dataset.

    Args:
        folder: `<home>/serving/<dataset>`, a local folder, whether or not it exists.

    Example:
        >>> import tempfile
        >>> pins = Pins(Path(tempfile.mkdtemp()) / "shop")
        >>> pins.day_of("dlrm")
        >>> pins.pin("dlrm", "2026-01-02")
        >>> pins.day_of("dlrm")
        '2026-01-02'
        >>> pins.unpin("dlrm")
        True
    """

    folder: Path

    def day_of(self, model: str) -> str | None:
        """Return the day that a model is pinned to; None without a pin. Raises `WrongPin`."""
        path = self._path(model)
        try:
            text = path.read_text()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise WrongPin(f"{path} cannot be read: {error.strerror}") from error
        try:
            return date.fromisoformat(json.loads(text)["day"]).isoformat()
        except (ValueError, LookupError, TypeError) as error:
            way_out = 'expected {"day": "YYYY-MM-DD"}; delete the file to serve the newest version'
            raise WrongPin(f"{path} is not a pin: {way_out}") from error

    def pin(self, model: str, day: str) -> None:
        """Pin a model to a day, in place of an earlier pin."""
        replace_text(self._path(model), json.dumps({"day": day}) + "\n")

    def unpin(self, model: str) -> bool:
        """Remove a pin. Returns whether there was one."""
        path = self._path(model)
        was_pinned = path.exists()
        path.unlink(missing_ok=True)
        return was_pinned

    def _path(self, model: str) -> Path:
        return self.folder / f"{model}.json"
