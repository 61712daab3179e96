"""Single faults of a catalog entry against its files, drawn at random, and the list of all faults.

A mutation that reads the same rows is no fault and is never drawn: an id that is read as text, a flag that is read as 0 and 1.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from copy import deepcopy
from datetime import date
from pathlib import Path
from typing import Any

from tests.helpers.file_faults import other_files, other_parquet
from tests.helpers.small_logs import Entry

Fault = Callable[[Entry, Path, random.Random], str | None]
"""Changes an entry or its files in place, and returns what it did; None if it does not apply."""


def sources(entry: Entry) -> list[Entry]:
    return [entry["source"], *(side["source"] for side in entry.get("join", []))]


def used(entry: Entry) -> set[str]:
    """Columns that anything refers to."""
    found = {entry.get("user"), entry.get("item"), entry["label"].get("column"), entry["time"].get("column")}
    found |= {feature if isinstance(feature, str) else feature.get("column", feature["name"]) for feature in entry["sparse"]}
    found |= {feature["name"] for feature in entry["dense"]}
    for side in entry.get("join", []):
        found |= {side["log_key"], side["table_key"], *side["columns"]}
    return {name for name in found if name}


def renamed(value: Any, old: str, new: str) -> Any:
    """An entry with a column's name replaced everywhere but in the files' own names."""
    if isinstance(value, dict):
        return {new if key == old else key: renamed(part, old, new) for key, part in value.items()}
    if isinstance(value, list):
        return [renamed(part, old, new) for part in value]
    return new if value == old else value


def wrong_name(entry: Entry, folder: Path, draw: random.Random) -> str | None:
    source = draw.choice(sources(entry))
    free = [name for name in source["columns"] if name not in source.get("rename", {}).values()]
    if not free or not (source.get("header") or source["format"] in ("jsonl", "parquet")):
        return None
    name = draw.choice(free)
    wrong = draw.choice((name + "_", name[:-1] + "x" if len(name) > 1 else name + "x", name.upper() + "S"))
    changed = renamed(entry, name, wrong)
    entry.clear()
    entry.update(changed)
    return f"{name} is declared as {wrong}"


def wrong_rename(entry: Entry, folder: Path, draw: random.Random) -> str | None:
    source = draw.choice(sources(entry))
    if not (source.get("header") or source["format"] in ("jsonl", "parquet")):
        return None
    rename = source.setdefault("rename", {})
    if rename and draw.random() < 0.5:
        old = draw.choice(list(rename))
        rename[old + "s"] = rename.pop(old)
        return f"rename of {old} is misspelt"
    free = [name for name in source["columns"] if name not in rename.values()]
    if not free:
        return None
    name = draw.choice(free)
    rename[f"original_{name}"] = name
    return f"{name} is renamed from a name that is not there"


def wrong_type(entry: Entry, folder: Path, draw: random.Random) -> str | None:
    number = draw.randrange(len(sources(entry)))
    source = sources(entry)[number]
    name, kind = draw.choice(list(source["columns"].items()))
    textual = source["format"] in ("csv", "tsv")
    other = draw.choice([k for k in ("int", "float", "string", "bool") if k != kind])
    flags = {"label", "bought", "accepted"}
    digits = {"offer", "code"}  # text of digits is the same ids as int
    same = (
        (kind == "int" and other == "string" and textual)
        or (kind == "float" and other == "string" and textual)
        or (name in flags and other == "bool")
        or (kind == "bool" and other == "int")
        or (kind == "int" and other == "float" and (name not in used(entry) or source["format"] == "parquet"))
        or (kind == "int" and other == "float" and name in {d["name"] for d in entry["dense"]})
        or (kind == "int" and other == "float" and name in ("rating", *flags))
        or (name in digits and other in ("int", "float", "string"))
        or name in ("note", "empty")  # a column without values has every type
    )
    if same:
        return None
    source["columns"][name] = other
    return f"{name} is declared {other} instead of {kind}"


def wrong_unit(entry: Entry, folder: Path, draw: random.Random) -> str | None:
    unit = entry["time"].get("unit")
    if unit is None:
        return None
    other = draw.choice([u for u in ("s", "ms", "us", "ns", "iso8601") if u != unit])
    entry["time"]["unit"] = other
    if draw.random() < 0.3 and (unit == "iso8601") != (other == "iso8601"):  # with the type that the unit needs
        entry["source"]["columns"][entry["time"]["column"]] = "string" if other == "iso8601" else "int"
    return f"unit {other} instead of {unit}"


def wrong_time_column(entry: Entry, folder: Path, draw: random.Random) -> str | None:
    column = entry["time"].get("column")
    others = [name for name in entry["source"]["columns"] if name not in (column, "session")]
    if column is None:
        return None
    entry["time"]["column"] = draw.choice(others)
    return f"time.column is {entry['time']['column']}"


def wrong_year(entry: Entry, folder: Path, draw: random.Random) -> str | None:
    if entry["time"].get("by_position"):
        return None
    years = draw.choice((-100, -10, -1, 1, 3, 20))
    for end in ("start", "end"):
        day = date.fromisoformat(entry["partitions"][end])
        entry["partitions"][end] = day.replace(year=day.year + years).isoformat()
    return f"partitions are {years} years off"


def wrong_month(entry: Entry, folder: Path, draw: random.Random) -> str | None:
    if entry["time"].get("by_position"):
        return None
    months = draw.choice((-5, -2, 2, 4))
    for end in ("start", "end"):
        day = date.fromisoformat(entry["partitions"][end])
        month = (day.month - 1 + months) % 12 + 1
        entry["partitions"][end] = day.replace(month=month, year=day.year + (day.month - 1 + months) // 12).isoformat()
    return f"partitions are {months} months off"


def early_start(entry: Entry, folder: Path, draw: random.Random) -> str | None:
    if entry["time"].get("by_position") or "%" in entry["source"]["files"]:
        return None
    day = date.fromisoformat(entry["partitions"]["start"])
    entry["partitions"]["start"] = date.fromordinal(day.toordinal() - draw.randrange(5, 400)).isoformat()
    return "partitions begin before the log"


def late_end(entry: Entry, folder: Path, draw: random.Random) -> str | None:
    if entry["time"].get("by_position") or "%" in entry["source"]["files"]:
        return None
    day = date.fromisoformat(entry["partitions"]["end"])
    entry["partitions"]["end"] = date.fromordinal(day.toordinal() + draw.randrange(5, 400)).isoformat()
    return "partitions end after the log"


def wrong_zone(entry: Entry, folder: Path, draw: random.Random) -> str | None:
    if "%" not in entry["source"]["files"] or (entry["time"]["unit"] == "iso8601" and entry["name"] == "bank"):
        return None  # times without an offset are in the zone that is declared
    entry["time"]["timezone"] = draw.choice(("Asia/Tokyo", "America/Los_Angeles", "Pacific/Auckland"))
    return "another time zone"


def wrong_separator(entry: Entry, folder: Path, draw: random.Random) -> str | None:
    source = draw.choice(sources(entry))
    if source["format"] not in ("csv", "tsv"):
        return None
    now = source.get("separator", "," if source["format"] == "csv" else "\t")
    source["separator"] = draw.choice([s for s in ",;|\t:" if s != now])
    return f"separator {source['separator']!r} instead of {now!r}"


def wrong_encoding(entry: Entry, folder: Path, draw: random.Random) -> str | None:
    if entry["name"] != "bank":  # the others are ASCII, which every encoding reads alike
        return None
    entry["source"]["encoding"] = "utf-8"
    return "utf-8 instead of latin-1"


def wrong_header(entry: Entry, folder: Path, draw: random.Random) -> str | None:
    source = draw.choice(sources(entry))
    if source["format"] not in ("csv", "tsv"):
        return None
    source["header"] = not source.get("header", False)
    return f"header: {source['header']}"


def wrong_quotes(entry: Entry, folder: Path, draw: random.Random) -> str | None:
    if not entry["source"].pop("quoted", None):
        return None
    return "quoted fields are not declared"


def wrong_fields(entry: Entry, folder: Path, draw: random.Random) -> str | None:
    source = draw.choice(sources(entry))
    if source["format"] not in ("csv", "tsv") or source.get("header"):
        return None
    columns = list(source["columns"].items())
    if draw.random() < 0.5:
        columns.insert(draw.randrange(len(columns) + 1), ("extra", "string"))
        source["columns"] = dict(columns)
        return "a column too many"
    unused = [name for name, _ in columns if name not in used(entry)]
    if not unused:
        return None
    del source["columns"][draw.choice(unused)]
    return "a column too few"


def wrong_order(entry: Entry, folder: Path, draw: random.Random) -> str | None:
    """Two columns of a file without a header are exchanged."""
    source = draw.choice(sources(entry))
    if source["format"] not in ("csv", "tsv") or source.get("header"):
        return None
    columns = list(source["columns"].items())
    a, b = draw.sample(range(len(columns)), 2)
    moved = {columns[a][0], columns[b][0]}
    if columns[a][1] == columns[b][1] and not moved & {"label", "timestamp"}:
        return None  # which of two columns of a type is which cannot be seen
    columns[a], columns[b] = columns[b], columns[a]
    source["columns"] = dict(columns)
    return f"{sorted(moved)} are exchanged"


def wrong_files(entry: Entry, folder: Path, draw: random.Random) -> str | None:
    source = draw.choice(sources(entry))
    if "members" in source and draw.random() < 0.7:
        source["members"] = draw.choice(("*.tsv", "hour_*.csv", "clicks/*.txt"))
        return f"members {source['members']}"
    source["files"] = draw.choice(("nothing-*.csv", "data/*.csv", "log.csv", source["files"] + ".zst"))
    return f"files {source['files']}"


def wrong_format(entry: Entry, folder: Path, draw: random.Random) -> str | None:
    source = draw.choice(sources(entry))
    now = source["format"]
    source["format"] = draw.choice([f for f in ("csv", "tsv", "jsonl", "parquet") if f != now])
    if source["format"] in ("csv", "tsv") and now in ("csv", "tsv") and "separator" in source:
        return None  # the separator is given
    if source["format"] in ("jsonl", "parquet"):
        source.pop("separator", None)
        source.pop("quoted", None)
    return f"format {source['format']} instead of {now}"


def wrong_label(entry: Entry, folder: Path, draw: random.Random) -> str | None:
    label = entry["label"]
    if "negatives" in label:
        return None
    if "at_least" in label:
        choice = draw.randrange(3)
        if choice == 0:
            del label["at_least"]
            return "no threshold"
        label["at_least"] = (350.0, -1.0)[choice - 1]
        return f"threshold {label['at_least']}"
    if draw.random() < 0.3:
        label["at_least"] = draw.choice((2.0, 3.5, -1.0))
        return f"threshold {label['at_least']} of a column of 0 and 1"
    numbers = [name for name, kind in entry["source"]["columns"].items() if kind != "string" and name != label["column"]]
    label["column"] = draw.choice([name for name in numbers if name not in ("note",)])
    entry["sparse"] = [feature for feature in entry["sparse"] if feature != label["column"]] or entry["sparse"]
    entry["dense"] = [feature for feature in entry["dense"] if feature["name"] != label["column"]]
    return f"label {label['column']}"


def wrong_join_key(entry: Entry, folder: Path, draw: random.Random) -> str | None:
    if not entry.get("join"):
        return None
    side = draw.choice(entry["join"])
    if draw.random() < 0.5:
        kind = entry["source"]["columns"][side["log_key"]]
        others = [n for n, k in entry["source"]["columns"].items() if n != side["log_key"] and k == kind]
        if not others:
            return None
        side["log_key"] = draw.choice(others)
        return f"log_key {side['log_key']}"
    others = [name for name in side["source"]["columns"] if name not in (side["table_key"], "rank")]
    side["table_key"] = draw.choice(others)
    return f"table_key {side['table_key']}"


def wrong_nulls(entry: Entry, folder: Path, draw: random.Random) -> str | None:
    if "null_tokens" not in entry["source"]:
        return None
    entry["source"]["null_tokens"] = draw.choice(([""], ["", "NULL"]))
    return "NA is not declared"


def wrong_split(entry: Entry, folder: Path, draw: random.Random) -> str | None:
    for feature in entry["sparse"]:
        if isinstance(feature, dict) and "split" in feature:
            feature["split"] = draw.choice([s for s in "|;/" if s != feature["split"]])
            return f"split {feature['split']!r}"
    return None


def useless_column(entry: Entry, folder: Path, draw: random.Random) -> str | None:
    if entry["name"] == "tracker":
        if draw.random() < 0.5:
            entry["dense"].append({"name": "empty"})
            return "a dense feature without values"
        entry[draw.choice(("user", "item"))] = "site"
        return "a constant user or item"
    if entry["name"] == "shop":
        entry["sparse"].append("note")
        return "a sparse feature without values"
    return None


FAULTS: list[Fault] = [
    wrong_name,
    wrong_rename,
    wrong_type,
    wrong_unit,
    wrong_time_column,
    wrong_year,
    wrong_month,
    early_start,
    late_end,
    wrong_zone,
    wrong_separator,
    wrong_encoding,
    wrong_header,
    wrong_quotes,
    wrong_fields,
    wrong_order,
    wrong_files,
    wrong_format,
    wrong_label,
    wrong_join_key,
    wrong_nulls,
    wrong_split,
    useless_column,
    other_files,
    other_parquet,
]


def faulty(entry: Entry, folder: Path, fault: Fault, draw: random.Random, tries: int = 8) -> tuple[Entry, str] | None:
    """A copy of an entry with one fault of a kind, and what it is; None if none applies in some tries."""
    for _ in range(tries):
        changed = deepcopy(entry)
        if (what := fault(changed, folder, draw)) is not None:
            return changed, what
    return None
