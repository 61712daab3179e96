"""The model that ranks if several models of a dataset can: the champion according to the reports.

`ml.evaluation.promotion` decides the champion by the reports alone, and MLflow's alias `champion` follows the same decision.
The service reads the reports of the lake, so it needs no MLflow server. It serves the newest export of the champion, and
changes the model while it runs when the reports make another model champion.

    reports ── champion ──┐
    pins ── pinned models ┴── the model that ranks ── its newest export, or what online training publishes
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from ml.artifacts.bundle import Bundle
from ml.catalog.spec import DatasetSpec
from ml.evaluation.history import DamagedReport, history_of
from ml.evaluation.promotion import standings
from ml.give_way import give_way
from ml.lake import Lake, StalePartition
from ml.serving.choice import competing_models
from ml.serving.models import ModelVersion, NoModel, ServedModel
from ml.serving.pins import Pins, WrongPin
from ml.sync.status import Reason

_log = logging.getLogger("evergreen")

LOOK_SECONDS = 30.0
"""Seconds between two looks at the reports."""
RETRY_SECONDS = 60.0
"""Seconds after which a model that could not be loaded is tried again."""


def champion_of(spec: DatasetSpec, lake: Lake, until: str | None = None) -> str | None:
    """Return the champion according to the reports in the lake.

    Args:
        spec: The dataset.
        lake: Where reports are stored.
        until: The first day whose report does not count; by default all count.

    Returns:
        Name of the model; None if only one model of the entry can rank, if no report compares models, or if the champion is
        no longer among the models that can rank.

    Raises:
        DamagedReport: A report cannot be read; the message names the file.
        OSError: The lake cannot be read.
    """
    competing = competing_models(spec)
    if len(competing) < 2:
        return None
    found = standings(history_of(lake, spec.name, until))
    return found[-1].champion if found and found[-1].champion in competing else None


def model_to_rank(spec: DatasetSpec, champion: str | None, pins: Pins | None) -> str:
    """Return the model that ranks without an experiment: the champion, or a pinned model in its place.

    Args:
        spec: The dataset.
        champion: The champion; None for the first model that can rank.
        pins: The pins of the dataset; None without any.

    Raises:
        WrongPin: A pin cannot be read.
    """
    competing = competing_models(spec)
    name = champion or competing[0]
    pinned = [other for other in competing if pins.day_of(other)] if pins and len(competing) > 1 else []
    return name if not pinned or name in pinned else pinned[0]


@dataclass(frozen=True)
class _Failure:
    """A model that could not be loaded: its name, the refusal, and the monotonic time in seconds."""

    name: str
    refusal: str
    at: float


class ChampionModel:
    """The champion, kept up to date; see `ml.serving.models.ServedModel`.

    The reports are looked at every `LOOK_SECONDS`. Another model ranks once two looks in succession find it to be champion,
    because a report that is being replaced on an object store is absent for seconds. As long as a model that can rank is
    pinned, only pinned models are served. A champion that cannot be loaded is refused, the model before it is served, and the
    champion is tried again after `RETRY_SECONDS`.

    Args:
        spec: A dataset with several models that can rank.
        lake: Where reports and exports are stored.
        load: Loads a model by name; raises `NoModel`, `ValueError` or `OSError`.
        leave: Called with the name of a model that is no longer served.
        pins: The pins of the dataset; by default none.

    Raises:
        NoModel: Neither the champion nor the first model that can rank has an export that can be served.
        ValueError: Neither can be loaded, because what the first one was made from is damaged or stale.
        OSError: Neither can be loaded, because the lake cannot be read.
    """

    def __init__(
        self,
        spec: DatasetSpec,
        lake: Lake,
        load: Callable[[str], ServedModel],
        leave: Callable[[str], None],
        pins: Pins | None = None,
    ) -> None:
        self._spec, self._lake, self._load, self._leave, self._pins = spec, lake, load, leave, pins
        self._looked_at: float | None = None
        self._seen: list[str | None] = []  # the champions of the last two looks
        self._champion: str | None = None
        self._unread: str | None = None  # why the last look failed
        self._failure: _Failure | None = None
        self._refusal: str | None = None
        self._name = ""
        self._served: ServedModel | None = None
        self._follow()
        if self._served is None:
            self._name = competing_models(spec)[0]
            self._served = load(self._name)

    @property
    def bundle(self) -> Bundle:
        """The bundle of the model that ranks; see `ServedModel.bundle`."""
        return self._model.bundle

    @property
    def version(self) -> ModelVersion:
        """What is served."""
        own, refusal = self._model.version, self._refusal
        if refusal is None:
            return own
        return replace(own, refusal=own.refusal or refusal, last_refusal=own.last_refusal or refusal)

    def poll(self) -> bool:
        """Look for a new version of the served model, and for another champion; see `ServedModel.poll`."""
        changed = self._model.poll()
        return self._follow() or changed

    @property
    def _model(self) -> ServedModel:
        assert self._served is not None
        return self._served

    def _follow(self) -> bool:
        """Serve the model that should rank. Returns whether the served model changed."""
        self._look()
        try:
            name = model_to_rank(self._spec, self._champion, self._pins)
        except WrongPin as error:
            self._refuse(f"damaged: champion: {error}")
            return False
        if name == self._name:
            self._refuse(self._unread)
            return False
        failure = self._failure
        if failure and failure.name == name and time.monotonic() - failure.at < RETRY_SECONDS:
            self._refuse(failure.refusal)
            return False
        give_way()
        try:
            served = self._load(name)
        except (NoModel, ValueError, OSError) as error:
            self._failure = _Failure(name, f"{_reason(error)}: champion {name}: {error}", time.monotonic())
            self._refuse(self._failure.refusal)
            return False
        before, self._name, self._served = self._name, name, served
        self._failure = None
        self._refuse(self._unread)
        if before:
            _log.warning("%s: %s ranks from now on, instead of %s", self._spec.name, name, before)
            self._leave(before)
        return True

    def _look(self) -> None:
        """Read the champion from the reports, unless they were read less than `LOOK_SECONDS` ago."""
        now = time.monotonic()
        if self._looked_at is not None and now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        give_way()
        try:
            champion = champion_of(self._spec, self._lake)
        except (DamagedReport, OSError) as error:
            self._unread = f"damaged: champion: {error}"
            return
        self._unread = None
        self._seen = [*self._seen[-1:], champion]
        if self._seen[0] == champion:
            self._champion = champion

    def _refuse(self, text: str | None) -> None:
        """Store a refusal, or None for no refusal, and log it if it differs from the last one."""
        if text and text != self._refusal:
            _log.warning("%s: %s", self._spec.name, text)
        self._refusal = text


def _reason(error: Exception) -> Reason:
    """Return why a model could not be loaded."""
    if isinstance(error, (NoModel, FileNotFoundError)):
        return "missing"
    if isinstance(error, StalePartition):
        return "schema"
    return "folder" if isinstance(error, OSError) else "damaged"
