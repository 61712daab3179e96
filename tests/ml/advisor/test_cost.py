from __future__ import annotations

import pytest
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ml.advisor.cost import Comparison, Speed, compare, predict, table_bytes, terms
from ml.advisor.workload import FeatureLoad, Workload
from ml.datasets.batch import Batch
from ml.recipes.recipe import Recipe, load_recipe
from ml.schema import FeatureSchema
from ml.training.loop import train_step
from ml.training.state import TrainState, new_state

SCHEMA = FeatureSchema(dense=("age",), single=("user", "item", "hour"), multi=(), fingerprint="f")
ROWS, IDS = 6000, 3000


def trained(recipe: Recipe) -> TrainState:
    """A state that has seen every id of each feature twice."""
    state = new_state(recipe, SCHEMA)
    state.begin_pass()
    for _ in range(ROWS // IDS):
        ids = torch.cat([torch.arange(2, IDS + 2) + 10**6 * table for table in range(3)])
        sparse = KeyedJaggedTensor(list(SCHEMA.sparse), ids, lengths=torch.ones(3 * IDS, dtype=torch.int32))
        labels = (torch.arange(IDS) % 2).float()
        batch = Batch(torch.rand(IDS, 1), sparse, labels, torch.ones(IDS), torch.zeros(IDS, dtype=torch.int64))
        train_step(state, batch, total_steps=1)
    return state


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("dlrm", {}),
        ("dlrm", {"model": {"embedding_dim": 64}, "table_optimizer": {"kind": "adam"}}),
        ("dlrm", {"tables": {"features": {"hour": {"kind": "static", "rows": 4096}, "item": {"kind": "hashed", "rows": 999}}}}),
        ("dlrm", {"tables": {"features": {"hour": {"kind": "compositional", "rows": 9000, "universe": 10**6}}}}),
        ("wide_deep", {}),
    ],
)
def test_bytes_of_tables_are_close_to_what_tables_report(name: str, overrides: dict) -> None:
    recipe = load_recipe(name, overrides)
    load = FeatureLoad(ROWS, IDS, IDS, (IDS, IDS))
    predicted = table_bytes(recipe, SCHEMA, Workload(ROWS, ROWS / 2, dict.fromkeys(SCHEMA.sparse, load)))
    measured = {table: stats.nbytes for table, stats in trained(recipe).stats().items()}
    assert predicted.keys() == measured.keys()
    assert sum(predicted.values()) == pytest.approx(sum(measured.values()), rel=0.25)


def workload(rows: float = 1000) -> Workload:
    return Workload(rows, rows / 4, dict.fromkeys(SCHEMA.sparse, FeatureLoad(rows, 100, 10, (100, 50))))


def test_terms_count_the_work_of_a_day() -> None:
    found = terms(load_recipe("dlrm", {"batch_size": 100}), SCHEMA, workload())
    assert (found["steps"], found["step_features"], found["lookups"], found["words"]) == (10, 30, 3000, 48000)
    assert (found["new_rows"], found["values"], found["step_collections"]) == (30, 4000, 0)
    assert found["flops_float32"] > 0 and "flops_bfloat16" not in found
    static = load_recipe("dlrm", {"batch_size": 100, "tables": {"features": {"hour": {"kind": "static", "rows": 32}}}})
    found = terms(static, SCHEMA, workload())
    assert (found["lookups"], found["fixed_lookups"], found["step_collections"]) == (2000, 1000, 10)


def test_a_row_that_a_step_reads_often_is_updated_once() -> None:
    def found(load: FeatureLoad, name: str = "dlrm", **overrides: object) -> dict[str, float]:
        day = Workload(10_000, 2500, dict.fromkeys(SCHEMA.sparse, load))
        return terms(load_recipe(name, {"batch_size": 1000, **overrides}), SCHEMA, day)

    few, many = FeatureLoad(10_000, 20, 0), FeatureLoad(10_000, 10**7, 0)
    assert found(few)["lookups"] == found(many)["lookups"] == 30_000
    assert found(few)["updates"] == pytest.approx(3 * 20 * 10, rel=1e-3), "20 rows of each of 3 tables in each of 10 steps"
    assert found(many)["updates"] == pytest.approx(30_000, rel=1e-3)
    skewed = FeatureLoad(10_000, 1000, 0, tuple(1000 / 2**k for k in range(10)))
    assert found(few)["updates"] < found(skewed)["updates"] < found(FeatureLoad(10_000, 1000, 0))["updates"]
    static = found(few, tables={"features": {"hour": {"kind": "static", "rows": 32}}})
    assert (static["fixed_updates"], static["fixed_update_words"]) == pytest.approx((200, 3200), rel=1e-3)
    wide, deep = found(few, "wide_deep"), found(few, "deepfm")
    assert wide["updates"] == 2 * deep["updates"] and wide["update_words"] == deep["update_words"] * 17 / 16


def test_lists_and_the_opening_of_a_day_have_terms_of_their_own() -> None:
    schema = FeatureSchema(dense=("age",), single=("user",), multi=("tags",), fingerprint="f")
    day = Workload(1000, 250, {"user": FeatureLoad(1000, 100, 0), "tags": FeatureLoad(4000, 100, 0)})
    found = terms(load_recipe("dlrm", {"batch_size": 100}), schema, day)
    assert (found["passes"], found["list_ids"], found["step_lists"], found["lookups"]) == (1, 4000, 10, 5000)
    assert terms(load_recipe("dlrm", {"exclude_features": ["tags"]}), schema, day)["list_ids"] == 0


def test_a_softmax_computes_clicked_rows_and_all_pairs_of_a_batch() -> None:
    overrides = {"batch_size": 100, "model": {"user": ["user"], "item": ["item"], "uniform_negatives": 0}}
    few = terms(load_recipe("two_tower", overrides), SCHEMA, workload())
    more = terms(load_recipe("two_tower", overrides | {"batch_size": 1000}), SCHEMA, workload())
    assert more["flops_float32"] - few["flops_float32"] == pytest.approx(6 * 64 * (250 * 250 - 250 * 25))
    assert (few["pairs"], few["step_softmax"]) == (250 * 25, 10), "each clicked row with each item of its batch"
    assert few["lookups"] == 500 and few["values"] == 4000  # the reader decodes what the model does not use


def test_seconds_are_units_times_rates() -> None:
    rates = {"steps": 0.5, "lookups": 0.001}
    prediction = predict(load_recipe("dlrm", {"batch_size": 100}), SCHEMA, workload(), Speed(rates, 0.25, 10**9))
    assert prediction.seconds == pytest.approx(10 * 0.5 + 3000 * 0.001)
    assert next(iter(prediction.terms)) == "steps"
    assert prediction.peak_bytes > 10**9 + sum(prediction.table_bytes.values())


def test_the_parts_of_a_prediction_add_up_and_grow_with_the_work() -> None:
    rates = dict.fromkeys(terms(load_recipe("dlrm"), SCHEMA, workload()), 1e-12) | {"steps": 1e-3}

    def seconds(rows: float = 1000, batch: int = 100, name: str = "dlrm", **model: object) -> float:
        recipe = load_recipe(name, {"batch_size": batch} | ({"model": model} if model else {}))
        found = predict(recipe, SCHEMA, workload().with_rows(rows), Speed(rates))
        assert found.seconds == pytest.approx(sum(found.terms.values()))
        return found.seconds

    assert seconds(2000) == pytest.approx(2 * seconds(), rel=1e-6), "twice as many rows are twice as many steps"
    assert seconds(1) > seconds(100) / 10, "a step has a cost of its own"
    assert seconds(batch=50) > seconds() > seconds(batch=200)
    assert seconds(embedding_dim=32) > seconds()
    assert seconds(name="wide_deep") > seconds(name="deepfm")
    peak = [predict(load_recipe("dlrm"), SCHEMA, workload(rows), Speed({})).peak_bytes for rows in (100, 200)]
    assert peak[0] < peak[1]


def test_a_wide_part_has_a_cost_of_its_own() -> None:
    wide, deep = (terms(load_recipe(name, {"batch_size": 100}), SCHEMA, workload()) for name in ("wide_deep", "deepfm"))
    assert (wide["step_features"], wide["step_wide"]) == (deep["step_features"], 10) and "step_wide" not in deep


def test_comparison_with_a_trained_day() -> None:
    prediction = predict(load_recipe("dlrm", {"batch_size": 100}), SCHEMA, workload(), Speed({"steps": 0.5}, 0.25, 10**9))
    metrics = {"cpu_seconds": 6.0, "table_megabytes": 1.0}
    seconds, tables = compare(prediction, metrics)
    assert (seconds.predicted, seconds.took, seconds.factor, seconds.close) == (5.0, 6.0, pytest.approx(1.2), True)
    assert tables.factor > 1.5 and tables.close  # less than a megabyte
    assert not compare(prediction, metrics | {"table_megabytes": 20.0})[1].close
    started = compare(prediction, metrics, loading_seconds=0.5)[0]
    assert (started.predicted, started.took) == (5.25, 6.5), "the start of a process is part of both or of neither"
    assert len(compare(prediction, metrics, peak_bytes=1e9)) == 3
    assert Comparison("x", 0.0, 1.0).factor == float("inf") and not Comparison("x", 0.0, 1.0).close
