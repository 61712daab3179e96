"""The addresses of a running service, in a small file of mode 0600 that the service removes when it ends.

Other processes of the same user, such as the sensor that watches the service, find the service by this file. If the file
exists and nothing answers, the service was killed. If another service answers there meanwhile, its `instance` differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter
from pydantic.dataclasses import dataclass

from ml.disk import replace_text

FILE = "running-service.json"
"""Name of the file in the folder of the service; pins of models have other names, because names of models have no hyphen."""


class DamagedAnnouncement(ValueError):
    """The file does not have what a service writes; the message names the file."""


@dataclass(frozen=True)
class Announcement:
    """A running service.

    Attributes:
        urls: Addresses at which it can be reached, such as the one that it listens on, and one by its name in a network.
        token: File of its token; None for an open service.
        instance: A random word of this run of the service, which `/health` answers too.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> Announcement(["http://127.0.0.1:8715"], None, "8c1f").write(folder)
        >>> Announcement.read(folder)
        Announcement(urls=['http://127.0.0.1:8715'], token=None, instance='8c1f')
        >>> Announcement.withdraw(folder)
        >>> Announcement.read(folder)
    """

    urls: Annotated[Sequence[str], Field(min_length=1)]
    token: str | None
    instance: Annotated[str, Field(min_length=1)]

    def write(self, folder: Path) -> None:
        """Announce the service in its folder, in place of an earlier one. Raises `OSError`."""
        replace_text(folder / FILE, _FORM.dump_json(self).decode() + "\n", mode=0o600)

    @staticmethod
    def withdraw(folder: Path) -> None:
        """Remove the announcement, if there is one. Raises `OSError`."""
        (folder / FILE).unlink(missing_ok=True)

    @staticmethod
    def read(folder: Path) -> Announcement | None:
        """Return the service of a folder; None if none is announced.

        Raises:
            DamagedAnnouncement: The file does not have what a service writes.
            OSError: The file cannot be read.
        """
        path = folder / FILE
        try:
            return _FORM.validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:
            text = f"{path} does not say where a service answers; delete it, and restart the service"
            raise DamagedAnnouncement(text) from error


_FORM = TypeAdapter(Announcement)
