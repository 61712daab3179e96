"""Reads the parameters of another tool's file as parameters that set recipe keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from ml.recipes.assignments import as_category, value_at
from ml.recipes.dialects.choices import Choices
from ml.recipes.dialects.known import Known, known_parameters
from ml.recipes.dialects.numbers import as_number
from ml.recipes.dialects.report import Report
from ml.recipes.recipe import Recipe
from ml.recipes.search import SearchedParameter, refused_values

_SHOWN = ("object", "precision", "tunable", "constraints")  # keys that SigOpt shows, without effect on a search
_READ = ("name", "key", "type", "bounds", "grid", "categorical_values", "transformation", "prior", "conditions")


class ParameterReader:
    """Reads parameters one by one.

    Attributes:
        found: The parameters, by name.
        skipped: Names of the parameters that are left out.
        scale: By name, the number that a value was divided by.
    """

    def __init__(self, recipe: Recipe, choices: Choices, report: Report, keys: Mapping[str, str]) -> None:
        """Initializes a reader.

        Args:
            recipe: The recipe whose keys are searched.
            choices: What the user decides.
            report: Receives faults and notes.
            keys: Recipe keys by parameter, as the file states them outside of its parameters.
        """
        self._recipe, self._choices, self._report, self._keys = recipe, choices, report, {**keys, **choices.keys}
        self._data = recipe.model_dump(mode="json")
        self.found: dict[str, SearchedParameter] = {}
        self.skipped: set[str] = set()
        self.scale: dict[str, float] = {}

    def read(self, items: Any) -> None:
        """Reads the list of parameters."""
        if not isinstance(items, list) or not items:
            self._report.fault(["parameters"], "expected a list of parameters")
            return
        names = [item.get("name") for item in items if isinstance(item, dict)]
        known = known_parameters(self._recipe.model.kind, [name for name in names if isinstance(name, str)])
        for index, item in enumerate(items):
            at, name = ["parameters", index], item.get("name") if isinstance(item, dict) else None
            if not isinstance(name, str) or not name:
                self._report.fault(at, "expected keys with values, one of them `name`")
            elif name in self._choices.skip:
                self.skipped.add(name)
                self._report.note(at, f"{name} is left out")
            elif names.count(name) > 1:
                self._report.fault(at, f"the name {name} is given twice")
            elif (parameter := self._parameter(at, name, item, known)) is not None:
                self.found[name] = parameter

    def _parameter(self, at: Sequence[str | int], name: str, item: Any, known: Mapping[str, Known]) -> SearchedParameter | None:
        before = len(self._report.faults)
        stated = item.get("key") or self._keys.get(name)
        meaning = Known(str(stated)) if stated else known.get(name) or self._own(name)
        if meaning is None:
            near = get_close_matches(name, known, n=1)
            hint = f", call it {near[0]}" if near else ""
            self._report.fault(at, f"{name}: no recipe key is known for this parameter; add `key: KEY`{hint}, or skip it")
            return None
        if meaning.refused:
            self._report.fault(at, f"{name}: {meaning.refused}")
            return None
        data = self._domain(at, name, item)
        data = self._indexed(at, name, data, meaning) if meaning.choices else data
        data = self._fraction(at, name, data) if meaning.position else data
        if len(self._report.faults) > before:
            return None
        try:
            parameter = SearchedParameter.model_validate({**data, "key": meaning.key})
        except ValidationError as error:
            self._report.invalid(at, error, f"{name}: ")
            return None
        return self._with_own_value(at, parameter, meaning)

    def _own(self, name: str) -> Known | None:
        """Returns the meaning of a name that is a recipe key, such as `batch_size`."""
        try:
            return None if isinstance(value_at(self._data, name), dict) else Known(name)
        except KeyError:
            return None

    def _domain(self, at: Sequence[str | int], name: str, item: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a parameter's keys with plain values: numbers, an ascending grid, and categories as text."""
        data = {key: value for key, value in item.items() if key in _READ and value not in (None, {}, [])}
        for key in item.keys() - {*_READ, *_SHOWN, "default_value"}:
            self._report.fault([*at, key], f"{name}: unknown key; the keys are {', '.join(_READ)}")
        if item.get("default_value") is not None:
            self._report.note([*at, "default_value"], f"{name}: not used, because the first trial has the recipe's own values")
        if data.get("transformation") == "none":
            del data["transformation"]
        whole = data.get("type") == "int"
        if isinstance(data.get("bounds"), dict):
            bounds = {key: value for key, value in data["bounds"].items() if key != "object"}
            data["bounds"] = {key: as_number(value, whole=whole) for key, value in bounds.items()}
        if isinstance(data.get("grid"), list):
            self._grid(at, name, data)
        if isinstance(data.get("categorical_values"), list):
            names = [value.get("name") if isinstance(value, dict) else value for value in data["categorical_values"]]
            data["categorical_values"] = self._distinct([*at, "categorical_values"], name, [as_category(one) for one in names])
        if isinstance(data.get("conditions"), dict):
            data["conditions"] = {key: [v] if isinstance(v, str) else v for key, v in data["conditions"].items()}
        return data

    def _grid(self, at: Sequence[str | int], name: str, data: dict[str, Any]) -> None:
        values = [as_number(value, whole=data.get("type") == "int") for value in data["grid"]]
        if not all(isinstance(value, int | float) for value in values):
            return  # validation refuses it
        values = self._distinct([*at, "grid"], name, values)
        if values != sorted(values):
            values = sorted(values)
            self._report.note([*at, "grid"], f"{name}: sorted to {values}")
        data["grid"] = values
        if data.get("bounds") == {"min": values[0], "max": values[-1]}:
            del data["bounds"]  # as SigOpt shows a grid
        if data.pop("transformation", None):
            self._report.note([*at, "transformation"], f"{name}: not used, because the values of a grid are listed")

    def _distinct(self, at: Sequence[str | int], name: str, values: list[Any]) -> list[Any]:
        distinct = list(dict.fromkeys(values))
        if len(distinct) < len(values):
            twice = [value for value in distinct if values.count(value) > 1]
            self._report.note(at, f"{name}: repeated values are left out: {', '.join(map(str, twice))}")
        return distinct

    def _indexed(self, at: Sequence[str | int], name: str, data: dict[str, Any], meaning: Known) -> dict[str, Any]:
        """Returns an index into a list of layers as a category: the order of the list has no meaning."""
        bounds, grid = data.pop("bounds", None), data.pop("grid", None)
        if "categorical_values" in data:
            return data
        low, high = (bounds.get("min"), bounds.get("max")) if isinstance(bounds, dict) else (None, None)
        last = len(meaning.choices) - 1
        indexes = grid
        if isinstance(low, int) and isinstance(high, int) and 0 <= low <= high <= last:
            indexes = list(range(low, high + 1))
        if not isinstance(indexes, list) or not indexes or any(index not in range(last + 1) for index in indexes):
            self._report.fault(
                at, f"{name}: expected indexes from 0 to {last}, found {bounds or grid}; or list `categorical_values`"
            )
            return data
        values = self._distinct(at, name, [meaning.choices[index] for index in indexes])
        self._report.note(at, f"{name}: the indexes stand for the categories {', '.join(values)}")
        return data | {"type": "categorical", "categorical_values": values}

    def _fraction(self, at: Sequence[str | int], name: str, data: dict[str, Any]) -> dict[str, Any]:
        """Returns a position in steps or epochs as a fraction of them."""
        length = self._choices.steps
        if length is None:
            self._report.fault(
                at,
                f"{name}: a position in steps or epochs, and the recipe's schedule has fractions; state the length of the "
                "original's training, in the same unit, with --steps, or skip it",
            )
            return data
        numbers = [*data.get("grid", ()), *(data["bounds"].values() if isinstance(data.get("bounds"), dict) else ())]
        if wrong := [one for one in numbers if not isinstance(one, int | float) or not 0 <= one <= length]:
            self._report.fault(at, f"{name}: expected positions from 0 to {length:g}, found {wrong[0]}")
            return data
        self.scale[name] = length
        divided: dict[str, Any] = {"grid": [one / length for one in data["grid"]]} if "grid" in data else {}
        if isinstance(data.get("bounds"), dict):
            divided["bounds"] = {key: one / length for key, one in data["bounds"].items()}
        self._report.note(at, f"{name}: divided by {length:g}")
        return data | {"type": "double"} | divided

    def _with_own_value(
        self, at: Sequence[str | int], parameter: SearchedParameter, meaning: Known
    ) -> SearchedParameter | None:
        """Returns a parameter whose values contain the recipe's own one, and are valid."""
        name, key = parameter.name, parameter.key
        try:
            own = value_at(self._data, key)
        except KeyError:
            self._report.fault(at, f"{name}: the recipe has no key {key!r}{self._layers(key)}; edit the recipe, or skip it")
            return None
        if isinstance(own, int) and not isinstance(own, bool) and parameter.type == "double":
            self._report.fault([*at, "type"], f"{name}: expected int, because {key} is an integer, found double")
            return None
        if not parameter.contains(own):
            if (own is None or isinstance(own, bool | str | list)) and parameter.type != "categorical":
                self._report.fault(at, f"{name}: the recipe's {key} is {as_category(own)}, which no number replaces; edit it")
                return None
            if parameter.bounds and key.endswith("lr"):
                rates = f" Its rates are for {meaning.rate}." if meaning.rate else ""
                self._report.fault(
                    [*at, "bounds"],
                    f"{name}: the recipe's {key}, {own}, is outside.{rates} Give bounds that suit the recipe's optimizer, edit "
                    f"{key}, or skip it",
                )
                return None
            parameter = _including(parameter, own)
            self._report.note(at, f"{name}: the recipe's own value, {as_category(own)}, is added")
        return parameter if self._valid(at, parameter) else None

    def _layers(self, key: str) -> str:
        above, _, index = key.rpartition(".")
        try:
            widths = value_at(self._data, above)
        except KeyError:
            return ""
        return f": {above} has {len(widths)} layers, {widths}" if isinstance(widths, list) and index.isdigit() else ""

    def _valid(self, at: Sequence[str | int], parameter: SearchedParameter) -> bool:
        """Records which of a parameter's listed or extreme values the recipe refuses."""
        problems = [problem for _, problem in refused_values(parameter, self._recipe)]
        for problem in problems:
            self._report.fault(at, f"{parameter.name}: {problem}")
        return not problems


def _including(parameter: SearchedParameter, own: Any) -> SearchedParameter:
    data = parameter.model_dump()
    if parameter.bounds:
        data["bounds"] = {"min": min(parameter.bounds.min, own), "max": max(parameter.bounds.max, own)}
    elif parameter.grid:
        data["grid"] = sorted([*parameter.grid, own])
    else:
        data["categorical_values"] = [*parameter.categorical_values, as_category(own)]
    return SearchedParameter.model_validate(data)
