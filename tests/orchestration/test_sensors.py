"""The landing sensor requests the earliest day that has arrived or changed, one at a time, and nothing else."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets.progress import run_fingerprint
from assets.resources import LakeResource, LandingResource
from ml.catalog.load import load_dataset
from ml.catalog.spec import Band, DatasetSpec, Simulation
from ml.compute.runner import LocalRunner
from ml.lake import Lake
from ml.logs.ingest import ingest_day
from ml.logs.synthetic.simulate import write_day
from ml.stages import stages_of
from orchestration.definitions import build_defs
from orchestration.jobs import job_name

DAYS = ["2026-01-01", "2026-01-02"]


@pytest.fixture
def spec(catalog: dict[str, DatasetSpec]) -> DatasetSpec:
    small = Simulation(impressions_per_day=500, users=50, items=20)
    return catalog["synthetic"].model_copy(update={"simulation": small})


def test_a_day_is_requested_when_its_file_arrives_or_changes(spec: DatasetSpec, tmp_path: Path):
    lake, folder = Lake.at(tmp_path / "home"), tmp_path / "landing" / spec.name
    folder.mkdir(parents=True)
    resources = {
        "lake": LakeResource(root=str(lake.root)),
        "landing": LandingResource(root=str(tmp_path / "landing")),
    }
    definitions = build_defs([spec], resources)
    sensor = definitions.resolve_sensor_def(f"{spec.name}_landing")

    with dg.DagsterInstance.ephemeral() as instance:

        def finish(day: str) -> None:
            """Write the raw logs, and manifests of the later stages, of which the sensor reads nothing else."""
            ingest_day(spec.log, day, str(folder), lake, LocalRunner())
            assert [asked_for for asked_for, _ in asked()] == [day]  # a day is not done with its raw logs
            for stage in stages_of(spec):
                if stage != "raw_logs":
                    with lake.write(stage, spec.name, day) as staging:
                        lake.write_manifest(staging, {"fingerprint": spec.fingerprint})

        def asked() -> list[tuple[str | None, str | None]]:
            context = dg.build_sensor_context(instance=instance, definitions=definitions, resources=resources)
            requests = sensor.evaluate_tick(context).run_requests or []
            return [(request.partition_key, request.run_key) for request in requests]

        assert asked() == []
        for day in DAYS:
            write_day(spec.log, day, folder)
        [(first, key)] = asked()
        assert first == DAYS[0]
        assert asked() == [(first, key)]  # the same key: Dagster runs it once
        finish(DAYS[0])
        assert [day for day, _ in asked()] == [DAYS[1]]
        finish(DAYS[1])
        assert asked() == []

        path = folder / f"{DAYS[0]}.csv"
        path.write_bytes(path.read_bytes() + path.read_bytes().splitlines(keepends=True)[-1])
        [(again, other)] = asked()
        assert again == DAYS[0] and other != key

        job = definitions.resolve_job_def(job_name(spec))
        instance.create_run_for_job(job, tags={"dagster/partition": DAYS[0]}, status=dg.DagsterRunStatus.STARTED)
        assert asked() == []  # one run of a dataset at a time


def test_a_failed_day_is_named_until_something_of_it_changes(spec: DatasetSpec, tmp_path: Path):
    lake, landing = Lake.at(tmp_path / "home"), tmp_path / "landing"
    (landing / spec.name).mkdir(parents=True)
    for day in DAYS:
        write_day(spec.log, day, landing / spec.name)

    def tick(of: DatasetSpec):
        resources = {"lake": LakeResource(root=str(lake.root)), "landing": LandingResource(root=str(landing))}
        definitions = build_defs([of], resources)
        context = dg.build_sensor_context(instance=instance, definitions=definitions, resources=resources)
        return definitions, definitions.resolve_sensor_def(f"{of.name}_landing").evaluate_tick(context)

    with dg.DagsterInstance.ephemeral() as instance:
        definitions, first = tick(spec)
        [request] = first.run_requests or []
        job, status = definitions.resolve_job_def(job_name(spec)), dg.DagsterRunStatus.FAILURE
        run = instance.create_run_for_job(job, tags=request.tags, status=status)
        _, blocked = tick(spec)
        assert not blocked.run_requests and run.run_id in blocked.skip_message and DAYS[0] in blocked.skip_message

        changed = spec.model_copy(update={"user": None})
        _, again = tick(changed)
        [other] = again.run_requests or []
        assert other.partition_key == DAYS[0] and other.run_key != request.run_key

        # The run succeeded, but the day is not in the lake. Dagster would ignore a run key that it has seen before.
        instance.create_run_for_job(job, tags=other.tags, status=dg.DagsterRunStatus.SUCCESS)
        _, gone = tick(changed)
        [third] = gone.run_requests or []
        assert third.partition_key == DAYS[0] and third.run_key not in (request.run_key, other.run_key)


CHANGES: dict[str, dict[str, Any]] = {
    "expectations": {"expectations": {"label_rate": {"min": 0.5}}},
    "a severity": {"expectations": {"quarantine_rate": {"max": 0.01, "severity": "warning"}}},
    "recipe": {"recipe": {"overrides": {"batch_size": 512}}},
    "models": {"models": {"dlrm": {}, "dcn_v2": {}}},
    "overrides of one model": {"models": {"dlrm": {"overrides": {"export": {"max_auc_loss": 0.01}}}}},
    "slices": {"slices": ["country"]},
    "splits": {"splits": {"test": 0.2}},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_failed_day_is_asked_for_again_after_a_change_that_can_decide(
    change: dict[str, Any], spec: DatasetSpec, tmp_path: Path
):
    entry = spec.model_dump(mode="json", exclude_unset=True)
    before, after = DatasetSpec.model_validate(entry), DatasetSpec.model_validate(entry | change)
    assert run_fingerprint(before, str(tmp_path)) != run_fingerprint(after, str(tmp_path))
    described = before.model_copy(update={"description": "Other words."})
    assert run_fingerprint(before, str(tmp_path)) == run_fingerprint(described, str(tmp_path))


def test_a_failed_day_is_asked_for_again_after_a_recipe_or_side_table_changes(tmp_path: Path):
    (tmp_path / "recipes").mkdir()
    recipe, items = tmp_path / "recipes" / "own.yaml", tmp_path / "items.csv"
    recipe.write_text("extends: dlrm\nbatch_size: 512\n")
    path = tmp_path / "shop.yaml"
    path.write_text(
        "name: shop\ndescription: Clicks.\n"
        "source: {files: log.csv, format: csv, columns: {time: int, item: int, clicked: int}}\n"
        "time: {column: time}\npartitions: {start: 2026-01-01, end: 2026-01-02}\nlabel: {column: clicked}\n"
        "sparse: [item, brand]\nmodels: {own: {}}\n"
        "join: [{log_key: item, table_key: id, columns: [brand], source: {files: items.csv, format: csv, "
        "columns: {id: int, brand: string}}}]\n"
    )
    found = {run_fingerprint(load_dataset(path), str(tmp_path))}  # the side table has not arrived
    items.write_text("1,Acme\n")
    found.add(run_fingerprint(load_dataset(path), str(tmp_path)))
    items.write_text("1,Acme\n2,Globex\n")
    found.add(run_fingerprint(load_dataset(path), str(tmp_path)))
    recipe.write_text("extends: dlrm\nbatch_size: 256\n")
    found.add(run_fingerprint(load_dataset(path), str(tmp_path)))
    (tmp_path / "recipes" / "shop").mkdir()
    (tmp_path / "recipes" / "shop" / "own.yaml").write_text("sigopt: {observation_budget: 3}")
    found.add(run_fingerprint(load_dataset(path), str(tmp_path)))
    assert len(found) == 5


def test_the_sensor_asks_again_after_the_expectations_changed(spec: DatasetSpec, tmp_path: Path):
    landing = tmp_path / "landing"
    (landing / spec.name).mkdir(parents=True)
    write_day(spec.log, DAYS[0], landing / spec.name)
    resources = {
        "lake": LakeResource(root=str(tmp_path / "home")),
        "landing": LandingResource(root=str(landing)),
    }
    softened = spec.expectations.model_copy(update={"label_rate": Band(min=0.0, max=1.0)})
    with dg.DagsterInstance.ephemeral() as instance:

        def tick(of: DatasetSpec):
            definitions = build_defs([of], resources)
            context = dg.build_sensor_context(instance=instance, definitions=definitions, resources=resources)
            return definitions, definitions.resolve_sensor_def(f"{of.name}_landing").evaluate_tick(context)

        definitions, first = tick(spec)
        job = definitions.resolve_job_def(job_name(spec))
        instance.create_run_for_job(job, tags=first.run_requests[0].tags, status=dg.DagsterRunStatus.FAILURE)
        _, blocked = tick(spec)
        assert not blocked.run_requests and "catalog entry or a recipe changes" in blocked.skip_message
        _, again = tick(spec.model_copy(update={"expectations": softened}))
        assert [request.partition_key for request in again.run_requests] == DAYS[:1]


def test_the_lag_of_models_is_reported_when_it_changes(spec: DatasetSpec, tmp_path: Path):
    lake, landing = Lake.at(tmp_path / "home"), tmp_path / "landing"
    (landing / spec.name).mkdir(parents=True)
    resources = {"lake": LakeResource(root=str(lake.root)), "landing": LandingResource(root=str(landing))}
    definitions = build_defs([spec], resources)
    sensor = definitions.resolve_sensor_def(f"{spec.name}_landing")
    cursor = None

    def evaluations() -> list[object]:
        nonlocal cursor
        with dg.DagsterInstance.ephemeral() as instance:
            context = dg.build_sensor_context(instance=instance, definitions=definitions, resources=resources, cursor=cursor)
            tick = sensor.evaluate_tick(context)
        cursor = tick.cursor
        return [(event.passed, event.metadata["lag_days"].value) for event in tick.asset_events]

    assert evaluations() == []
    write_day(spec.log, DAYS[0], landing / spec.name)
    assert evaluations() == [(False, "no model yet")]
    assert evaluations() == []
    with lake.write("tuned_models/dlrm", spec.name, DAYS[0]) as staging:
        lake.write_manifest(staging, {})
    assert evaluations() == [(True, 0)]
    write_day(spec.log, "2026-01-03", landing / spec.name)
    assert evaluations() == [(False, 2)]
    assert evaluations() == []
