"""Advice: values of recipe keys, each with its rule, reason and source."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ml.advisor.rules import Rules
from ml.advisor.wishes import Wishes
from ml.recipes.edits import nested
from ml.recipes.layers import Layer
from ml.recipes.recipe import Recipe

if TYPE_CHECKING:
    from ml.advisor.cost import Prediction  # PyTorch takes seconds to import, which a check of a recipe does not need


@dataclass(frozen=True)
class Advised:
    """An advised value.

    Attributes:
        key: The recipe key, dotted, such as `dense_optimizer.lr` or `tables.features.user.min_count`.
        value: The value.
        shipped: The value without advice; None if there is none.
        rule: Name of the rule.
        reason: Why.
        source: The paper, report or study that the rule is from.
        structural: Whether the key is part of `Recipe.structure()`, so that a change loses the warm start.
    """

    key: str
    value: Any
    shipped: Any
    rule: str
    reason: str
    source: str
    structural: bool = False

    @property
    def changes(self) -> bool:
        """Whether the value differs from the one without advice."""
        return _plain(self.value) != _plain(self.shipped)


@dataclass(frozen=True)
class Suggestion:
    """A change that no recipe key can express, such as one of the catalog entry or of the environment.

    Attributes:
        text: What to change.
        rule: Name of the rule.
        reason: Why.
        source: The paper, report or study that the rule is from.
    """

    text: str
    rule: str
    reason: str
    source: str


@dataclass(frozen=True)
class Advice:
    """The advised recipe of a model, with its reasons.

    Attributes:
        dataset: Name of the dataset.
        model: Name of the model.
        days: The days of the profile; empty without a profile.
        recipe: The whole advised recipe.
        values: The values that rules have set, also those that equal the values without advice.
        rules: The rules that were applied.
        suggestions: Changes that no recipe key can express.
        kept: Values that rules would set, but that the catalog entry or the edits set, also to the same value, or that would
            change the structure of the incumbent.
        prediction: What training a day with the recipe is predicted to take; None without a profile or a calibration.
        before: The same without the advice.
        warnings: Wishes that could not be fulfilled, and what the memory of the machine has changed without a wish.
        rows: Rows of a day; None without a profile.
        wishes: The user's wishes that it was given for.
        memory: The limit of memory that it was given for, in bytes.
    """

    dataset: str
    model: str
    days: tuple[str, ...]
    recipe: Recipe
    values: tuple[Advised, ...]
    rules: Rules
    suggestions: tuple[Suggestion, ...] = ()
    kept: tuple[Advised, ...] = ()
    prediction: Prediction | None = None
    before: Prediction | None = None
    warnings: tuple[str, ...] = ()
    rows: float | None = None
    wishes: Wishes = field(default_factory=Wishes)
    memory: float | None = None

    @property
    def overrides(self) -> dict[str, Any]:
        """The values that differ from those without advice, nested as in a recipe. Changed tables are whole."""
        return nested({key: value for layer in self._by_rule().values() for key, value in layer.items()})

    @property
    def layers(self) -> list[Layer]:
        """The same values as layers of a recipe, one for each rule."""
        return [Layer(f"advice, {rule}", nested(values)) for rule, values in self._by_rule().items()]

    def _by_rule(self) -> dict[str, dict[str, Any]]:
        """Return changed values by rule and key. A table belongs to the last rule that changed it."""
        rule_of: dict[str, str] = {}
        for value in self.values:
            if value.changes:
                key = ".".join(value.key.split(".")[:3]) if value.key.startswith("tables.features.") else value.key
                rule_of[key] = value.rule
        found: dict[str, dict[str, Any]] = {}
        for key, rule in rule_of.items():
            table = key.startswith("tables.features.")
            found.setdefault(rule, {})[key] = self._table(key.rsplit(".", 1)[1]) if table else self.of(key).value
        return found

    def _table(self, feature: str) -> dict[str, Any]:
        table = self.recipe.tables.of(feature)
        return {"kind": table.kind} | table.model_dump(mode="json", exclude_defaults=True)

    def of(self, key: str) -> Advised:
        """Return the advised value of a recipe key. Raises `KeyError` if no rule has set it."""
        for value in self.values:
            if value.key == key:
                return value
        raise KeyError(key)


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
