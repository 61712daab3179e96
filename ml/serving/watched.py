"""The health of a running service, as another process sees it: whether it answers, and what it does not serve or publish.

| fault                                    | seen in                                        |
|------------------------------------------|------------------------------------------------|
| the service was killed, or is stuck      | it is announced, and `/health` does not answer |
| the newest version of a model is refused | `/health`, and the reason in `/version`        |
| events are stored and not published      | `/health`                                      |
| a model is older than its newest export  | `/version`, and the exports in the lake        |

If another service answers at the address, it is not sent the token. A model that is pinned is not stale: a person has chosen
its day. Without the token of the service, `/version` cannot be read; the other faults are still found.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar

import requests
from pydantic import BaseModel, ValidationError

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


class _Health(BaseModel):
    """What `/health` answers."""

    instance: str
    models: dict[str, str]
    events: dict[str, str]


class _Ranker(BaseModel):
    """What orders recommendations, as `/version` answers."""

    model: str
    version: str
    pinned: str | None
    refusal: str | None


class _Model(_Ranker):
    """A model, as `/version` answers."""

    source: str
    event_to: int | None


class _Versions(BaseModel):
    """What `/version` answers."""

    models: dict[str, _Model]
    ranker: _Ranker

    def of(self, name: str) -> _Ranker | None:
        """Return what is served of a model; None if that is not known."""
        return self.models.get(name) or (self.ranker if self.ranker.model == name else None)


_Form = TypeVar("_Form", bound=BaseModel)


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
        versions_error: Why the versions of the models are unknown, such as a token that cannot be read; None if they are known.
    """

    url: str
    models: list[WatchedModel] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    versions_error: str | None = None


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
            versions, versions_error = _versions(session, url, announced.token), None
        except (NoAnswer, OSError, ValueError) as error:
            versions, versions_error = None, str(error)
    served = {name: versions.of(name) if versions else None for name in health.models}
    reasons = [
        *(f"{name}: {_refusal(served[name])}" for name, status in health.models.items() if status == "refused"),
        *(
            f"stored events of {log} cannot be published; the log of the service has the reason"
            for log, status in health.events.items()
            if status == "waiting"
        ),
        *(reason for version in (versions.models.values() if versions else ()) if (reason := _stale(spec, lake, version))),
    ]
    models = [WatchedModel(name, version.version if version else "", health.models[name]) for name, version in served.items()]
    return WatchedService(url, models, reasons, versions_error)


def _first_answer(session: requests.Session, announced: Announcement) -> tuple[str, _Health]:
    """Return the first address at which the service answers, and its health."""
    errors = []
    for url in announced.urls:
        try:
            health = _get(session, url, "/health", _Health)
            if health.instance == announced.instance:
                return url, health
            errors.append(_another(url))
        except NoAnswer as error:
            errors.append(str(error))
    raise NoAnswer("; ".join(errors))


def _get(session: requests.Session, url: str, path: str, form: type[_Form], token: str | None = None) -> _Form:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        answer = session.get(url + path, headers=headers, timeout=ANSWER_SECONDS, allow_redirects=False)
    except (requests.RequestException, ValueError) as error:
        raise NoAnswer(f"{url}{path}: {type(error).__name__}") from error
    if answer.status_code != HTTPStatus.OK:
        raise NoAnswer(f"{url}{path}: status {answer.status_code}")
    try:
        return form.model_validate_json(answer.content)
    except ValidationError as error:
        raise NoAnswer(_another(url)) from error


def _another(url: str) -> str:
    return f"another service answers on {url}"


def _versions(session: requests.Session, url: str, token: str | None) -> _Versions:
    """Return what `/version` reports. Raises `NoAnswer`, or `OSError` or `ValueError` if the token cannot be read."""
    own = Path(token).read_text().strip() if token else None
    return _get(session, url, "/version", _Versions, own)


def _refusal(version: _Ranker | None) -> str:
    refusal = version and version.refusal
    return f"the newest version is refused ({refusal})" if refusal else "the newest version is refused"


def _stale(spec: DatasetSpec, lake: Lake, version: _Model) -> str | None:
    """Return why a model is stale; None if the lake has had no newer export for `STALE_SECONDS`."""
    if version.model not in spec.models or version.pinned or version.refusal:
        return None
    stage = exported_models(version.model)
    newest = next(reversed(lake.days(stage, spec.name)), None)
    if newest is None or not _is_older(spec, version, newest):
        return None
    path = lake.partition(stage, spec.name, newest) / MANIFEST
    if time.time() - path.stat().st_mtime < STALE_SECONDS:
        return None
    return (
        f"{version.model}: {version.version} is served, although the lake has had the export of {newest} "
        f"for {STALE_SECONDS:g} s"
    )


def _is_older(spec: DatasetSpec, version: _Model, day: str) -> bool:
    """Whether a version was trained on less than an export."""
    if version.source == "lake":
        return version.version < day
    return (version.event_to or 0) < day_bounds(day, spec.zone)[1]
