"""The health of a running service, as another process sees it: whether it answers, and what it does not serve or publish.

| fault                                    | seen in                                        |
|------------------------------------------|------------------------------------------------|
| the service was killed, or is stuck      | it is announced, and `/health` does not answer |
| the newest version of a model is refused | `/health`, and the reason in `/version`        |
| events are stored and not published      | `/health`                                      |
| a model is older than its newest export  | `/version`, and the exports in the lake        |

A model that is pinned is not stale: a person has chosen its day. Without the token of the service, `/version` cannot be read;
the other faults are still found.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

import requests

from ml.catalog.spec import DatasetSpec
from ml.days import day_bounds
from ml.lake import MANIFEST, Lake
from ml.serving.announced import FILE, Announcement
from ml.stages import exported_models

ANSWER_SECONDS = 5.0
"""Longest wait for an answer of the service."""
STALE_SECONDS = 300.0
"""Seconds after which a service must have loaded an export."""


class NoAnswer(Exception):
    """The service does not answer as it should; the message says how it was asked."""


@dataclass(frozen=True)
class WatchedModel:
    """What the service reports about a model.

    Attributes:
        model: Name of the model.
        version: Day of the export, or number of the sync; empty if the service does not report it.
        status: `current`, `refused` or `pinned`.
    """

    model: str
    version: str
    status: str


@dataclass(frozen=True)
class WatchedService:
    """A running service.

    Attributes:
        url: Where it answers, or should.
        models: Its models.
        reasons: What is wrong; empty if nothing is.
        untold: Why the versions of the models are unknown, such as a token that cannot be read; None if they are known.
    """

    url: str
    models: list[WatchedModel] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    untold: str | None = None


def watch_service(spec: DatasetSpec, lake: Lake, folder: Path) -> WatchedService | None:
    """Ask the service of a dataset for its health.

    Args:
        spec: The dataset.
        lake: Where exports are stored.
        folder: Folder of the service, `<home>/serving/<dataset>`.

    Returns:
        What it answers; None if no service is announced.

    Raises:
        DamagedAnnouncement: The announcement cannot be read.
        OSError: The announcement or the lake cannot be read.
    """
    announced = Announcement.read(folder)
    if announced is None:
        return None
    session = requests.Session()
    session.trust_env = False  # the proxies of the environment are for other machines
    with session:
        try:
            url, health = _first_answer(session, announced)
        except NoAnswer as error:
            way_out = f"start it again with `make serve DATASET={spec.name}`, or delete {folder / FILE} if none is wanted"
            return WatchedService(announced.urls[0], reasons=[f"the service does not answer ({error}); {way_out}"])
        try:
            versions, untold = _versions(session, url, announced.token), None
        except (NoAnswer, OSError) as error:
            versions, untold = {}, str(error)
    reasons = [
        *(f"{name}: {_refusal(versions.get(name))}" for name, status in health["models"].items() if status == "refused"),
        *(f"stored events of {log} cannot be published; the log of the service has the reason" for log in _waiting(health)),
        *(reason for name, version in versions.items() if (reason := _stale(spec, lake, name, version))),
    ]
    models = [WatchedModel(name, str(versions.get(name, {}).get("version", "")), of) for name, of in health["models"].items()]
    return WatchedService(url, models, reasons, untold)


def _first_answer(session: requests.Session, announced: Announcement) -> tuple[str, dict[str, Any]]:
    """Return the first address that answers, and its health."""
    errors = []
    for url in announced.urls:
        try:
            return url, _get(session, f"{url}/health", {"models"})
        except NoAnswer as error:
            errors.append(str(error))
    raise NoAnswer("; ".join(errors))


def _get(session: requests.Session, url: str, keys: set[str], token: str | None = None) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        answer = session.get(url, headers=headers, timeout=ANSWER_SECONDS)
        found = answer.json() if answer.status_code == HTTPStatus.OK else None
    except requests.RequestException as error:
        raise NoAnswer(f"{url}: {type(error).__name__}") from error
    if not isinstance(found, dict) or not keys <= found.keys():
        raise NoAnswer(f"{url}: status {answer.status_code}")
    return found


def _versions(session: requests.Session, url: str, token: str | None) -> dict[str, Mapping[str, Any]]:
    """Return what `/version` reports about each model. Raises `NoAnswer`, or `OSError` if the token cannot be read."""
    own = Path(token).read_text().strip() if token else None
    found = _get(session, f"{url}/version", {"models", "ranker"}, own)
    return {found["ranker"]["model"]: found["ranker"]} | found["models"]


def _refusal(version: Mapping[str, Any] | None) -> str:
    refusal = (version or {}).get("refusal")
    return f"the newest version is refused ({refusal})" if refusal else "the newest version is refused"


def _waiting(health: Mapping[str, Any]) -> list[str]:
    return [log for log, state in health.get("events", {}).items() if state == "waiting"]


def _stale(spec: DatasetSpec, lake: Lake, name: str, version: Mapping[str, Any]) -> str | None:
    """Return why a model is stale; None if the lake has had no newer export for `STALE_SECONDS`."""
    if name not in spec.models or version["pinned"] or version["refusal"]:
        return None
    stage = exported_models(name)
    newest = next(reversed(lake.days(stage, spec.name)), None)
    if newest is None or not _is_older(spec, version, newest):
        return None
    path = lake.partition(stage, spec.name, newest) / MANIFEST
    if time.time() - path.stat().st_mtime < STALE_SECONDS:
        return None
    return f"{name}: {version['version']} is served, although the lake has had the export of {newest} for {STALE_SECONDS:g} s"


def _is_older(spec: DatasetSpec, version: Mapping[str, Any], day: str) -> bool:
    """Whether a version was trained on less than an export."""
    if version["source"] == "lake":
        return version["version"] < day
    return (version["event_to"] or 0) < day_bounds(day, spec.zone)[1]
