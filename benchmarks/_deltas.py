"""Publishes a delta of a model each second, in a process of its own, until it is terminated.

The arguments are the dataset, the model, and the rows of a delta. The model continues from the last trained day on the rows of
that day, for their volume alone: they are trained on a second time, and the deltas are dated after the day, so that a service
applies them. Packages go to the sync folder, which `EVERGREEN_SYNC` names.
"""

from __future__ import annotations

import itertools
import sys
import time
from functools import partial

from ml.artifacts.bundle import vocabulary_file, write_inputs
from ml.catalog.load import load_catalog
from ml.datasets.reader import BlockReader
from ml.days import day_bounds
from ml.lake import Lake
from ml.recipes.online import SyncRecipe
from ml.stages import CLEANED_FEATURES, tuned_models
from ml.sync.folder import sync_folder
from ml.sync.publisher import Publisher
from ml.training.loop import train_step
from ml.training.state_dict import load_snapshot
from orchestration.deployments import lake_root, sync_root


def main(dataset: str, model: str, rows: int) -> None:
    spec, lake = load_catalog()[dataset], Lake.at(lake_root())
    day = lake.days(tuned_models(model), dataset)[-1]
    state = load_snapshot(lake.partition(tuned_models(model), dataset, day))
    words = [column.name for column in spec.sparse if column.vocabulary]
    states = {name: lake.partition(CLEANED_FEATURES, dataset, day) / vocabulary_file(name) for name in words}
    recipe = state.recipe
    reader = BlockReader(lake, spec, [day], splits=recipe.splits, batch_size=recipe.batch_size, order="time")
    folder, inputs = sync_folder(sync_root(), dataset, model), partial(write_inputs, spec=spec, states=states)
    publisher = Publisher(folder, state, inputs, dataset=dataset, model=model, run_id="load", recipe=SyncRecipe())
    end = day_bounds(day, spec.zone)[1]
    state.begin_pass()
    publisher.snapshot(end)
    due = time.monotonic()
    for second, part in enumerate(itertools.chain.from_iterable(reader.slices(rows=rows) for _ in itertools.count())):
        for batch in part:
            train_step(state, batch, total_steps=len(part))
        publisher.publish((end + second * 1_000_000, end + (second + 1) * 1_000_000))
        print(publisher.version, flush=True)
        due = max(due + 1.0, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
