"""Single faults of files against their catalog entry, drawn at random."""

from __future__ import annotations

import gzip
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.helpers.small_logs import Entry


def rewrite(folder: Path, pattern: str, change: Callable[[str], str], encoding: str) -> None:
    """Changes the text of all files of a pattern, packed or not."""
    for path in folder.glob(pattern):
        raw = path.read_bytes()
        if path.suffix == ".gz":
            path.write_bytes(gzip.compress(change(gzip.decompress(raw).decode(encoding)).encode(encoding)))
        elif path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                held = {name: archive.read(name).decode(encoding) for name in archive.namelist()}
            with zipfile.ZipFile(path, "w") as archive:
                for name, text in held.items():
                    archive.writestr(name, change(text).encode(encoding))
        else:
            path.write_bytes(change(raw.decode(encoding)).encode(encoding))


LOGS = {
    "banner": "train.txt.gz",
    "news": "clicks.zip",
    "ratings": "u.data",
    "shop": "*.jsonl.gz",
    "bank": "*-2023.csv",
}


def other_files(entry: Entry, folder: Path, draw: random.Random) -> str | None:
    """The entry stays, and the files are written in another way."""
    name = entry["name"]
    if name not in LOGS:
        return None
    encoding, pattern = ("latin-1" if name == "bank" else "utf-8"), LOGS[name]
    kind = draw.choice(("separator", "wide", "header", "truncated", "utf16", "packed", "labels", "side"))
    if kind == "separator" and name != "shop":
        old = {"banner": "\t", "news": ",", "ratings": "\t", "bank": ";"}[name]
        rewrite(folder, pattern, lambda text: text.replace(old, "^"), encoding)
    elif kind == "wide" and name in ("banner", "ratings"):  # where a header names the new column, it is ignored
        rewrite(folder, pattern, lambda text: text.replace("\n", "\tnew\n"), encoding)
    elif kind == "header" and name in ("banner", "ratings"):
        rewrite(
            folder,
            pattern,
            lambda text: "\t".join(entry["source"]["columns"]) + "\n" + text,
            encoding,
        )
    elif kind == "header" and name in ("news", "bank"):
        rewrite(folder, pattern, lambda text: text.split("\n", 1)[1], encoding)
    elif kind == "truncated" and pattern.endswith(".gz"):
        for path in folder.glob(pattern):
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "utf16" and name in ("ratings", "bank"):
        for path in folder.glob(pattern):
            path.write_bytes(path.read_bytes().decode(encoding).encode("utf-16"))
    elif kind == "packed" and name in ("ratings", "bank"):
        for path in folder.glob(pattern):
            path.write_bytes(gzip.compress(path.read_bytes()))
    elif kind == "labels" and name in ("banner", "shop"):
        yes, no = draw.choice((("2", "1"), ("yes", "no"), ("1", "-1"), ("1", "1"), ("0", "0")))
        if name == "banner":
            rewrite(folder, pattern, lambda text: _relabelled(text, yes, no), encoding)
        else:
            quoted = (f'"{yes}"', f'"{no}"') if yes == "yes" else (yes, no)
            rewrite(
                folder,
                pattern,
                lambda text: (
                    text.replace('"bought": 1', '"bought": Y')
                    .replace('"bought": 0', f'"bought": {quoted[1]}')
                    .replace('"bought": Y', f'"bought": {quoted[0]}')
                ),
                encoding,
            )
    elif kind == "side" and entry.get("join"):
        side = draw.choice(entry["join"])["source"]["files"]
        which = draw.randrange(3)
        if which == 0:
            (folder / side).unlink()
        elif which == 1:
            lines = (folder / side).read_text().splitlines(keepends=True)
            (folder / side).write_text("".join([*lines, lines[-1]]))
        else:  # keys of another kind
            lines = (folder / side).read_text().splitlines()
            head = lines[:1] if name != "bank" else []
            (folder / side).write_text("\n".join([*head, *("9" * 7 + line for line in lines[len(head) :])]) + "\n")
    else:
        return None
    return f"files: {kind}"


def _relabelled(text: str, yes: str, no: str) -> str:
    lines = [line.split("\t", 1) for line in text.splitlines()]
    return "".join(f"{yes if label == '1' else no}\t{rest}\n" for label, rest in lines)


def other_parquet(entry: Entry, folder: Path, draw: random.Random) -> str | None:
    """Parquet files in which a column has another type, unit or name."""
    if entry["name"] != "tracker":
        return None
    kind = draw.choice(("unit", "text", "absent", "null"))
    for path in folder.rglob("*.parquet"):
        table = pq.ParquetFile(path).read()
        at = {"unit": "ts", "text": "uid", "absent": "score", "null": "sku"}[kind]
        values = table[at]
        if kind == "unit":
            changed = pa.array([value // 1000 for value in values.to_pylist()])
        elif kind == "text":
            changed = pa.array([f"u{value}" for value in values.to_pylist()])
        else:
            changed = pa.nulls(len(values), values.type)
        place = table.schema.get_field_index(at)
        table = table.set_column(place, at, changed) if kind != "absent" else table.remove_column(place)
        pq.write_table(table, path)
    return f"Parquet: {kind}"
