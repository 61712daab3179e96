"""The advisor's rules, as data: what a rule file can say, checked by key.

`ml.advisor.rule_files` reads the files, and `ml.advisor.advise` applies rules. `docs/advisor.md` explains the form of a rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from string import Formatter
from typing import Any, Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from ml.advisor.expression import Expression, ExpressionError
from ml.advisor.quantities import SCOPES
from ml.advisor.recipe_keys import of_recipe, of_table
from ml.catalog.load import CatalogError
from ml.catalog.strict import FloatOrText, IntOrText, Strict, fault
from ml.recipes.models import Model

Scope = Literal["recipe", "table", "dense_feature"]
Stage = Literal["always", "over_time", "over_memory"]
KINDS = tuple(sorted(model.model_fields["kind"].annotation.__args__[0] for model in Model.__args__))
OWN = ("recipe", "shipped", "table")  # first parts of names that are recipe keys
TABLE = "table"
DIGITS = 4  # significant digits of a computed value


class Rule(Strict):
    """One rule."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="Name of the rule. A later rule of the same name replaces it.")
    scope: Scope = Field(
        default="recipe", alias="for", description="Whether the rule is about the recipe, or about each table or dense feature."
    )
    stage: Stage = Field(
        default="always",
        description="`over_time` and `over_memory` apply, one after the other, only as long as the predicted time or memory is "
        "above its limit.",
    )
    models: tuple[str, ...] = Field(default=KINDS, description="Kinds of models that the rule is about.")
    when: str = Field(default="True", description="The condition, an expression.")
    set: dict[str, Any] = Field(default_factory=dict, description="Recipe keys with values.")
    compute: dict[str, str] = Field(default_factory=dict, description="Recipe keys with expressions of their values.")
    suggest: str | None = Field(
        default=None, description="A change of the catalog entry or the environment, which no recipe key can express."
    )
    reason: str = Field(min_length=20, description="The reason, with quantities such as `{ids:,}`.")
    source: str = Field(min_length=5, description="The paper, report or study that the rule is from.")

    _when: Expression = PrivateAttr()
    _compute: dict[str, Expression] = PrivateAttr()

    @model_validator(mode="after")
    def _check(self) -> Self:
        known = SCOPES[self.scope]
        self._when = self._parsed("when", self.when, known)
        self._compute = {key: self._parsed(f"compute.{key}", text, known) for key, text in self.compute.items()}
        if not self.set and not self.compute and not self.suggest:
            raise fault("", f"rule {self.name}: expected set, compute or suggest")
        if unknown := sorted(set(self.models) - set(KINDS)):
            raise fault("models", f"rule {self.name}: expected some of {list(KINDS)}, found {unknown}")
        if self.scope == "dense_feature" and (self.set or self.compute):
            raise fault("set", f"rule {self.name}: dense features have no recipe keys; use suggest")
        for where, keys in (("set", self.set), ("compute", self.compute)):
            for key in keys:
                inside = key.removeprefix(f"{TABLE}.") if self.scope == TABLE and key.startswith(f"{TABLE}.") else None
                if not (of_table(inside) if inside is not None else of_recipe(key)):
                    raise fault(f"{where}.{key}", f"rule {self.name}: there is no recipe key {key!r}")
        for where in ("reason", "suggest"):
            try:
                fields = [field for _, field, _, _ in Formatter().parse(getattr(self, where) or "") if field is not None]
            except ValueError as error:
                raise fault(where, f"rule {self.name}: {error}") from error
            self._names(where, fields, known)
        return self

    def applies(self, quantities: Mapping[str, Any]) -> bool:
        """Whether the condition holds. It does not if it depends on a quantity that is not known."""
        return bool(self._evaluated("when", self._when, quantities))

    def values(self, quantities: Mapping[str, Any]) -> dict[str, Any]:
        """Return values by recipe key; nothing if one of them depends on a quantity that is not known.

        Raises:
            CatalogError: An expression has no value. The message names the rule and the key.
        """
        computed = {key: self._evaluated(f"compute.{key}", e, quantities) for key, e in self._compute.items()}
        if None in computed.values():
            return {}
        return self.set | {key: _rounded(value) for key, value in computed.items()}

    def text(self, template: str, quantities: Mapping[str, Any]) -> str:
        """Return a reason or suggestion with the values of its quantities.

        Raises:
            CatalogError: A format does not fit the type of a quantity. The message names the rule.
        """
        formatter = Formatter()
        parts = []
        for literal, name, form, _ in formatter.parse(template):
            parts.append(literal)
            if name is not None:
                value = quantities.get(name)
                try:
                    parts.append("unknown" if value is None else formatter.format_field(value, form or ""))
                except ValueError as error:
                    raise CatalogError(f"rule {self.name}: {{{name}:{form}}} cannot format {value!r}: {error}") from error
        return "".join(parts)

    def _parsed(self, where: str, text: str, known: Mapping[str, str]) -> Expression:
        try:
            expression = Expression(text)
        except ExpressionError as error:
            raise fault(where, f"rule {self.name}: {error}") from error
        self._names(where, expression.names, known)
        return expression

    def _names(self, where: str, names: Iterable[str], known: Mapping[str, str]) -> None:
        for name in names:
            own, dot, key = name.partition(".")
            exists = name in known
            if dot and own in OWN:
                exists = of_table(key) and self.scope == TABLE if own == TABLE else of_recipe(key)
            if not exists and not name.startswith("lists."):
                raise fault(where, f"rule {self.name}: there is no quantity {name!r}; there are {sorted(known)}")

    def _evaluated(self, where: str, expression: Expression, quantities: Mapping[str, Any]) -> Any:
        try:
            return expression.value(quantities)
        except ExpressionError as error:
            raise CatalogError(f"rule {self.name}: {where}: {error}") from error

    @property
    def lists(self) -> set[str]:
        """Names of the lists that the rule uses."""
        names = self._when.names.union(*(e.names for e in self._compute.values()))
        return {name.removeprefix("lists.") for name in names if name.startswith("lists.")}


def _rounded(value: Any) -> Any:
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


class Bound(Strict):
    """Range of a recipe key outside of which training is known to diverge or to be useless."""

    key: str = Field(description="The recipe key.")
    low: str = Field(description="Smallest value, an expression of the recipe's other keys.")
    high: str = Field(description="Largest value, an expression of the recipe's other keys.")
    reason: str = Field(min_length=20, description="What happens beyond.")
    source: str = Field(min_length=5, description="The paper, report or study that the range is from.")

    _low: Expression = PrivateAttr()
    _high: Expression = PrivateAttr()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not of_recipe(self.key):
            raise fault("key", f"there is no recipe key {self.key!r}")
        for where in ("low", "high"):
            try:
                expression = Expression(getattr(self, where))
            except ExpressionError as error:
                raise fault(where, str(error)) from error
            for name in expression.names:
                if not name.startswith("recipe.") or not of_recipe(name.removeprefix("recipe.")):
                    raise fault(where, f"bound of {self.key}: there is no quantity {name!r}; only recipe keys are allowed")
            setattr(self, f"_{where}", expression)
        return self

    @property
    def names(self) -> set[str]:
        """Names of the recipe keys that the range depends on, such as `recipe.batch_size`."""
        return self._low.names | self._high.names

    def of(self, quantities: Mapping[str, Any]) -> tuple[float, float] | None:
        """Return the smallest and the largest value; None if they depend on a key that the recipe does not have."""
        low, high = self._low.value(quantities), self._high.value(quantities)
        return None if low is None or high is None else (low, high)


class Searched(Strict):
    """A recipe key that tuning searches, with values around the advised one."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="Name of the parameter.")
    key: str = Field(description="The recipe key.")
    models: tuple[str, ...] = Field(default=KINDS, description="Kinds of models that have it.")
    factor: FloatOrText | None = Field(
        default=None, gt=1, description="Searches from value / factor to value * factor, on a logarithmic scale."
    )
    range: tuple[FloatOrText, FloatOrText] | None = Field(default=None, description="Searches between these two values.")
    type: Literal["double", "int"] = Field(default="double", description="Type of the values of a range.")
    grid: tuple[IntOrText, ...] = Field(default=(), description="Searches these values, except those above the bounds.")
    values: tuple[str, ...] = Field(default=(), description="Searches these categories.")
    shapes: str | None = Field(default=None, description="Searches the shapes of this list whose last layer fits.")

    @property
    def parameter_type(self) -> str:
        """Type of the parameter in SigOpt's terms."""
        if self.values or self.shapes:
            return "categorical"
        return "int" if self.grid else "double" if self.factor else self.type

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = [name for name in ("factor", "range", "grid", "values", "shapes") if getattr(self, name)]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise fault("", f"parameter {self.name}: expected one of factor, range, grid, values and shapes, found {found}")
        if not of_recipe(self.key):
            raise fault("key", f"parameter {self.name}: there is no recipe key {self.key!r}")
        if self.range and not self.range[0] < self.range[1]:
            raise fault("range", f"parameter {self.name}: expected two ascending values, found {list(self.range)}")
        return self


class Rules(Strict):
    """A rule file. Later rules see the values that earlier rules have set, and replace them."""

    lists: dict[str, tuple[tuple[IntOrText, ...], ...]] = Field(
        default_factory=dict, description="Widths of layers, from large to small, as `lists.<name>` in expressions."
    )
    rules: tuple[Rule, ...] = Field(default=(), description="The rules, in order.")
    bounds: tuple[Bound, ...] = Field(default=(), description="Ranges that apply to all advice and to the search.")
    search: tuple[Searched, ...] = Field(default=(), description="The parameters that tuning searches.")

    _digest: str = PrivateAttr(default="")

    @model_validator(mode="after")
    def _check(self) -> Self:
        for where, names in (("rules", [r.name for r in self.rules]), ("search", [(s.name, s.models) for s in self.search])):
            if twice := [name for index, name in enumerate(names) if name in names[:index]]:
                raise fault(where, f"two of them have the name {twice[0]}")
        for name, shapes in self.lists.items():
            if list(shapes) != sorted(shapes, key=sum, reverse=True) or len(set(shapes)) != len(shapes):
                raise fault(f"lists.{name}", "expected different shapes, from large to small")
        return self

    @property
    def digest(self) -> str:
        """Hash of the user's files among the loaded ones; empty without any."""
        return self._digest

    def searched(self, kind: str) -> list[Searched]:
        """Return the parameters that tuning searches for a kind of model."""
        return [one for one in self.search if kind in one.models]

    def and_then(self, other: Rules) -> Rules:
        """Return these rules followed by others. Rules, bounds, parameters and lists of the same name are replaced in place."""
        bounds = {bound.key: bound for bound in (*self.bounds, *other.bounds)}
        rules = {rule.name: rule for rule in (*self.rules, *other.rules)}
        search = {(one.name, one.models): one for one in (*self.search, *other.search)}
        return Rules(
            lists=self.lists | other.lists, rules=tuple(rules.values()), bounds=tuple(bounds.values()),
            search=tuple(search.values()),
        )  # fmt: skip

    def with_digest(self, digest: str) -> Rules:
        """Return a copy with a digest of the user's files."""
        found = self.model_copy()
        found._digest = digest
        return found

    def check_lists(self, path: Path) -> None:
        """Refuse names of lists that no file defines. Raises `CatalogError`."""
        for rule in self.rules:
            if unknown := sorted(rule.lists - set(self.lists)):
                raise CatalogError(
                    f"{path}: rules: rule {rule.name}: there is no list {unknown[0]!r}; there are {sorted(self.lists)}"
                )
