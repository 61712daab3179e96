"""Checks how the files of a source are laid out: format, encoding, header, separator, names and types of columns.

`ml.preflight.malformed` explains the lines that cannot be read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

import pyarrow as pa

from ml.catalog.reading import Source
from ml.catalog.spec import DatasetSpec
from ml.catalog.value_paths import dotted
from ml.logs.quarantine import damaged_file, excerpt
from ml.logs.text.json_keys import paths_in
from ml.logs.text.layout import Layout
from ml.logs.typed_columns import UnreadableType, type_column
from ml.preflight.fields import NUMBER, SEPARATORS, natural_type, split_fields
from ml.preflight.finding import Finding, errors
from ml.preflight.malformed import check_lines
from ml.preflight.object_paths import propose_paths
from ml.preflight.sample import Sample


def check_structure(sample: Sample, prefix: str, spec: DatasetSpec) -> list[Finding]:
    """Checks the layout of a source's files.

    Args:
        sample: Of the source.
        prefix: Key of the source in the catalog entry, such as `source` or `join.0.source`.
        spec: The dataset: what its columns are used for, and which share of malformed lines it allows.
    """
    found = check_files(sample, prefix) or _no_rows(sample, prefix)
    if found or (found := _unexpected_header(sample, prefix)):
        return found
    found = _json_keys(sample, prefix) or check_lines(sample, prefix, spec)
    if errors(found):
        return found
    return _without_repeats([*found, *_encoding(sample, prefix), *_quotes(sample, prefix), *_schemas(sample, prefix)])


def check_files(sample: Sample, prefix: str) -> list[Finding]:
    """Checks that files can be read, and that they have the columns of the source with types that can be read."""
    return _wrong_container(sample, prefix) or _unreadable_types(sample, prefix) or _names(sample, prefix)


def _without_repeats(findings: Iterable[Finding]) -> list[Finding]:
    return list({finding.key: finding for finding in findings}.values())


def _wrong_container(sample: Sample, prefix: str) -> list[Finding]:
    """Files that are packed, binary or of another format than declared."""
    for file, start in sample.starts.items():
        where = f"{file} begins with {excerpt(start[:4])}"
        if start[:4] in (b"\x28\xb5\x2f\xfd", b"PK\x03\x04") or (start[:2] in (b"\x1f\x8b", b"BZ") and not start.isascii()):
            return [
                Finding(
                    "error",
                    f"{prefix}.files",
                    f"{where}, so it is packed",
                    "name it .gz, .zst, .bz2, .xz, .lz4 or .zip, or unpack it",
                )
            ]
        if start[:4] == b"PAR1":
            return [Finding("error", f"{prefix}.format", f"{where}, so it is Parquet", "set `format: parquet`")]
        if start[:2] in (b"\xff\xfe", b"\xfe\xff") or start.count(b"\0") * 10 > len(start) > 0:
            found = f"{where}, so it is UTF-16 or binary, not {sample.source.encoding}"
            return [Finding("error", f"{prefix}.encoding", found, "save the file as UTF-8")]
    for file, why in sample.damaged.items():
        if why.startswith("not readable as Parquet"):
            change = "declare the format that the files have, or copy the file again"
            return [Finding("error", f"{prefix}.format", f"{file}: {why}", change)]
        return [Finding("error", f"{prefix}.files", f"{file}: {damaged_file(why)}", "copy the file again")]
    return []


def _no_rows(sample: Sample, prefix: str) -> list[Finding]:
    if not sample.num_lines:
        return [Finding("error", f"{prefix}.files", f"the files hold no rows ({sample.files[0].name})", "correct the pattern")]
    return []


def _names(sample: Sample, prefix: str) -> list[Finding]:
    """Headers and schemas that lack columns, and renamed names that no file has."""
    source = sample.source
    for file, text in sample.refused.items():
        why, head = text.partition(". Correct")[0].partition("; correct")[0], sample.heads.get(file)
        if head is not None:
            wanted = {name for name in source.columns} - set(source.rename.values()) | set(source.rename)
            for separator in SEPARATORS:
                if separator != source.delimiter and wanted <= set(split_fields(source, head, separator)):
                    change = f"set `separator: {excerpt(separator)}`"
                    return [
                        Finding("error", f"{prefix}.separator", f"the header of {file} is separated by {separator!r}", change)
                    ]
            fields = split_fields(source, head, source.delimiter)
            unquoted = {field.strip('"') for field in fields}
            if wanted <= unquoted and not wanted <= set(fields) and not source.quoted:
                return [
                    Finding("error", f"{prefix}.quoted", f"the names in the header of {file} are quoted", "set `quoted: true`")
                ]
            if len(fields) == len(source.columns) and any(map(NUMBER.match, fields)) and not wanted & set(fields):
                found = f"the first line of {file} is a row, not a header: {excerpt(head)}"
                return [Finding("error", f"{prefix}.header", found, "set `header: false`")]
            if "the header cannot be read" in why:
                return [Finding("error", f"{prefix}.files", *_halves(text))]
            return [Finding("error", f"{prefix}.columns", why, _closest(source, fields))]
        if file not in sample.schemas:
            key = "paths" if "source.paths" in text else "path_columns"
            return [Finding("error", f"{prefix}.{key}", *_halves(text))]
        return [Finding("error", f"{prefix}.columns", why, _closest(source, sample.schemas[file].names))]
    there = {name.strip() for schema in sample.schemas.values() for name in schema.names}
    there |= {name for head in sample.heads.values() for name in split_fields(source, head, source.delimiter)}
    if there and (unmatched := [name for name in source.rename if name not in there]):
        found = f"no file has {', '.join(map(repr, unmatched))}; the files have {', '.join(map(repr, sorted(there)[:40]))}"
        return [Finding("error", f"{prefix}.rename", found, "rename names that the files have")]
    return []


def _halves(message: str) -> tuple[str, str]:
    """What an error says was found, and what to change."""
    found, _, change = message.partition("; ")
    return found, change


def _unreadable_types(sample: Sample, prefix: str) -> list[Finding]:
    """Parquet columns of a type that no value of the declared type can be read from."""
    for file, schema in sample.schemas.items():
        for name, held in zip(schema.names, schema.types, strict=True):
            column = sample.source.rename.get(name.strip()) or name.strip()
            if kind := sample.source.columns.get(column):
                try:
                    type_column(pa.chunked_array([], held), kind)
                except UnreadableType as error:
                    found, change = _halves(f"{file}: column {column!r} {error}")
                    return [Finding("error", f"{prefix}.columns.{column}", found, change)]
    return []


def _closest(source: Source, there: Iterable[str]) -> str:
    """What to change about columns that a file lacks."""
    names, matched = list(there), set(source.rename.values())
    pairs: list[str] = []
    folded = {name.casefold(): name for name in names}
    for column in source.columns:
        if column not in names and column not in matched and (near := get_close_matches(column.casefold(), folded, 1, 0.6)):
            pairs.append(f"{folded[near[0]]}: {column}")
    hint = f", such as `rename: {{{', '.join(pairs)}}}`" if pairs else ""
    return f"correct source.columns or source.rename{hint}"


def _unexpected_header(sample: Sample, prefix: str) -> list[Finding]:
    """A header in files that are declared without one."""
    source = sample.source
    if source.format not in ("csv", "tsv") or source.header:
        return []
    for chunk in (chunk for chunk in sample.chunks if chunk.begin and chunk.raw):
        head = chunk.raw.split(b"\n", 1)[0].rstrip(b"\r")
        fields = [field.strip('"') for field in split_fields(source, head, source.delimiter)]
        known = set(source.columns) | set(source.rename)
        named = len(known & set(fields)) * 2 >= len(source.columns)
        numbers = [kind in ("int", "float", "bool") for kind in source.columns.values()]
        words = [not NUMBER.match(field) and bool(field) for field in fields]
        unlike = any(numbers) and len(fields) == len(numbers) and all(words) and chunk.table.num_rows > 0
        if named or unlike:
            names = dict(zip(fields, source.columns, strict=False))
            rename = "" if set(source.columns) <= set(fields) else f", and `rename: {names}"[:200] + "` if names differ"
            found = f"the first line of {chunk.file.name} is a header: {excerpt(head)}"
            return [Finding("error", f"{prefix}.header", found, f"set `header: true`{rename}")]
    return []


def _json_keys(sample: Sample, prefix: str) -> list[Finding]:
    """Columns whose key no line has, and renamed keys likewise."""
    objects, source = sample.objects(), sample.source
    if not objects:
        return []
    there = list(dict.fromkeys(key for value in objects for key in value))
    paths = list(dict.fromkeys(path for value in objects for path in paths_in(value)))
    named = {column: dotted(path) for column, path in Layout.declared(source).key_paths.items()}
    absent = {column: key for column, key in named.items() if key not in (paths if column in (source.paths or ()) else there)}
    if not absent:
        return []
    found = f"no line has the key {', '.join(map(repr, absent.values()))}; the keys are {', '.join(map(repr, paths[:40]))}"
    if set(absent) & set(source.paths or ()):
        return [Finding("error", f"{prefix}.paths", found, "correct source.paths")]
    within = {c: p for c in absent for p in paths if "." in p and c in (p, p.replace(".", "_"), p.rpartition(".")[2])}
    if within:
        return [Finding("error", f"{prefix}.columns", found, propose_paths(objects, within))]
    part = "rename" if all(key in source.rename for key in absent.values()) else "columns"
    return [Finding("error", f"{prefix}.{part}", found, _closest(source, there))]


def _encoding(sample: Sample, prefix: str) -> list[Finding]:
    """Text that is UTF-8 and declared latin-1, or the other way."""
    source, declared = sample.source, sample.source.encoding
    utf8 = latin = 0
    example = b""
    for line in (line for chunk in sample.chunks for line in chunk.raw.splitlines() if not line.isascii()):
        try:
            line.decode()
            utf8 += 1
        except UnicodeDecodeError:
            latin += 1
        example = example or line
    if declared == "latin-1" and utf8 and not latin:
        found = f"all {utf8} sampled lines with letters beyond ASCII are UTF-8, such as {excerpt(example)}"
        return [Finding("warning", f"{prefix}.encoding", found, "set `encoding: utf-8`")]
    accents = re.search(rb"[A-Za-z][\xc0-\xff](?=[A-Za-z\s])|[\xc0-\xff][a-z]{2}", example)
    if declared == "utf-8" and latin and not utf8 and accents:
        found = f"none of the {latin} sampled lines with letters beyond ASCII is UTF-8, such as {excerpt(example)}"
        return [Finding("warning", f"{prefix}.encoding", found, f"set `encoding: latin-1`, or save {source.files} as UTF-8")]
    return []


def _quotes(sample: Sample, prefix: str) -> list[Finding]:
    """Fields that are quoted in files that are declared without quotes."""
    if sample.source.quoted:
        return []
    for column, texts in sample.text_columns().items():
        quoted = sum(len(text) > 1 and text[0] == text[-1] == '"' for text in texts)
        if quoted * 2 > len(texts) > 0:
            found = f"values of {column!r} are in quotes, such as {excerpt(texts[0])}"
            return [Finding("warning", f"{prefix}.quoted", found, "set `quoted: true`")]
    return []


def _schemas(sample: Sample, prefix: str) -> list[Finding]:
    """Parquet columns with another type in a file than declared."""
    found: list[Finding] = []
    for column, held in sample.file_types.items():
        kind, natural = sample.source.columns.get(column), natural_type(held)
        if kind is None or natural in (None, kind) or (natural, kind) in (("int", "float"), ("bool", "int")):
            continue
        if natural == "float" and kind in ("int", "string") and _whole(sample.table[column].cast(pa.string())):
            natural = "int"  # of ids that were written as floats, for example because some are missing
        if natural == kind:
            continue
        what = f"the files hold {held}, and {kind} is declared"
        found.append(Finding("warning", f"{prefix}.columns.{column}", what, f"declare `{column}: {natural}`"))
    return found


def _whole(texts: pa.ChunkedArray) -> bool:
    return texts.null_count < len(texts) and all(re.fullmatch(r"-?\d+", text) for text in texts.drop_null().to_pylist())
