"""The models that a service follows as a receiver, under one name that stays the same across its restarts.

The publisher keeps deltas for each registered receiver. A service with a new name after each restart would leave a registered
receiver behind, and the publisher would keep its deltas for `receiver_ttl`.
"""

from __future__ import annotations

import re
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path

import psutil

from ml.catalog.spec import DatasetSpec
from ml.disk import replace_text
from ml.sync.folder import SyncFolder, sync_folder
from ml.sync.probe import Probe
from ml.sync.receiver import Receiver

NAME_FILE = "receiver-name"


@dataclass(frozen=True)
class FollowedModel:
    """A model that a service follows.

    Attributes:
        folder: Where the model is published.
        receiver_name: The name of the service among the receivers of the model.
    """

    folder: SyncFolder
    receiver_name: str

    def receiver(self, probe: Probe | None, fingerprint: str) -> Receiver:
        """Return the receiver of the model; arguments as for `Receiver`."""
        return Receiver(self.folder, self.receiver_name, probe, fingerprint)

    def leave(self) -> None:
        """Let the publisher delete what only this service needed. A service that starts again begins at a snapshot anyway."""
        self.folder.drop(self.receiver_name)

    def drop_earlier_names(self) -> None:
        """Drop processes of this host that have ended, of the time when services were named by their process."""
        for one in self.folder.acknowledgements():
            found = re.fullmatch(rf"serve-{re.escape(_host())}-(\d+)", one.name)
            if found and not psutil.pid_exists(int(found[1])):
                self.folder.drop(one.name)


def followed_models(spec: DatasetSpec, root: str, folder: Path) -> dict[str, FollowedModel]:
    """Return the models of a dataset that online training may publish, by name.

    The caller holds a lock that only one service with this folder can hold, because receivers with the same name overwrite
    each other's acknowledgements.

    Args:
        spec: The dataset.
        root: Folder or fsspec URL of all published models.
        folder: Folder of the service, which keeps its name.
    """
    name = receiver_name(folder)
    found = {model: FollowedModel(sync_folder(root, spec.name, model), name) for model in spec.models}
    for one in found.values():
        one.drop_earlier_names()
    return found


def receiver_name(folder: Path) -> str:
    """Return the name of the service of a folder. The first start makes it, of the host and a random number."""
    path = folder / NAME_FILE
    if not path.exists():
        replace_text(path, f"serve-{_host()}-{secrets.token_hex(8)}")
    return path.read_text()


def _host() -> str:
    return re.sub(r"[^\w-]", "-", socket.gethostname())
