"""Thousands of randomly corrupted lines in every text format: bad lines are quarantined, good lines keep their values.

The reference is a slow reader in plain Python that reads one line at a time and shares no code with the reader under test.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml.catalog.reading import Source
from ml.logs.source_table import read_table
from ml.logs.text.layout import Layout
from ml.logs.text.parse import ParsedLines, parse_block
from tests.helpers.trials import seeds

COLUMNS: dict[str, Any] = {"a": "int", "b": "float", "c": "string", "d": "bool", "e": "int", "f": "string"}
KINDS = ("csv", "tsv", "quoted", "jsonl")
CORRUPTED = 1500


def source(kind: str) -> Source:
    form = "csv" if kind == "quoted" else kind
    return Source(files="*", format=form, columns=COLUMNS, quoted=kind == "quoted", null_tokens=("", "NULL"))  # type: ignore[arg-type]


class Wrong(Exception):
    """The slow reader refuses a line."""


def slow_value(text: str | None, kind: str) -> Any:
    if text in (None, "", "NULL"):
        return None
    bare = text.strip(" \t")
    if kind == "string":
        return text
    if kind == "bool":
        if text not in ("1", "0", "true", "false", "True", "False", "TRUE", "FALSE"):
            raise Wrong(f"bool {text!r}")
        return text in ("1", "true", "True", "TRUE")
    if kind == "int":
        # Arrow also accepts 0x1F.
        if re.fullmatch(r"-?[0-9]+|0[xX][0-9a-fA-F]{1,16}", bare, re.ASCII) is None:
            raise Wrong(f"int {text!r}")
        value = int(bare, 16) if bare[:2] in ("0x", "0X") else int(bare)
        value = value - 2**64 if bare[:2] in ("0x", "0X") and value >= 2**63 else value
        if not -(2**63) <= value < 2**63:
            raise Wrong("too big")
        return value
    if re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", bare, re.ASCII) is None:
        raise Wrong(f"float {text!r}")
    if not math.isfinite(float(bare)):
        raise Wrong("infinite")
    return float(bare)


def split_quoted(text: str) -> list[str]:
    fields, i = [], 0
    while True:
        field = ""
        if text[i : i + 1] == '"':
            i += 1
            while True:
                end = text.find('"', i)
                if end < 0:
                    raise Wrong("quote left open")
                field += text[i:end]
                i = end + 1
                if text[i : i + 1] != '"':
                    break
                field, i = field + '"', i + 1
        end = text.find(",", i)
        fields.append(field + (text[i:] if end < 0 else text[i:end]))
        if end < 0:
            return fields
        i = end + 1


def only_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise Wrong("a key twice")
    return dict(pairs)


def slow_row(line: bytes, kind: str) -> list[Any]:
    """The values of a line. Raises `Wrong`."""
    try:
        text = line.removesuffix(b"\r").decode()
    except UnicodeDecodeError as error:
        raise Wrong("not UTF-8") from error
    if not text or "\r" in text:
        raise Wrong("blank, or a stray CR")
    if kind != "jsonl":
        fields = split_quoted(text) if kind == "quoted" else text.split("\t" if kind == "tsv" else ",")
        if len(fields) != len(COLUMNS):
            raise Wrong("fields")
        return [slow_value(field, of) for field, of in zip(fields, COLUMNS.values(), strict=True)]
    try:
        value = json.loads(text.strip(" \t"), object_pairs_hook=only_once)
    except ValueError as error:
        raise Wrong("JSON") from error
    if not isinstance(value, dict):
        raise Wrong("no object")
    if re.search(r"[\ud800-\udfff]", json.dumps(value, ensure_ascii=False)):
        raise Wrong("surrogate")
    return [slow_json(value.get(name), of) for name, of in COLUMNS.items()]


def slow_json(value: Any, kind: str) -> Any:
    types: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "string": (str,), "bool": (bool,)}
    if value is None:
        return None
    if type(value) not in types[kind]:
        raise Wrong(kind)
    if kind == "int" and not -(2**63) <= value < 2**63:
        raise Wrong("too big")
    if kind == "float" and not math.isfinite(value):
        raise Wrong("infinite")
    return float(value) if kind == "float" else None if value in ("", "NULL") and kind == "string" else value


def good_line(rng: np.random.Generator, kind: str) -> bytes:
    words = ["", "x", "été", "日本 語", "a b", "NULL", "it's", "\x00", "0x1F", "line\u2028end"]
    values: list[Any] = [
        int(rng.integers(-(2**63), 2**63 - 1)),
        round(float(rng.normal(0, 1e6)), 3),
        str(rng.choice(words)),
        bool(rng.integers(2)),
        int(rng.integers(0, 100)),
        str(rng.choice(words)),
    ]
    values = [None if rng.random() < 0.1 else value for value in values]
    if kind == "jsonl":
        return json.dumps(
            dict(zip(COLUMNS, values, strict=True)) | {"other": [1, {"x": None}]}, ensure_ascii=bool(rng.integers(2))
        ).encode()
    texts = ["" if v is None else str(v).lower() if isinstance(v, bool) else str(v) for v in values]
    if kind == "quoted":
        texts[2] += ',"' if rng.random() < 0.2 else ""
        texts = ['"' + t.replace('"', '""') + '"' if rng.random() < 0.3 or '"' in t or "," in t else t for t in texts]
    return ("\t" if kind == "tsv" else ",").join(texts).encode()


PIECES = [
    b"\xff",
    b"\x00",
    b'"',
    b"\r",
    b",",
    b"\t",
    b"\xc3",
    b"\xed\xa0\x80",
    b"9" * 30,
    b"1e999",
    b"nan",
    b"-",
    b" ",
    b"{",
    b"}",
    b"null",
]
PIECES += [
    b"\xef\xbb\xbf",
    b"\\ud800",
    b"[",
    b"]",
    b":",
    b"\\",
    b"true",
    b"0x1F",
    b"\xf4\x90\x80\x80",
    b"1.5",
    b"+1",
    b"''",
    b"\x1a",
    b"NaN",
    b'""',
]


def corrupt(rng: np.random.Generator, line: bytes, other: bytes) -> bytes:
    """Changes a line at random. Some changes leave it valid."""
    separators = [i for i, byte in enumerate(line) if byte in b",\t:"]
    at = int(rng.integers(0, len(line) + 1))
    to = int(rng.integers(at, len(line) + 1))
    piece = PIECES[int(rng.integers(len(PIECES)))]
    sep = separators[int(rng.integers(len(separators)))] if separators else 0
    fields = line.split(b",") if b"," in line else line.split(b"\t")
    ways: list[Callable[[], bytes]] = [
        lambda: line[:at],
        lambda: line[at:],
        lambda: line[:at] + line[to:],
        lambda: line[:at] + piece + line[at:],
        lambda: line[:at] + piece + line[to:],
        lambda: line[:sep] + line[sep + 1 :],
        lambda: line[: sep + 1] + line[sep:],
        lambda: line[: sep + 1] + piece + line[sep + 1 :],
        lambda: line[:sep] + piece + line[sep:],
        lambda: line + piece,
        lambda: piece + line,
        lambda: line + b" " + other,
        lambda: line + b"\r" + other,
        lambda: line[:at] + other[to:],
        lambda: b",".join(reversed(fields)),
        lambda: b"\t".join(fields[1:] + fields[:1]),
        lambda: bytes(rng.permutation(np.frombuffer(line, np.uint8).copy())),
        lambda: bytes(rng.integers(0, 256, len(line), dtype=np.uint8)).replace(b"\n", b"?"),
        lambda: line[:at] + bytes([line[at] ^ (1 << int(rng.integers(8)))]) + line[at + 1 :] if at < len(line) else line,
        lambda: line[:at] + b"z" * int(rng.integers(1, 20_000)) + line[at:],
        lambda: b"",
        lambda: b" " * int(rng.integers(0, 4)),
        lambda: line + b"\r",
        lambda: line.replace(b'"', b"'"),
        lambda: line.upper(),
        lambda: piece,
        lambda: piece * int(rng.integers(2, 50)),
    ]
    return ways[int(rng.integers(len(ways)))]().replace(b"\n", b" ")


def corrupted_log(seed: int, kind: str, count: int = 2 * CORRUPTED) -> list[bytes]:
    rng = np.random.default_rng(seed)
    lines = [good_line(rng, kind) for _ in range(count)]
    for i in rng.choice(count, count // 2, replace=False).tolist():
        changed = corrupt(rng, lines[i], lines[int(rng.integers(count))])
        for _ in range(int(rng.integers(0, 2))):
            changed = corrupt(rng, changed, lines[i])
        lines[i] = changed
    return lines


def verdicts(lines: list[bytes], kind: str) -> dict[int, list[Any] | None]:
    found: dict[int, list[Any] | None] = {}
    for number, line in enumerate(lines):
        try:
            found[number] = slow_row(line, kind)
        except Wrong:
            found[number] = None
    return found


def rows_of(parsed: ParsedLines) -> dict[int, list[Any]]:
    return {line: list(row.values()) for line, row in zip(parsed.row_lines.tolist(), parsed.table.to_pylist(), strict=True)}


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", seeds(1))
def test_every_line_is_kept_as_it_was_or_quarantined(seed: int, kind: str) -> None:
    lines = corrupted_log(seed + 1, kind)
    assert len(set(lines)) > CORRUPTED
    parsed = parse_block(Layout.declared(source(kind)), b"\n".join(lines) + b"\n")
    rows, expected = rows_of(parsed), verdicts(lines, kind)
    assert sorted([*rows, *parsed.bad]) == list(range(len(lines)))
    wrong = {n for n, row in expected.items() if row is None}
    assert len(wrong) > CORRUPTED / 3
    misjudged = {n: (lines[n][:200], parsed.bad.get(n)) for n in wrong ^ set(parsed.bad)}
    assert not misjudged
    assert rows == {n: row for n, row in expected.items() if row is not None}


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", seeds(1))
def test_a_line_is_judged_alike_alone_and_among_others(seed: int, kind: str) -> None:
    lines = corrupted_log(seed + 2, kind, 600)
    layout = Layout.declared(source(kind))
    together = parse_block(layout, b"\n".join(lines))
    alone = [parse_block(layout, line + b"\n") for line in lines]
    assert {n: one.bad[0] for n, one in enumerate(alone) if one.bad} == together.bad
    assert {n: rows_of(one)[0] for n, one in enumerate(alone) if not one.bad} == rows_of(together)


@pytest.mark.parametrize("kind", KINDS)
def test_good_lines_are_read_at_once_and_keep_their_values(kind: str) -> None:
    rng = np.random.default_rng(3)
    lines = [good_line(rng, kind) for _ in range(2000)]
    parsed = parse_block(Layout.declared(source(kind)), b"\r\n".join(lines))
    assert not parsed.bad
    assert rows_of(parsed) == verdicts(lines, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_quarantined_lines_are_named_by_file_line_and_text(kind: str, tmp_path: Path) -> None:
    lines = corrupted_log(4, kind, 400)
    (tmp_path / "a.log").write_bytes(b"\n".join(lines[:150]) + b"\n")
    (tmp_path / "b.log").write_bytes(b"\n".join(lines[150:]))
    table, quarantine = read_table(source(kind), tmp_path)
    assert table.num_rows + len(quarantine) == len(lines) - (not lines[-1])
    for entry in quarantine.table.to_pylist():
        line = lines[entry["line"] - 1 + (150 if entry["file"] == "b.log" else 0)]
        assert entry["text"] == line.removesuffix(b"\r")[:1000]
        assert entry["reason"]
    assert sum(quarantine.reasons.values()) == len(quarantine)
    assert quarantine.reasons == Counter(quarantine.table.column("reason").to_pylist())
