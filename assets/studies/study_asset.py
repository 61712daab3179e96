"""Settings that all studies share, and tables and pictures for their metadata."""

from base64 import b64encode
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import dagster as dg

from assets.policy import OWNERS, TRAINING_POOL
from ml.stages import STUDIES


def study_asset(
    name: str, *, kinds: set[str], description: str, deps: Sequence[Any] = ()
) -> Callable[[Callable[..., dg.MaterializeResult]], dg.AssetsDefinition]:
    """Decorate the function of one study. The asset is materialised on demand."""
    return dg.asset(
        key=[STUDIES, name],
        group_name=STUDIES,
        owners=OWNERS,
        kinds=kinds,
        deps=deps,
        pool=TRAINING_POOL,
        description=description,
    )


def picture(png: bytes) -> dg.MetadataValue:
    """Return a PNG as metadata that the UI shows."""
    return dg.MetadataValue.md(f"![figure](data:image/png;base64,{b64encode(png).decode()})")


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> dg.MetadataValue:
    """Return a table as metadata that the UI shows."""
    lines = [columns, ["---"] * len(columns), *rows]
    return dg.MetadataValue.md("\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines))
