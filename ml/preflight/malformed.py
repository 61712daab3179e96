"""Explains the lines of a sample that cannot be read: the key of the entry to change for each reason, and the change."""

from __future__ import annotations

import re
from collections import Counter

from ml.catalog.row_shape import field_of
from ml.catalog.spec import DatasetSpec
from ml.catalog.value_paths import object_lists
from ml.catalog.value_text import element_type
from ml.logs.quarantine import BAD_JSON, FIELDS, LENGTHS, NOT_UTF8, UNBALANCED, bad_element, excerpt
from ml.preflight.fields import NUMBER, SEPARATORS, natural_type, split_fields
from ml.preflight.finding import Finding, exceeds
from ml.preflight.object_paths import propose_paths_of_list
from ml.preflight.sample import Chunk, Sample
from ml.preflight.values import NULLS, int_way_out

UNREADABLE_NULLS = (*NULLS, "NA", "none", "-", "?", "")  # of a value that is not of its column's type
FEW, FEW_SHARE = 3, 0.002  # bad lines of one kind that are more than noise although the band allows them
_BAD_ELEMENT = re.compile(f"^{re.escape(bad_element(''))}(.*)$", re.DOTALL)
_BAD_VALUE = re.compile(r"^(?:bad (?:number|boolean|text|list)|inexact integer) in column (.*)$", re.DOTALL)


def check_lines(sample: Sample, prefix: str, spec: DatasetSpec) -> list[Finding]:
    """Finds the lines that cannot be read, with a finding for each reason. A few such lines, in the allowed share, give none.

    Args:
        sample: Of a source.
        prefix: Key of the source in the catalog entry.
        spec: The dataset: what its columns are used for, and which share of malformed lines it allows.
    """
    band = spec.expectations.quarantine_rate
    counts = Counter(reason for chunk in sample.chunks for reason in chunk.bad.values())
    total = sample.num_lines
    found: list[Finding] = []
    for reason, count in counts.most_common():
        many = count == total or exceeds(count, total, band)
        if not many and not (count >= FEW and count / total > FEW_SHARE):
            continue
        chunk, line = next((c, line) for c in sample.chunks for line, why in c.bad.items() if why == reason)
        severity = "error" if many and (band.severity == "error" or count == total) else "warning"
        share = f"{count:,} of {total:,} sampled lines are malformed"
        what = f"{share}: {reason}; the first is {chunk.place(line)}: {excerpt(chunk.texts[line])}"
        part, change = _explain(sample, chunk, line, reason, spec)
        found.append(Finding(severity, f"{prefix}.{part}", what, change))
    return found


def _explain(sample: Sample, chunk: Chunk, line: int, reason: str, spec: DatasetSpec) -> tuple[str, str]:
    """The key to change for a reason, and the change."""
    source, text = sample.source, chunk.texts[line]
    if reason == NOT_UTF8:
        return "encoding", "set `encoding: latin-1`, or save the files as UTF-8"
    if b"\r" in text.rstrip(b"\r"):
        return "files", "save the files with lines that end with LF or CR LF: this one has a carriage return within"
    if reason == UNBALANCED and not source.multiline:
        return "multiline", "set `multiline: true` if quoted fields contain line ends, else double the quotes within fields"
    if reason in (FIELDS, UNBALANCED):
        width = len(chunk.layout.fields)
        for separator in SEPARATORS:
            if separator != source.delimiter and len(split_fields(source, text, separator)) == width:
                return "separator", f"set `separator: {excerpt(separator)}`"
        if b'"' in text and not source.quoted:
            return "quoted", "set `quoted: true`"
        lines = chunk.raw.splitlines()[:50]
        fields = Counter(len(split_fields(source, one, source.delimiter)) for one in lines).most_common(1)[0][0] if lines else 0
        return "columns", f"declare one column per field, in file order: most lines have {fields} fields, {width} are declared"
    if reason == BAD_JSON:
        array = chunk.begin and chunk.raw.lstrip().startswith(b"[")
        why = ": the file is one array, and jsonl is one object a line" if array else ""
        return "format", f"declare the format that the files have{why}"
    if reason == LENGTHS:
        return "explode", "explode fields whose lists have the same length in each line"
    if (match := _BAD_ELEMENT.match(reason)) and match[1] in object_lists(sample.rows):
        return f"explode.{match[1]}", "name a list whose elements are objects, or null"
    if match:
        return f"explode.{match[1]}", "set list_separator and part_separator to those of its elements"
    if match := _BAD_VALUE.match(reason):
        if reason.startswith("inexact"):
            way_out = "write them as integers or as text; floating-point numbers cannot tell integers of 2^53 or more apart"
            return f"columns.{match[1]}", way_out
        return _explain_type(sample, match[1], spec)
    return "files", "correct the files"


def _explain_type(sample: Sample, column: str, spec: DatasetSpec) -> tuple[str, str]:
    """The key to change for values that are not of their column's type."""
    source, kind = sample.source, sample.rows.columns.get(column)
    if change := propose_paths_of_list(sample, column):
        return "paths", change
    if kind is None:  # a field of the file, whose elements become rows
        of_objects = column in object_lists(sample.rows)
        values = "lists of objects" if of_objects else "lists, and declare the type that their elements have"
        return f"explode.{column}", f"name a field whose values are {values}"
    held = source.columns.get(column)
    if held is None or column in field_of(sample.rows) or (held != kind and (element_type(kind) or element_type(held))):
        return f"columns.{column}", "declare the type that all elements of the lists have, such as string"
    texts = set(sample.text_columns().get(column, [])) - set(source.null_tokens) or _json_texts(sample, column)
    odd = sorted(text for text in texts if not _fits(text, kind))
    if odd and all(text.strip() in UNREADABLE_NULLS for text in odd):
        if source.format == "jsonl":  # null tokens are texts
            return f"columns.{column}", f"write null for missing values, not {', '.join(map(repr, odd[:5]))}"
        return "null_tokens", f"add {', '.join(map(repr, odd[:5]))} to `null_tokens`"
    if kind == "int" and (way := int_way_out(column, texts, odd)):
        return way
    if column in sample.file_types:
        return f"columns.{column}", f"declare {natural_type(sample.file_types[column]) or 'another type'}"
    wider = next(
        (other for other in ("int", "float", "bool") if other != kind and texts and all(_fits(t, other) for t in texts)),
        "string",
    )
    values = f" (values such as {', '.join(map(repr, odd[:3]))})" if odd else ""
    change = f"declare `{column}: {wider}`"
    if wider == kind:
        change = f"declare `{column}: list<string>` if the values are lists, or write each value as one text"
    elif wider == "string" and column == spec.time.column:
        change += ", and set `time.unit: iso8601` if the values are ISO 8601 times, else `time.format`"
    elif wider == "string" and column == spec.label.column:
        change += ", and list the values that are positive, such as `label.is: [click]`"
    elif wider == "string" and column in _numbers(spec):
        change = "write its values as numbers with a decimal point and without quotes, because a feature needs numbers"
    return f"columns.{column}", f"{change}{values}"


def _numbers(spec: DatasetSpec) -> set[str]:
    """Columns of features that need numbers."""
    return {dense.column for dense in spec.dense} | {sparse.column for sparse in spec.sparse if sparse.bucketise}  # type: ignore[return-value]


def _json_texts(sample: Sample, column: str) -> set[str]:
    values = sample.key_values(column)
    return {
        value if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value) for value in values
    }


def _fits(text: str, kind: str) -> bool:
    if kind == "string":
        return True
    if kind == "bool":
        return text in ("0", "1", "true", "false", "True", "False", "TRUE", "FALSE")
    return bool(re.match(r"^\s*-?\d+\s*$" if kind == "int" else NUMBER.pattern, text))
