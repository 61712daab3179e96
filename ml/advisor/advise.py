"""Advises a recipe: applies rules to a profile of the data, the model, the hardware and the user's limits.

Rules apply in the order of their file. Each sees the values that earlier rules have set. Values that the catalog entry or
the user's edits set do not change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ml.advisor import quantities
from ml.advisor.advice import Advice, Suggestion
from ml.advisor.calibration import Calibration
from ml.advisor.cost import Prediction, predict
from ml.advisor.dense_part import dense_part, visible
from ml.advisor.draft import FEATURES, Draft
from ml.advisor.hardware import Hardware
from ml.advisor.profiles.profile import FeatureProfile
from ml.advisor.rule_files import rules_of
from ml.advisor.rules import TABLE, Rule, Rules, Stage
from ml.advisor.wishes import MEMORY_SHARE, Wishes, memory_limit
from ml.advisor.workload import Workload, missing_features
from ml.catalog.expand import expand_recipe
from ml.catalog.features import SparseColumn
from ml.catalog.spec import DatasetSpec
from ml.recipes.edits import flat
from ml.recipes.layers import edits_layers, entry_layers, keep_structure
from ml.recipes.recipe import Recipe, recipe_of
from ml.recipes.tables import SharedTable
from ml.schema import FeatureSchema

ROUNDS = 50  # applications of the rules of one stage, more than any recipe has values to change


def advise(
    spec: DatasetSpec,
    model: str,
    profile: FeatureProfile | None,
    hardware: Hardware,
    wishes: Wishes | None = None,
    *,
    rules: Rules | None = None,
    calibration: Calibration | None = None,
    incumbent: Recipe | None = None,
) -> Advice:
    """Advise the recipe of one of a dataset's models.

    The result depends only on the arguments.

    Args:
        spec: The dataset. Recipe keys that its entry overrides, or that the user has edited, are kept.
        model: Name of one of its models.
        profile: Profile of days before the one that is trained. Without one, as on the first day, only rules that need
            none apply.
        hardware: What training can use.
        wishes: The user's limits and targets; by default, no limit of time, and a share of the memory of `hardware`.
        rules: The rules; by default, Evergreen's and those of the dataset's catalog entry.
        calibration: Speed of the machine. Without it, time is not predicted, and wishes about time or memory only
            give a warning. The default limit of memory then has no effect.
        incumbent: The recipe of the day before. Its structure is kept, so that training continues with its weights; advice that
            would change it is in `Advice.kept`.

    Returns:
        The advice.

    Raises:
        CatalogError: The dataset has no such model, its recipe is not valid, or a rule gives values that are not. The message
            names the rule.

    Example:
        >>> from ml.catalog.load import load_catalog
        >>> advice = advise(load_catalog()["criteo"], "dlrm", None, Hardware("a processor", 2, 8 << 30))
        >>> advice.of("table_optimizer.kind").value, advice.prediction is None
        ('rowwise_adagrad', True)
    """
    return _Advisor(
        spec, model, profile, hardware, wishes or Wishes(), rules or rules_of(spec), calibration, incumbent
    ).advice()


class _Advisor:
    """One application of rules. The draft is what they change."""

    def __init__(
        self,
        spec: DatasetSpec,
        model: str,
        profile: FeatureProfile | None,
        hardware: Hardware,
        wishes: Wishes,
        rules: Rules,
        calibration: Calibration | None,
        incumbent: Recipe | None,
    ) -> None:
        self.spec, self.model, self.wishes, self.rules, self.calibration = spec, model, wishes, rules, calibration
        self.schema, self.profile = FeatureSchema.of(spec), profile
        self.recipe = recipe_of(spec, model)
        if incumbent is not None:
            self.recipe = keep_structure(self.recipe, incumbent, self.schema.sparse).recipe
        self.draft = Draft(self.recipe, pinned_keys(spec, model), keep_structure=incumbent is not None)
        self.workload = Workload.of(profile) if profile and profile.rows else None
        if self.workload and missing_features(self.workload, self.schema):
            self.workload = None
        self.memory = memory_limit(wishes, hardware)
        self.basis = "" if wishes.memory is not None else f" ({MEMORY_SHARE:.0%} of this machine's memory)"
        self.fixed = quantities.of_dataset(spec, profile, hardware) | {
            "wished_seconds": wishes.seconds,
            "wished_bytes": self.memory,
            "memory_basis": self.basis,
            "target_metric": wishes.target[0] if wishes.target else None,
            "target": wishes.target[1] if wishes.target else None,
        }
        self.suggestions: dict[tuple[str, str], Suggestion] = {}

    def advice(self) -> Advice:
        before = self._predict(self.recipe)
        for rule in self._rules("always"):
            self._apply(rule)
        self._clamp()
        warnings = []
        if self.wishes.seconds is not None:
            warnings += self._fulfil("over_time", self.wishes.seconds, "seconds of one core", "", lambda p: p.seconds)
        if self.wishes.memory is not None or self._predict(self.recipe) is not None:
            warnings += self._fulfil("over_memory", self.memory, "bytes of memory", self.basis, lambda p: p.peak_bytes)
        self._clamp()
        recipe = self.draft.finish()
        values = sorted(self.draft.values.values(), key=lambda value: value.key.startswith("tables.features."))
        return Advice(
            dataset=self.spec.name,
            model=self.model,
            days=self.profile.days if self.profile else (),
            recipe=recipe,
            values=tuple(values),
            rules=self.rules,
            suggestions=tuple(self.suggestions.values()),
            kept=tuple(self.draft.kept.values()),
            prediction=self._predict(recipe),
            before=before,
            warnings=tuple(warnings),
            rows=self.fixed.get("rows"),
            wishes=self.wishes,
            memory=self.memory,
        )

    def _rules(self, stage: Stage) -> Iterator[Rule]:
        kind = self.recipe.model.kind
        yield from (rule for rule in self.rules.rules if rule.stage == stage and kind in rule.models)

    def _apply(self, rule: Rule) -> bool:
        """Apply a rule to all that it is about. Returns whether the recipe changed."""
        recipe = self.draft.finish()
        common = self._common(recipe)
        if rule.scope == "recipe":
            return self._apply_to(rule, self._with_keys(common), None)
        own = visible(recipe, self.schema)
        if rule.scope == "dense_feature":
            for column in self.spec.dense:
                if column.name in own.dense:
                    about = quantities.of_dense(self.spec, column, self.profile)
                    self._apply_to(rule, self._with_keys(common | about), None)
            return False
        changed = False
        for column in self.spec.sparse:
            if column.name in own.sparse:
                about = common | quantities.of_table(self.spec, column, self.profile) | self._about_table(recipe, column)
                changed |= self._apply_to(rule, self._with_keys(about, column.name), column.name)
        return changed

    def _apply_to(self, rule: Rule, known: Mapping[str, Any], feature: str | None) -> bool:
        if not rule.applies(known):
            return False
        reason = rule.text(rule.reason, known)
        if rule.suggest:
            text = rule.text(rule.suggest, known)
            self.suggestions[rule.name, text] = Suggestion(text, rule.name, reason, rule.source)
        changed, of_table = False, {}
        for key, value in rule.values(known).items():
            if feature is not None and key.startswith(f"{TABLE}."):
                of_table[key.removeprefix(f"{TABLE}.")] = value
            else:
                changed |= self.draft.set(key, value, rule.name, reason, rule.source)
        if of_table and feature is not None:
            changed |= self.draft.set_table(feature, of_table, rule.name, reason, rule.source)
        return changed

    def _fulfil(self, stage: Stage, limit: float, unit: str, basis: str, of: Callable[[Prediction], float]) -> Iterator[str]:
        """Apply the rules of a stage until a prediction is within its limit. Yields warnings."""
        applied: list[str] = []
        first = None
        for _ in range(ROUNDS):
            prediction = self._predict(self.draft.finish())
            if prediction is None:
                yield f"{unit}: the limit is {limit:g}{basis}, but predictions need a profile and a calibration"
                return
            first = of(prediction) if first is None else first
            if of(prediction) <= limit:
                break
            rule = next((rule for rule in self._rules(stage) if self._apply(rule)), None)
            if rule is None:
                value = of(prediction)
                yield f"{unit}: the limit is {limit:g}{basis}, the prediction is {value:.3g}; no rule reduces it further"
                return
            applied.append(rule.name)
        if applied and basis:
            names = ", ".join(dict.fromkeys(applied))
            changed = f"rules that changed the recipe: {names}"
            yield f"{unit}: the limit is {limit:g}{basis}, the prediction was {first:.3g}; {changed}"

    def _clamp(self) -> None:
        """Move advised values into the ranges outside of which training diverges."""
        for bound in self.rules.bounds:
            value, known = self.draft.get(bound.key), self._with_keys({})
            limits = bound.of(known)
            if value is None or limits is None or bound.key not in self.draft.values:
                continue
            inside = type(value)(min(max(value, limits[0]), limits[1]))
            if inside != value:
                self.draft.set(bound.key, inside, f"bound of {bound.key}", bound.reason, bound.source)

    def _common(self, recipe: Recipe) -> dict[str, Any]:
        prediction, own = self._predict(recipe), visible(recipe, self.schema)
        return (
            self.fixed
            | quantities.of_features(own.sparse, self.profile)
            | {
                "model": recipe.model.kind,
                "flops": dense_part(recipe, self.schema).flops,
                "seconds": prediction.seconds if prediction else None,
                "peak_bytes": prediction.peak_bytes if prediction else None,
            }
        )

    def _about_table(self, recipe: Recipe, column: SparseColumn) -> dict[str, Any]:
        lent = {table.of for table in recipe.tables.features.values() if isinstance(table, SharedTable)}
        prediction, name = self._predict(recipe), column.name
        return {
            "shared": name in lent or isinstance(recipe.tables.of(name), SharedTable),
            "table_rows": self.workload.table_rows(recipe, name) if self.workload else None,
            "table_bytes": prediction.table_bytes.get(name) if prediction else None,
        }

    def _with_keys(self, known: Mapping[str, Any], feature: str | None = None) -> Mapping[str, Any]:
        return _Known(known, self.draft, self.rules, feature)

    def _predict(self, recipe: Recipe) -> Prediction | None:
        if self.workload is None or self.calibration is None:
            return None
        return predict(recipe, self.schema, self.workload, self.calibration.speed)


class _Known(Mapping[str, Any]):
    """Quantities by name, with the keys of the recipe, of the recipe without advice, and of a table, and the rules' lists."""

    def __init__(self, known: Mapping[str, Any], draft: Draft, rules: Rules, feature: str | None) -> None:
        self._known, self._draft, self._rules, self._feature = known, draft, rules, feature

    def __getitem__(self, name: str) -> Any:
        if name in self._known:
            return self._known[name]
        own, _, key = name.partition(".")
        if own == "recipe":
            return self._draft.get(key)
        if own == "shipped":
            return self._draft.shipped(key)
        if own == "lists":
            return self._rules.lists[key]
        if own == TABLE and self._feature is not None:
            return self._draft.table(self._feature).get(key)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)


def pinned_keys(spec: DatasetSpec, model: str) -> set[str]:
    """Return the recipe keys that a catalog entry or a user's edits set for a model, dotted; a table is one key."""
    keys = {
        key for layer in (*entry_layers(spec, model), *edits_layers(spec, model)) for key in flat(expand_recipe(layer.values))
    }
    return {".".join(key.split(".")[:3]) if key.startswith(FEATURES) else key for key in keys}
