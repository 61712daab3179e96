"""Writes the sketch of a log as a catalog entry with comments."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import yaml

from ml.catalog.reading import Time
from ml.logs.labels import POSITIVE, WORDS
from ml.sketch.columns import Column, SampledLog
from ml.sketch.features import Features, find_features
from ml.sketch.files import FileGroup, find_groups
from ml.sketch.labelled_items import exploded, find_labelled_items
from ml.sketch.layout import FoundSource, NotALog, find_layout
from ml.sketch.object_lists import find_object_list
from ml.sketch.parallel_lists import find_parallel_lists
from ml.sketch.roles import Roles, find_roles
from ml.sketch.sample import sample_columns, with_keys_of_values
from ml.sketch.times import find_days, find_time

POSITION_DAYS = 7  # days of a log without times, as the DLRM reference code divides Criteo's
_WIDTH = 120


@dataclass(frozen=True)
class Sketch:
    """What was found in a folder.

    Attributes:
        name: Name of the dataset.
        found: How the files are read.
        log: A sample of the rows.
        time: Keys of `time`, without its zone; None if no column has times.
        days: The first and the last day.
        whole: Whether all times were read to find them.
        roles: What columns are.
        features: What is learned from.
        others: The other groups of files.
    """

    name: str
    found: FoundSource
    log: SampledLog
    time: dict[str, Any] | None
    days: tuple[date, date]
    whole: bool
    roles: Roles
    features: Features
    others: tuple[FileGroup, ...]


def sketch(folder: Path, name: str, timezone: str = "UTC") -> Sketch:
    """Look at a folder of logs.

    Args:
        folder: A local folder. The largest group of files that can be read is taken for the log.
        name: Name of the dataset.
        timezone: Time zone that defines days.

    Raises:
        FileNotFoundError: The folder has no files that could be logs.
        NotALog: No group of files can be read.
    """
    groups, refused = find_groups(folder), list[str]()
    for group in groups:
        try:
            found = find_layout(group, folder)
            log = sample_columns(found, folder)
            found = replace(found, paths=log.paths, keys={**found.keys, **log.keys})
            break
        except (NotALog, OSError, ValueError) as error:
            refused.append(str(error))
    else:
        raise NotALog("\n".join(refused))
    time, labelled = find_time(log), None
    columns = Time.model_validate({**time, "timezone": timezone}).columns if time else ()
    days, whole = (date(2026, 1, 1), date(2026, 1, 1) + timedelta(days=POSITION_DAYS - 1)), True
    if time:
        first, last, whole = find_days(found, log.types, Time.model_validate({**time, "timezone": timezone}), folder)
        days = (first, last)
        labelled = find_labelled_items(log)
        if labelled:
            log, found = exploded(log, labelled), replace(found, keys=found.keys | labelled.keys)
        elif parallel := find_parallel_lists(log):
            log, found = parallel.exploded(log), replace(found, keys=found.keys | parallel.keys(log))
        elif objects := find_object_list(log, find_roles(log, columns, found.invented), found.keys["format"] != "parquet"):
            log = with_keys_of_values(objects.exploded(log))
            found = replace(found, keys={**found.keys, **log.keys, **objects.keys}, paths=log.paths)
    roles = find_roles(log, columns, found.invented)
    features = find_features(log, roles, columns, labelled.histories if labelled else ())
    others = tuple(one for one in groups if one is not group)
    return Sketch(name, found, log, time, days, whole, roles, features, others)


def entry_text(found: Sketch, folder: Path, timezone: str = "UTC") -> str:
    """Write a sketch as the text of a catalog entry.

    Args:
        found: The sketch.
        folder: The folder of the logs, which the entry names in a comment.
        timezone: Time zone that defines days.
    """
    lines = [
        f"# A first entry for the logs in {folder.name}/, sketched from a sample of {_rows(found.log):,} rows.",
        "# Read the comments, correct what is wrong, and run: make demo DATASET=" + found.name + " LOGS=<folder>",
        f"name: {found.name}",
        f"description: {_flow(f'Rows of {found.found.group.pattern}.')}",
        "source:",
        *_source(found),
        *_time(found, timezone),
        *_roles(found),
    ]
    for key, features in (("dense", found.features.dense), ("sparse", found.features.sparse)):
        lines += [f"{key}:" if features else f"{key}: []", *(f"  - {_flow(one)}" for one in features)]
    for name, why in found.features.left_out.items():
        lines.append(f"# {name} is no feature: it {why}.")
    days = (found.days[1] - found.days[0]).days + 1
    lines += [f"demo_days: {min(days, 4)}"] if days > 1 else []
    return "\n".join(lines) + "\n"


def _rows(log: SampledLog) -> int:
    return max((column.rows for column in log.columns), default=0)


def _flow(value: Any) -> str:
    """A value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000, allow_unicode=True).strip()
    return text.removesuffix("...").strip()


def _source(found: Sketch) -> list[str]:
    entry = found.found.entry(found.log.types)
    entry |= {"null_tokens": ["", *found.log.null_tokens]} if found.log.null_tokens else {}
    columns, lines = entry.pop("columns"), list[str]()
    for key, value in entry.items():
        counted = "members" if found.found.group.members is not None else "files"
        why = (
            f"{found.found.group.count:,} files" if key == counted and found.found.group.count > 1 else found.log.notes.get(key)
        )
        more = f"   # {why}" if why else ""
        lines.append(f"  {key}: {_flow(value)}{more}")
    lines.append("  columns:" + ("   # the files have no names; give the columns better ones" if found.found.invented else ""))
    return lines + [f"    {_flow(name)}: {kind}{_comment(found.log[name])}" for name, kind in columns.items()]


def _comment(column: Column) -> str:
    first = list(dict.fromkeys(column.values))[:3]
    # Characters that YAML cannot hold are escaped.
    shown = ", ".join(json.dumps(value, ensure_ascii=not str(value).isprintable())[:24] for value in first)
    missing = f"; {column.missing:.0%} missing" if column.missing >= 0.005 else ""
    return f"   # {column.distinct:,} values, such as {shown}{missing}"[:_WIDTH] if shown else "   # always missing"


def _time(found: Sketch, timezone: str) -> list[str]:
    first, last = found.days
    partitions = f"partitions: {{start: {first}, end: {last}}}"
    if found.time is None:
        return [
            "# No column has times, so the lines are divided into equal days, in their order. The dates only name these days.",
            "time: {by_position: true}",
            partitions,
        ]
    why = "   # without `end` the log is live" if found.whole else "   # from the first and the last file; correct them"
    zone = "   # the zone whose midnights begin the days" if timezone == "UTC" else ""
    return [f"time: {_flow({**found.time, 'timezone': timezone})}{zone}", partitions + why]


def _roles(found: Sketch) -> list[str]:
    roles, lines = found.roles, list[str]()
    guess = "   # a guess: the files have no names" if found.found.invented else ""
    for key, column in (("user", roles.user), ("item", roles.item)):
        lines.append(
            f"{key}: {_flow(column)}{guess}" if column else f"# {key}: <column>   # none was recognised; rankings need it"
        )
    if roles.session and found.time:
        lines.append(f"session: {{column: {_flow(roles.session)}}}")
    if roles.label:
        lines.append(f"label: {_flow(roles.label)}{_positives(found.log[roles.label['column']], roles.label)}")
    elif roles.never_positive:
        value = _flow(found.log[roles.never_positive].values[0])
        lines += [
            f"# {roles.never_positive} looks like the label, but all rows of the sample have {value}.",
            f"# Write `label: {{column: {_flow(roles.never_positive)}, is: [<value>]}}` with the values that are positive.",
            "label: {column: <column>}",
        ]
    elif roles.user and roles.item and found.time:
        lines += [
            "# No column looks like a label, so every row is taken for a positive, and negatives are drawn from recent items.",
            "# If there is a label, write `label: {column: <column>}` in its place.",
            "label: {negatives: {per_positive: 4, window_hours: 24}}",
        ]
    else:
        lines.append("label: {column: <column>}   # no column looks like a label; give the name of one")
    for column in roles.outcomes:
        lines.append(f"# labels: {{{_flow(column)}: {{}}}}   # predicts this column too")
    return lines


def _positives(column: Column, label: Mapping[str, Any]) -> str:
    if "is" in label:
        positive = [value in label["is"] for value in column.values]
    elif column.kind == "string":
        positive = [value.lower() in WORDS[POSITIVE] for value in column.values]
    else:
        positive = [value >= label.get("at_least", 1) for value in column.values]
    return f"   # {sum(positive) / max(len(positive), 1):.1%} of the sample is positive"
