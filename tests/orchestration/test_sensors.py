"""The landing sensor requests the earliest day that has arrived or changed, one at a time, and nothing else."""

from pathlib import Path

import dagster as dg
import pytest

from assets.resources import LakeResource, LandingResource
from ml.catalog.spec import DatasetSpec, Simulation
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


def test_the_lag_of_models_is_reported_when_it_changes(spec: DatasetSpec, tmp_path: Path):
    lake, landing = Lake.at(tmp_path / "home"), tmp_path / "landing"
    (landing / spec.name).mkdir(parents=True)
    resources = {"lake": LakeResource(root=str(lake.root)), "landing": LandingResource(root=str(landing))}
    definitions = build_defs([spec], resources)
    sensor = definitions.resolve_sensor_def(f"{spec.name}_landing")
    cursor = None

    def told() -> list[object]:
        nonlocal cursor
        with dg.DagsterInstance.ephemeral() as instance:
            context = dg.build_sensor_context(instance=instance, definitions=definitions, resources=resources, cursor=cursor)
            tick = sensor.evaluate_tick(context)
        cursor = tick.cursor
        return [(event.passed, event.metadata["lag_days"].value) for event in tick.asset_events]

    assert told() == []
    write_day(spec.log, DAYS[0], landing / spec.name)
    assert told() == [(False, "no model yet")]
    assert told() == []
    with lake.write("tuned_models/dlrm", spec.name, DAYS[0]) as staging:
        lake.write_manifest(staging, {})
    assert told() == [(True, 0)]
    write_day(spec.log, "2026-01-03", landing / spec.name)
    assert told() == [(False, 2)]
    assert told() == []
