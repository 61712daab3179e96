"""A recipe while rules change it: its data, the values that have been set, and the keys that must stay as they are."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pydantic import ValidationError

from ml.advisor.advice import Advised
from ml.catalog.load import CatalogError
from ml.recipes.models import CHANGEABLE
from ml.recipes.recipe import Recipe

FEATURES = "tables.features"


class Draft:
    """A recipe that rules change key by key.

    Args:
        recipe: The recipe without advice.
        pinned: Keys that must not change, with all keys below them.
        keep_structure: Whether keys of the recipe's structure must not change either.

    Attributes:
        values: Values by key, in the order in which they were last set.
        kept: Values for keys that must stay, also those that equal the present value.
    """

    def __init__(self, recipe: Recipe, pinned: Collection[str], keep_structure: bool = False) -> None:
        self._data: dict[str, Any] = recipe.model_dump(mode="json")
        self._shipped = recipe.model_dump(mode="json")
        self._pinned, self._keep_structure = tuple(pinned), keep_structure
        self.values: dict[str, Advised] = {}
        self.kept: dict[str, Advised] = {}

    def get(self, key: str) -> Any:
        """Return the present value of a key; None if it is absent or null."""
        return value_at(self._data, key)

    def shipped(self, key: str) -> Any:
        """Return the value of a key without advice; None if it is absent or null."""
        return value_at(self._shipped, key)

    def table(self, feature: str) -> Mapping[str, Any]:
        """Return the present table of a feature, also if it is the default table."""
        tables = self._data["tables"]
        return tables["features"].get(feature, tables["default"])

    def set(self, key: str, value: Any, rule: str, reason: str, source: str) -> bool:
        """Set the value of a key that is not one of a table.

        Returns:
            Whether the present value changed.
        """
        return self._set(key, value, self.shipped(key), rule, reason, source, below=self._data)

    def set_table(self, feature: str, values: Mapping[str, Any], rule: str, reason: str, source: str) -> bool:
        """Set keys of the table of a feature. A new `kind` replaces the whole table.

        Returns:
            Whether the present table changed.
        """
        present, prefix = dict(self.table(feature)), f"{FEATURES}.{feature}"
        replaced = "kind" in values and values["kind"] != present["kind"]
        own: dict[str, Any] = {} if replaced else dict(present)
        tables = self._shipped["tables"]
        shipped = tables["features"].get(feature, tables["default"])
        entry = {"tables": {"features": {feature: own}}}
        changed = [
            self._set(f"{prefix}.{key}", value, shipped.get(key), rule, reason, source, below=entry)
            for key, value in values.items()
        ]
        if not any(changed):
            return False
        if replaced:
            self.values = {key: v for key, v in self.values.items() if not key.startswith(f"{prefix}.") or v.rule == rule}
        if own == present:
            return False
        self._data["tables"]["features"][feature] = own
        return True

    def finish(self) -> Recipe:
        """Return the validated recipe. Raises `CatalogError` that names the rules, if their values are not valid together."""
        try:
            return Recipe.model_validate(self._data)
        except ValidationError as error:
            rules = sorted({value.rule for value in self.values.values() if value.changes})
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "recipe"
            raise CatalogError(
                f"rules {', '.join(rules)}: their values are not valid together: {where}: {first['msg']}"
            ) from error

    def _set(self, key: str, value: Any, shipped: Any, rule: str, reason: str, source: str, below: dict[str, Any]) -> bool:
        advised = Advised(key, value, shipped, rule, reason, source, is_structural(key))
        before = value_at(below, key)
        if under(key, self._pinned) or (self._keep_structure and advised.structural and before != value):
            self.kept[key] = advised
            return False
        self.values.pop(key, None)  # moves it to the end
        self.values[key] = advised
        _put(below, key, value)
        return before != value or key.startswith(FEATURES)


def value_at(data: Any, key: str) -> Any:
    """Return the value of a dotted key; None if it is absent."""
    for part in key.split("."):
        if not isinstance(data, Mapping) or part not in data:
            return None
        data = data[part]
    return data


def is_structural(key: str) -> bool:
    """Whether a change of a key changes the shapes of a model's state, as far as the key alone can say.

    `Recipe.structure()` decides exactly; this marks all keys that it can depend on.
    """
    if key.startswith("model."):
        part = key.split(".")[1]
        return part not in CHANGEABLE and key not in {f"model.wide_optimizer.{k}" for k in _RATES}
    if key.startswith(FEATURES):
        return key.rsplit(".", 1)[1] in ("kind", "filter", "rows", "family", "operation", "parts", "universe", "dim", "of")
    return key in ("table_optimizer.kind", "dense_optimizer.kind", "exclude_features")


_RATES = ("lr", "eps", "initial_accumulator", "beta1", "beta2", "beta", "l1", "l2")


def under(key: str, above: Collection[str]) -> bool:
    """Whether a key is one of some keys, or below one of them."""
    return any(key == one or key.startswith(f"{one}.") for one in above)


def _put(data: dict[str, Any], key: str, value: Any) -> None:
    *above, last = key.split(".")
    for part in above:
        if not isinstance(data.get(part), dict):  # absent, or null as an early_stop that is not set
            data[part] = {}
        data = data[part]
    data[last] = value
