from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ml.advisor.advice import Advice
from ml.advisor.advise import advise
from ml.advisor.calibration import Calibration
from ml.advisor.cost import Speed
from ml.advisor.hardware import Hardware
from ml.advisor.profiles.profile import Cross
from ml.advisor.rule_files import load_rules
from ml.advisor.rules import Rules
from ml.advisor.wishes import Wishes
from ml.catalog.load import CatalogError, load_catalog
from ml.recipes.recipe import Recipe, recipe_of
from tests.helpers.entries import untuned_criteo
from tests.helpers.feature_profiles import dense_profile, profile_of, sparse_profile

MACHINE = Hardware("a processor", 4.0, 16 << 30, ("avx2", "avx512_bf16"))
OLD = Hardware("an old processor", 4.0, 16 << 30)
RATES = {
    "steps": 1e-3, "elements": 4e-9, "flops_float32": 1e-11, "flops_bfloat16": 3e-12, "lookups": 1e-8, "new_rows": 5e-7,
    "values": 3e-8, "fixed_lookups": 1e-7,
}  # fmt: skip
CALIBRATION = Calibration("machine", "now", Speed(RATES, 0.5, 600_000_000), 0.1)
CATALOG = load_catalog() | {"criteo": untuned_criteo()}
MODELS = [(name, model) for name, spec in CATALOG.items() for model in spec.models]


def of_criteo(rows: int = 20_000, model: str = "dlrm", wishes: Wishes | None = None, **profile: Any) -> Advice:
    spec = CATALOG["criteo"]
    return advise(spec, model, profile_of(spec, rows, **profile), MACHINE, wishes, calibration=CALIBRATION)


def only(**rule: Any) -> Rules:
    own = {"name": "mine", "reason": "Because {rows} rows were seen before.", "source": "a study"} | rule
    return Rules.model_validate({"rules": [own]})


@pytest.mark.parametrize(("dataset", "model"), MODELS)
@pytest.mark.parametrize("rows", [None, 50, 20_000, 300_000, 100_000_000])
def test_advice_for_every_shipped_model_is_a_valid_recipe_with_reasons(dataset: str, model: str, rows: int | None) -> None:
    spec = CATALOG[dataset]
    profile = profile_of(spec, rows, ids=max(2, rows // 10)) if rows else None
    advice = advise(spec, model, profile, MACHINE, calibration=CALIBRATION)
    assert Recipe.model_validate(advice.recipe.model_dump(mode="json")) == advice.recipe
    assert advice.values and all(len(value.reason) > 20 and value.source for value in advice.values)
    assert not any("unknown" in value.reason or "{" in value.reason for value in advice.values)
    assert (advice.prediction is None) == (rows is None)
    assert recipe_of(spec, model, advice.overrides) == advice.recipe


@pytest.mark.parametrize(("dataset", "model"), MODELS)
def test_what_the_catalog_entry_sets_is_kept(dataset: str, model: str) -> None:
    spec = CATALOG[dataset]
    advice = advise(spec, model, profile_of(spec, 10_000_000, ids=1_000_000), MACHINE)
    shipped = recipe_of(spec, model)
    assert advice.recipe.exclude_features == shipped.exclude_features
    for feature, table in spec.recipe.overrides.get("tables", {}).get("features", {}).items():
        assert advice.recipe.tables.of(feature).kind == table["kind"]
    if (dataset, model) == ("globo", "dlrm"):
        assert advice.recipe.batch_size == 1024 and advice.recipe.table_optimizer.lr == 0.01
        assert {"batch_size"} <= {kept.key for kept in advice.kept}


def test_without_a_profile_only_rules_that_need_none_apply() -> None:
    advice = advise(CATALOG["criteo"], "dlrm", None, OLD)
    assert {value.rule for value in advice.values} == {
        "table_optimizer", "dense_optimizer", "schedule", "one_thread", "float32", "collisionless_tables",
    }  # fmt: skip
    assert advice.overrides == {} and advice.days == ()


@pytest.mark.parametrize(
    ("rows", "batch", "factor"), [(100, 256, 1), (20_000, 256, 1), (300_000, 512, 2**0.5), (100_000_000, 4096, 4)]
)
def test_batches_grow_with_the_day_and_rates_with_their_square_root(rows: int, batch: int, factor: float) -> None:
    recipe = of_criteo(rows, model="deepfm").recipe
    assert recipe.batch_size == batch
    assert recipe.dense_optimizer.lr == pytest.approx(0.001 * factor, rel=1e-3)
    assert recipe.table_optimizer.lr == pytest.approx(0.02 * factor, rel=1e-3)


def test_rates_that_would_diverge_are_moved_into_their_bounds() -> None:
    rules = only(set={"dense_optimizer.lr": 0.5, "table_optimizer.lr": 5.0}, reason="Because somebody has said so.")
    rules = rules.model_copy(update={"bounds": load_rules().bounds})
    advice = advise(CATALOG["criteo"], "dlrm", None, OLD, rules=rules)
    assert (advice.recipe.dense_optimizer.lr, advice.recipe.table_optimizer.lr) == (0.003, 0.3)
    assert advice.of("dense_optimizer.lr").rule == "bound of dense_optimizer.lr"


def test_bounds_of_sgd_depend_on_the_batch_size() -> None:
    rules = only(set={"table_optimizer.kind": "sgd", "table_optimizer.lr": 1.0}, reason="Because somebody has said so.")
    rules = rules.model_copy(update={"bounds": load_rules().bounds})
    assert advise(CATALOG["criteo"], "dlrm", None, OLD, rules=rules).recipe.table_optimizer.lr == pytest.approx(0.2)


def test_shapes_grow_with_the_day_and_the_last_bottom_layer_fits_the_dimension() -> None:
    assert (of_criteo(20_000).recipe.model.bottom, of_criteo(20_000).recipe.model.top) == ((64,), (128, 64))  # pyright: ignore
    large = of_criteo(100_000_000).recipe.model
    assert (large.bottom, large.top) == ((256, 128), (512, 256))  # pyright: ignore[reportAttributeAccessIssue]
    rules = load_rules()
    wide = only(set={"model.embedding_dim": 256}, reason="Because somebody has said so.")
    own = wide.rules + tuple(r for r in rules.rules if r.name == "bottom_layers")
    advice = advise(
        CATALOG["criteo"], "dlrm", profile_of(CATALOG["criteo"]), OLD, rules=rules.model_copy(update={"rules": own})
    )
    assert advice.recipe.model.bottom == (512, 256)  # pyright: ignore[reportAttributeAccessIssue]


def test_dimension_is_larger_where_ids_occur_often() -> None:
    assert of_criteo(300_000, ids=10_000).recipe.model.embedding_dim == 32
    assert of_criteo(300_000, ids=100_000).recipe.model.embedding_dim == 16
    assert of_criteo(300_000, ids=10).recipe.model.embedding_dim == 16


def test_tables_follow_the_frequency_distribution() -> None:
    rare = sparse_profile(2_000_000, 4_000_000, singles=0.7, growth=0.3)
    tables = of_criteo(1_000_000, sparse={"C3": rare}).recipe.tables
    assert tables.of("C3").model_dump(include={"min_count", "ttl_seconds"}) == {"min_count": 2, "ttl_seconds": 2592000.0}
    assert tables.of("C1").model_dump(include={"min_count", "ttl_seconds"}) == {"min_count": 1, "ttl_seconds": None}


def test_items_keep_all_ids_because_new_ones_must_be_learned_at_once() -> None:
    spec = CATALOG["globo"]
    rare = sparse_profile(2_000_000, 4_000_000, singles=0.7, growth=0.3)
    tables = advise(spec, "two_tower", profile_of(spec, sparse={"item": rare, "user": rare}), MACHINE).recipe.tables
    assert (tables.of("item").min_count, tables.of("user").min_count) == (1, 2)  # pyright: ignore


def test_the_schedule_warms_up_before_it_decays() -> None:
    for rows in (100, 20_000, 100_000_000):
        schedule = of_criteo(rows).recipe.schedule
        assert schedule.warm_up < schedule.decay_start
    assert of_criteo(100_000_000).recipe.schedule.warm_up > 0


def test_precision_is_what_the_processor_can_compute() -> None:
    spec = CATALOG["criteo"]
    assert advise(spec, "dlrm", None, MACHINE).recipe.precision == "bfloat16"
    assert advise(spec, "dlrm", None, OLD).recipe.precision == "float32"


def test_a_target_ends_training_early_and_holds_out_the_validation_split() -> None:
    recipe = of_criteo(wishes=Wishes(target=("auc", 0.76))).recipe
    assert recipe.early_stop and (recipe.early_stop.metric, recipe.early_stop.target) == ("auc", 0.76)
    assert "validation" not in recipe.splits


def test_suggestions_for_the_catalog_entry() -> None:
    spec = CATALOG["criteo"]
    bare = spec.model_copy(update={"sparse": tuple(s for s in spec.sparse if not s.bucketise)})
    texts = [s.text for s in advise(bare, "dlrm", None, OLD).suggestions]
    assert "sparse: add {name: I1_bucket, column: I1, bucketise: {log: {per_octave: 4}}}" in texts
    assert not any("I1_bucket" in s.text for s in advise(spec, "dlrm", None, OLD).suggestions)


def test_buckets_of_numbers_have_edges_from_the_profile() -> None:
    spec = CATALOG["synthetic"]
    profile = profile_of(spec)
    dense = dict(profile.dense) | {"user_age": dense_profile(0.9, integers=False, distinct=500)}
    profile = type(profile)(**vars(profile) | {"dense": dense})
    texts = [s.text for s in advise(spec, "dlrm", profile, OLD).suggestions]
    assert "sparse: add {name: user_age_bucket, column: user_age, bucketise: [0.9, 4.5, 22.5, 45, 67.5, 85.5, 89.1]}" in texts


def test_the_strongest_new_cross_is_suggested() -> None:
    spec = CATALOG["synthetic"]
    crosses = (Cross(("country", "category"), 0.01, 100), Cross(("category", "device"), 0.005, 60))
    profile = type(profile_of(spec))(**vars(profile_of(spec)) | {"crosses": crosses})
    texts = [s.text for s in advise(spec, "dlrm", profile, OLD).suggestions]
    assert "sparse: add {name: category_x_device, cross: [category, device]}" in texts


def test_a_wish_about_time_is_fulfilled_or_warned_of() -> None:
    free = of_criteo(5_000_000)
    assert free.prediction and not free.warnings
    tight = of_criteo(5_000_000, wishes=Wishes(seconds=free.prediction.seconds * 0.8))
    assert tight.prediction and tight.prediction.seconds <= free.prediction.seconds * 0.8 and not tight.warnings
    impossible = of_criteo(5_000_000, wishes=Wishes(seconds=0.001))
    assert any("no rule reduces it further" in warning for warning in impossible.warnings)


def test_a_wish_about_memory_is_fulfilled_or_warned_of() -> None:
    rare = {"C3": sparse_profile(5_000_000, 12_000_000, singles=0.6)}
    free = of_criteo(3_000_000, sparse=rare)
    assert free.prediction
    tight = of_criteo(3_000_000, sparse=rare, wishes=Wishes(memory=free.prediction.peak_bytes * 0.75))
    assert tight.prediction and tight.prediction.peak_bytes <= free.prediction.peak_bytes * 0.75 and not tight.warnings
    limit = f"the limit {free.prediction.peak_bytes * 0.75:,.0f}. "
    reasons = [value.reason for value in tight.values if value.rule.endswith("_for_memory")]
    assert reasons and all(limit in reason for reason in reasons)
    impossible = of_criteo(3_000_000, sparse=rare, wishes=Wishes(memory=1000))
    assert any("no rule reduces it further" in warning for warning in impossible.warnings)


def test_the_memory_of_the_machine_is_the_limit_without_a_wish() -> None:
    rare = {"C3": sparse_profile(5_000_000, 12_000_000, singles=0.6)}
    profile = profile_of(CATALOG["criteo"], 3_000_000, sparse=rare)

    def advised(memory: float, wishes: Wishes | None = None) -> Advice:
        machine = replace(MACHINE, memory=int(memory))
        return advise(CATALOG["criteo"], "dlrm", profile, machine, wishes, calibration=CALIBRATION)

    free = advised(64 << 30)
    assert free.prediction and not free.warnings
    peak = free.prediction.peak_bytes
    small = advised(peak)  # the limit is 80 % of it
    assert small.prediction and small.prediction.peak_bytes <= 0.8 * peak and small.recipe != free.recipe
    [said] = small.warnings
    assert "80% of this machine's memory" in said and "rules that changed the recipe: " in said
    changed = {value.rule for value in small.values if value.changes} - {value.rule for value in free.values if value.changes}
    assert changed and changed <= set(said.rsplit(": ", 1)[1].split(", "))
    assert any("80% of this machine's memory" in value.reason for value in small.values if value.rule in changed)
    assert advised(peak, Wishes(memory=peak)).recipe == free.recipe, "a wish takes precedence"
    unknown = advise(CATALOG["criteo"], "dlrm", None, replace(MACHINE, memory=1), calibration=CALIBRATION)
    assert not unknown.warnings, "nothing is predicted, and nothing was wished"


def test_a_wish_without_a_profile_is_warned_of() -> None:
    advice = advise(CATALOG["criteo"], "dlrm", None, MACHINE, Wishes(seconds=1), calibration=CALIBRATION)
    assert any("predictions need a profile" in warning for warning in advice.warnings)


def test_the_structure_of_an_incumbent_is_kept() -> None:
    spec = CATALOG["criteo"]
    incumbent = recipe_of(spec, "dlrm", {"model": {"embedding_dim": 8, "top": [32]}, "tables": {"default": {"min_count": 2}}})
    profile = profile_of(spec, 300_000, ids=10_000)
    advice = advise(spec, "dlrm", profile, MACHINE, calibration=CALIBRATION, incumbent=incumbent)
    sparse = [column.name for column in spec.sparse]
    assert advice.recipe.structure(sparse) == incumbent.structure(sparse)
    assert advice.recipe.batch_size == 512
    assert {"model.embedding_dim", "model.top"} <= {kept.key for kept in advice.kept}


def test_the_advised_structure_says_which_values_need_a_new_model() -> None:
    advice = of_criteo(300_000, ids=10_000)
    structural = {value.key for value in advice.values if value.changes and value.structural}
    assert structural == {"model.embedding_dim"}
    changed = recipe_of(CATALOG["criteo"], "dlrm")
    sparse = [column.name for column in CATALOG["criteo"].sparse]
    assert changed.structure(sparse) != advice.recipe.structure(sparse)


def test_values_that_are_not_valid_together_name_their_rules() -> None:
    rules = only(set={"schedule.warm_up": 0.9}, reason="Because somebody has said so.")
    with pytest.raises(CatalogError, match=r"rules mine: their values are not valid together: schedule"):
        advise(CATALOG["criteo"], "dlrm", None, OLD, rules=rules)


@pytest.mark.parametrize(
    ("rule", "key"),
    [
        ({"set": {"batch_size": True}}, "batch_size: "),
        ({"for": "table", "set": {"table.max_rows": True}}, r"tables\.features\..*\.max_rows: "),
    ],
)
def test_true_is_not_a_number_that_a_rule_sets(rule: dict[str, Any], key: str) -> None:
    rules = only(**rule, reason="Because somebody has said so.")
    with pytest.raises(CatalogError, match=rf"rules mine: their values are not valid together: {key}"):
        advise(CATALOG["criteo"], "dlrm", None, OLD, rules=rules)


def test_an_expression_without_a_value_names_its_rule() -> None:
    rules = only(compute={"batch_size": "ceil(1 / (cores - 4))"}, reason="Because somebody has said so.")
    with pytest.raises(CatalogError, match=r"rule mine: compute.batch_size: .* has no value here: .*division by zero"):
        advise(CATALOG["criteo"], "dlrm", None, OLD, rules=rules)


def test_a_format_that_does_not_fit_a_quantity_names_its_rule() -> None:
    rules = only(set={"batch_size": 128}, reason="Because it is the model {model:,.0f}.")
    with pytest.raises(CatalogError, match=r"rule mine: \{model:,\.0f\} cannot format 'dlrm'"):
        advise(CATALOG["criteo"], "dlrm", None, OLD, rules=rules)


def test_a_users_rule_file_changes_the_advice(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "rules:\n- {name: batch_size, set: {batch_size: 128}, reason: We have measured it ourselves., source: our study}\n"
    )
    advice = advise(CATALOG["criteo"], "dlrm", None, OLD, rules=load_rules(tmp_path / "mine.yaml"))
    assert advice.recipe.batch_size == 128 and advice.of("batch_size").source == "our study"
    assert advice.recipe.dense_optimizer.lr == pytest.approx(0.001 * 0.5**0.5, rel=1e-3)
