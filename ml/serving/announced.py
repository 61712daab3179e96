"""The addresses of a running service, in a small file of mode 0600 that the service removes when it ends.

Other processes of the same user, such as the sensor that watches the service, find the service by this file. If the file
exists and nothing answers, the service was killed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

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

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> Announcement(["http://127.0.0.1:8715"], None).write(folder)
        >>> Announcement.read(folder)
        Announcement(urls=['http://127.0.0.1:8715'], token=None)
        >>> Announcement.withdraw(folder)
        >>> Announcement.read(folder)
    """

    urls: Sequence[str]
    token: str | None

    def write(self, folder: Path) -> None:
        """Announce the service in its folder, in place of an earlier one."""
        replace_text(folder / FILE, json.dumps(asdict(self)) + "\n", mode=0o600)

    @staticmethod
    def withdraw(folder: Path) -> None:
        """Remove the announcement, if there is one."""
        (folder / FILE).unlink(missing_ok=True)

    @classmethod
    def read(cls, folder: Path) -> Announcement | None:
        """Return the service of a folder; None if none is announced.

        Raises:
            DamagedAnnouncement: The file does not have what a service writes.
            OSError: The file cannot be read.
        """
        path = folder / FILE
        try:
            found = json.loads(path.read_bytes())
            urls, token = found["urls"], found["token"]
        except FileNotFoundError:
            return None
        except (ValueError, LookupError, TypeError) as error:
            text = f"{path} does not say where a service answers; delete it, and restart the service"
            raise DamagedAnnouncement(text) from error
        return cls(urls, token)
