"""The model that ranks if several models of a dataset can: the champion according to the reports.

`ml.evaluation.promotion` decides the champion by the reports alone, and MLflow's alias `champion` follows the same decision.
The service reads the reports of the lake, so it needs no MLflow server. It serves the newest export of the champion, and
changes the model while it runs when a report makes another model champion.

    reports ── champion ──┐
    pins ── pinned models ┴── the model that ranks ── its newest export, or what online training publishes
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from ml.artifacts.bundle import Bundle
from ml.catalog.spec import DatasetSpec
from ml.evaluation.history import DamagedReport, history_of
from ml.evaluation.promotion import standings
from ml.lake import DamagedManifest, Lake
from ml.serving.choice import competing_models
from ml.serving.models import ModelVersion, NoModel, ServedModel
from ml.serving.pins import Pins, WrongPin
from ml.stages import EVALUATION_REPORTS, exported_models

_log = logging.getLogger("evergreen")


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


class ChampionModel:
    """The champion, kept up to date; see `ml.serving.models.ServedModel`.

    As long as a model that can rank is pinned, only pinned models are served. A champion without an export that can be served
    is refused, and the model before it is served.

    Args:
        spec: A dataset with several models that can rank.
        lake: Where reports and exports are stored.
        load: Loads a model by name; raises `NoModel`.
        leave: Called with the name of a model that is no longer served.
        pins: The pins of the dataset; by default none.

    Raises:
        NoModel: Neither the champion nor the first model that can rank has an export that can be served.
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
        self._default = competing_models(spec)[0]
        self._read: tuple[int, str, str] | None = None  # number of reports, day and digest of the newest one that was read
        self._champion: str | None = None
        self._failed: tuple[str, str, str] | None = None  # the champion that has no model, with day and digest of its export
        self._refusal: str | None = None
        self._name = ""
        self._served: ServedModel | None = None
        self._follow()
        if self._served is None:
            self._name, self._served = self._default, load(self._default)

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
        try:
            name = self._wanted()
            export = self._newest(exported_models(name))
        except (DamagedReport, DamagedManifest, WrongPin, OSError) as error:
            self._refuse(f"damaged: champion: {error}")
            return False
        if name == self._name:
            self._refusal = None
            return False
        if (name, *export) == self._failed:
            return False
        try:
            served = self._load(name)
        except NoModel as error:
            self._failed = (name, *export)
            self._refuse(f"missing: champion {name}: {error}")
            return False
        before, self._name, self._served = self._name, name, served
        self._failed = self._refusal = None
        if before:
            _log.warning("%s: %s ranks from now on, instead of %s", self._spec.name, name, before)
            self._leave(before)
        return True

    def _wanted(self) -> str:
        """Return the name of the model that should rank."""
        read = len(self._lake.days(EVALUATION_REPORTS, self._spec.name)), *self._newest(EVALUATION_REPORTS)
        if read != self._read:
            self._champion = champion_of(self._spec, self._lake)
            self._read = read
        return model_to_rank(self._spec, self._champion, self._pins)

    def _newest(self, stage: str) -> tuple[str, str]:
        """Return the newest day of a stage and its digest; empty without a day."""
        days = self._lake.days(stage, self._spec.name)
        return (days[-1], self._lake.digest(stage, self._spec.name, days[-1])) if days else ("", "")

    def _refuse(self, text: str) -> None:
        """Store a refusal, and log it if it differs from the last one."""
        if text != self._refusal:
            _log.warning("%s: %s", self._spec.name, text)
        self._refusal = text
