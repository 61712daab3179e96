"""What a run means for its experiment: the suggestion that it tries and the observation that it becomes."""

from __future__ import annotations

from ml.tuning import schema
from ml.tuning.call import Call
from ml.tuning.runs.table import Run


def set_deleted(call: Call, run: Run, *, deleted: bool) -> None:
    """Archive or restore the suggestion and the observation of a run, which the engine then ignores or sees again."""
    for table, key in ((schema.suggestions, run["suggestion"]), (schema.observations, run["observation"])):
        if key is not None:
            call.connection.execute(table.update().where(table.c.id == key).values(deleted=deleted))
