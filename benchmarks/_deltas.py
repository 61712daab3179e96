"""Records deltas of a model, and then publishes one each second, in a process of its own, until it is terminated.

The arguments are the dataset, the model, the rows of a delta, and the number of deltas. The model continues from the last
trained day on the rows of that day, for their volume alone: they are trained on a second time, and the deltas are dated after
the day, so that a service applies them. Packages go to the sync folder, which `EVERGREEN_SYNC` names. They are recorded
beforehand because a trainer usually has a machine of its own: here it would take one of the two cores from the service that is
measured. The first line on standard output says that recording has ended, and the next ones are the published versions.
"""

from __future__ import annotations

import itertools
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import partial

from upath import UPath

from ml.artifacts.bundle import vocabulary_file, write_inputs
from ml.catalog.load import load_catalog
from ml.datasets.reader import BlockReader
from ml.days import day_bounds
from ml.lake import Lake
from ml.recipes.online import SyncRecipe
from ml.stages import CLEANED_FEATURES, tuned_models
from ml.sync.folder import SyncFolder, sync_folder
from ml.sync.manifest import Kind, PackageManifest
from ml.sync.publisher import Publisher
from ml.training.loop import train_step
from ml.training.state_dict import load_snapshot
from orchestration.deployments import lake_root, sync_root

RUN = "load"


def main(dataset: str, model: str, rows: int, count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        recorded = SyncFolder.at(folder)
        _record(recorded, dataset, model, rows, count)
        print("recorded", flush=True)
        _replay(recorded, sync_folder(sync_root(), dataset, model))


def _record(folder: SyncFolder, dataset: str, model: str, rows: int, count: int) -> None:
    spec, lake = load_catalog()[dataset], Lake.at(lake_root())
    day = lake.days(tuned_models(model), dataset)[-1]
    state = load_snapshot(lake.partition(tuned_models(model), dataset, day))
    words = [column.name for column in spec.sparse if column.vocabulary]
    states = {name: lake.partition(CLEANED_FEATURES, dataset, day) / vocabulary_file(name) for name in words}
    recipe = state.recipe
    reader = BlockReader(lake, spec, [day], splits=recipe.splits, batch_size=recipe.batch_size, order="time")
    inputs = partial(write_inputs, spec=spec, states=states)
    publisher = Publisher(folder, state, inputs, dataset=dataset, model=model, run_id=RUN, recipe=SyncRecipe())
    end = day_bounds(day, spec.zone)[1]
    state.begin_pass()
    publisher.snapshot(end)
    parts = itertools.chain.from_iterable(reader.slices(rows=rows) for _ in itertools.count())
    for second, part in enumerate(itertools.islice(parts, count)):
        for batch in part:
            train_step(state, batch, total_steps=len(part))
        publisher.publish((end + second * 1_000_000, end + (second + 1) * 1_000_000))


def _replay(recorded: SyncFolder, folder: SyncFolder) -> None:
    due = time.monotonic()
    for kind in ("snapshot", "delta"):
        for version in recorded.versions(RUN, kind):
            time.sleep(max(0.0, due - time.monotonic()))
            manifest = recorded.manifest(RUN, kind, version)

            def copy(staging: UPath, manifest: PackageManifest = manifest, kind: Kind = kind) -> Mapping[str, str]:
                shutil.copytree(str(recorded.package(RUN, kind, manifest.version)), str(staging), dirs_exist_ok=True)
                return manifest.files

            folder.publish(manifest.model_copy(update={"published_at": time.time()}), copy)
            print(manifest.version, flush=True)
            due = max(due + 1.0, time.monotonic())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
