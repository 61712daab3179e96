"""Samples a log, and finds its columns and the keys of `source` that say how its values are written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ml.logs.row_shape import path_values
from ml.preflight.malformed import UNREADABLE_NULLS
from ml.preflight.sample import Sample, read_sample
from ml.sketch.columns import Column, SampledLog, column_of_texts, column_of_values
from ml.sketch.layout import FoundSource
from ml.sketch.object_columns import columns_of_objects
from ml.sketch.parquet_types import parquet_types
from ml.sketch.struct_lists import columns_of_struct_lists
from ml.sketch.written import has_negative, kind_of, padded

_NAN = "NaN"


def sample_columns(found: FoundSource, folder: Path) -> SampledLog:
    """Read a sample of up to 15,000 rows and find the types of the columns.

    Args:
        found: How the files are read.
        folder: The folder of the logs.

    Raises:
        ValueError: The sample has no rows.
    """
    log = _of_files(found, folder)
    if not (names := [name for name in found.group.path_columns if name not in {column.name for column in log.columns}]):
        return log
    source = replace(found, keys={**found.keys, "path_columns": names}).source(dict.fromkeys((*found.names, *names), "string"))
    # Each file counts twice: it has several rows, so that a value that no other file has is not the key of a row.
    values = [path_values(source, file.name) for file in found.files(folder)] * 2
    texts = {name: [of[name].as_py() or "" for of in values] for name in names}
    columns = [column_of_texts(name, of, ("",)) for name, of in texts.items()]
    keys, notes = {**log.keys, "path_columns": names}, {**log.notes, "path_columns": "values in the names of folders"}
    return replace(log, columns=(*log.columns, *columns), keys=keys, notes=notes)


def _of_files(found: FoundSource, folder: Path) -> SampledLog:
    """The columns that are in the files."""
    if found.keys["format"] == "parquet":
        return _of_parquet(found, folder)
    sample, quoting = _read_quoted(found, folder)
    if found.keys["format"] == "jsonl":
        columns, paths = columns_of_objects(sample.objects(), found.names)
        return with_keys_of_values(SampledLog(tuple(columns), (), sample.complete, paths))
    texts = sample.text_columns()
    stripped = {name: [text.strip() for text in values] for name, values in texts.items()}
    tokens = _null_tokens(stripped.values())
    columns = [column_of_texts(name, stripped[name], ("", *tokens)) for name in found.names]
    return _with_keys(SampledLog(tuple(columns), tokens, sample.complete), padded(texts, tokens), quoting)


def _read(found: FoundSource, folder: Path, kinds: Mapping[str, str] | None = None) -> Sample:
    sample = _sampled(found, folder, kinds)
    if not sample.num_lines:
        raise ValueError(f"{found.group.pattern}: no rows could be read")
    return sample


def _sampled(found: FoundSource, folder: Path, kinds: Mapping[str, str] | None = None) -> Sample:
    return read_sample(found.source(dict(kinds or dict.fromkeys(found.names, "string"))), found.files(folder))


def _malformed(sample: Sample) -> float:
    """Share of the lines that are malformed; 1 if the files are refused, such as for a header that lacks a column."""
    return sum(len(chunk.bad) for chunk in sample.chunks) / sample.num_lines if sample.num_lines else 1.0


def _read_quoted(found: FoundSource, folder: Path) -> tuple[Sample, dict[str, Any]]:
    """Read a sample, and find the keys of quoted fields with which the fewest of its lines are malformed."""
    sample, chosen = _read(found, folder), dict[str, Any]()
    if found.keys["format"] not in ("csv", "tsv"):
        return sample, chosen
    # Quotes of texts that are not quoted can seem to hold line ends, so that is tried last.
    for keys in ({"quoted": False}, {"quoted": True}, {"quoted": True, "multiline": True}):
        if _malformed(sample) and any(found.keys.get(key, False) != value for key, value in keys.items()):
            other = _sampled(replace(found, keys=found.keys | keys), folder)
            sample, chosen = (other, keys) if _malformed(other) < _malformed(sample) else (sample, chosen)
    return sample, chosen


def _null_tokens(columns: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """The texts of missing values beside numbers."""
    seen: set[str] = set()
    for texts in columns:
        there = set(texts) & set(UNREADABLE_NULLS)
        seen |= there if kind_of(texts, UNREADABLE_NULLS) != "string" else set()
    return tuple(text for text in UNREADABLE_NULLS if text in seen and text)


def _of_parquet(found: FoundSource, folder: Path) -> SampledLog:
    types = parquet_types(found, folder)
    keys = found.keys | ({"unsigned": list(types.unsigned)} if types.unsigned else {})
    found = replace(found, paths=types.paths, keys=keys)
    sample = _read(found, folder, types.kinds)
    tokens: tuple[str, ...] = ()
    if _malformed(sample):
        other = _read(replace(found, keys=keys | {"null_tokens": ["", _NAN]}), folder, types.kinds)
        sample, tokens = (other, (_NAN,)) if _malformed(other) < _malformed(sample) else (sample, tokens)
    columns: list[Column] = []
    for name in sample.table.column_names:
        column = column_of_values(name, sample.table[name].to_pylist(), decimal=False)
        columns.append(replace(column, unsigned=name in types.unsigned and has_negative(column.values)))
    read = {*types.kinds, *(path.partition(".")[0] for path in types.paths.values())}
    read |= {path[0] for path in types.struct_lists.values()}
    columns += [Column(name, "string", sample.table.num_rows, (), nested=True) for name in found.names if name not in read]
    columns += columns_of_struct_lists(types.struct_lists, found.files(folder)[0])
    paths = types.paths | {name: ".".join(path) for name, path in types.struct_lists.items() if len(path) > 1}
    return with_keys_of_values(SampledLog(tuple(columns), tokens, sample.complete, paths))


def with_keys_of_values(log: SampledLog) -> SampledLog:
    """Add the keys that the values of a log of JSON or Parquet need, and why it needs them."""
    texts = {c.name: [*map(str, c.values)] for c in log.columns if c.kind == "string" and not c.nested}
    return _with_keys(log, padded(texts, ()))


def _with_keys(log: SampledLog, blanks: Mapping[str, float], quoting: Mapping[str, Any] = MappingProxyType({})) -> SampledLog:
    """Add the keys that the values of a log need, and why it needs them."""
    keys, notes = dict(quoting), dict(log.notes)
    if "multiline" in keys:
        notes["multiline"] = "quoted fields have line ends; one process reads such a file"
    if blanks:
        most = max(blanks, key=lambda name: blanks[name])
        keys["trim"], notes["trim"] = True, f"{blanks[most]:.0%} of the values of {most} have blanks around them"
    if decimals := [column.name for column in log.columns if column.decimal]:
        keys["decimal_ints"] = True
        notes["decimal_ints"] = f"ints are written as 9.0, such as those of {decimals[0]}"
    if unsigned := [column.name for column in log.columns if column.unsigned]:
        keys["unsigned"], notes["unsigned"] = unsigned, "ids of 2^63 and more; each becomes the signed int with the same bits"
    return replace(log, keys=keys, notes=notes)
