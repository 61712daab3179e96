"""Files that are not valid YAML, or not plain data, in dozens of ways, and files damaged at random.

They are refused with file, line and what is wrong, or loaded as written, and no other exception is raised.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml.catalog.expand import MAX_RANGE
from ml.catalog.load import CATALOG, CatalogError, load_catalog, load_dataset
from tests.helpers.catalog_files import NAMES, TEXTS, harmless, load, refusal
from tests.helpers.trials import examples

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
RANGES = "".join(f"    c{i}_{{1..{MAX_RANGE}}}: int\n" for i in range(2000))
TEXTUAL: dict[str, tuple[bytes | str, str]] = {
    "empty": ("", "found nothing"),
    "only a comment": ("# nothing\n", "found nothing"),
    "a list at the top": ("- name: criteo\n", "found a list"),
    "a word at the top": ("criteo", "found a str"),
    "two documents": ("name: a\n---\nname: b\n", "line 2"),
    "a tab": ("name: criteo\nsource:\n\tfiles: x\n", "line 3, column 1: .*spaces, not tabs"),
    "an open bracket": ("name: [criteo\n", "line 2"),
    "an open quote": ('name: "criteo\n', "line 2"),
    "bad indent": ("name: criteo\n  source: 1\n", "line 2"),
    "control characters": (b"name: \x00\x01\n", "not valid YAML"),
    "not UTF-8": (b"name: criteo\ndescription: caf\xe9\n", "line 2: not UTF-8 at byte 29"),
    "UTF-16": ("name: criteo\n".encode("utf-16"), "not UTF-8"),
    "a gzip file": (b"\x1f\x8b\x08\x00" + bytes(range(256)), "not UTF-8"),
    "a key given twice": ("name: a\nname: b\n", "line 2, column 1: .*'name' is given twice"),
    "a key given twice below": ("source:\n  files: a\n  format: csv\n  files: b\n", "line 4.*'files' is given twice"),
    "a number as a key": ("source:\n  columns:\n    1: int\n", "line 3.*found 1; if it is one, put it in quotes"),
    "a truth value as a key": ("source:\n  columns:\n    on: int\n", "line 3.*found True; if it is one, put it in quotes"),
    "a list as a key": ("? [a, b]\n: 1\n", "line 1.*a key must be a name"),
    "a python object": ("name: !!python/object/apply:os.system [ls]\n", "line 1.*could not determine a constructor"),
    "bytes": ("name: !!binary aGVsbG8=\n", "name: expected text.*found bytes"),
    "a set": ("name: !!set {a, b}\n", "name: expected text.*found set"),
    "a huge number": ("demo_days: 0x" + "f" * 9000 + "\n", "demo_days: an integer of more than 64 bits"),
    "a huge decimal": ("demo_days: " + "9" * 9000 + "\n", "not valid YAML"),
    "an empty whole number": ("demo_days: !!int\n", "not valid YAML"),
    "text tagged as a truth value": ("demo_days: !!bool maybe\n", "demo_days: line 1.*'maybe' is not true or false"),
    "a tagged key": ("!!bool maybe: 1\n", "line 1.*'maybe' is not true or false"),
    "text tagged as a date": ("demo_days: !!timestamp soon\n", "demo_days: line 1.*'soon' is not a date"),
    "no such day": (
        "partitions: {start: 2014-02-31}\n",
        "partitions.start: expected a date such as 2025-03-01, found '2014-02-31' .line 1.",
    ),
    "an unknown alias": ("name: *nobody\n", "line 1.*undefined alias"),
    "a cycle of lists": ("name: &a [*a]\n", "line 1.*an alias .* refers to a value that contains it"),
    "a cycle of keys": ("name: &a {b: *a}\n", "line 1.*an alias .* refers to a value that contains it"),
    "a billion laughs": (LAUGHS, "aliases .* expand"),
    "a billion merges": ("a: &a {x: 1}\nb:\n  <<: [*a, *a]\n", "line 3.*merge keys"),
    "a deep nest": ("a: " + "[" * 60 + "]" * 60, "nested too deeply"),
    "a very deep nest": ("a: " + "[" * 20_000 + "]" * 20_000, "nested too deeply"),
    "a very deep block": ("".join(" " * i + "a:\n" for i in range(900)), "nested too deeply"),
    "a range of digits": (f"sparse: ['C{{1..{'9' * 5000}}}']", "at most 200 characters"),
    "many ranges": ("source:\n  columns:\n" + RANGES, "source.columns: expected at most"),
    "a megabyte": ("# " + "x" * 1_000_001, "expected a catalog entry of at most"),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("case", TEXTUAL)
def test_what_is_not_a_catalog_entry_is_refused(tmp_path: Path, case: str) -> None:
    text, said = TEXTUAL[case]
    message = refusal(tmp_path, "criteo", text)
    assert re.search(said, message), message


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "criteo.yaml").mkdir()
    with pytest.raises(CatalogError, match=r"criteo\.yaml: cannot be read: "):
        load_dataset(tmp_path / "criteo.yaml")
    with pytest.raises(CatalogError, match=r"none\.yaml: cannot be read: "):
        load_dataset(tmp_path / "none.yaml")


@pytest.mark.parametrize("name", NAMES)
def test_every_line_given_twice_is_refused(tmp_path: Path, name: str) -> None:
    lines = TEXTS[name].decode().splitlines(keepends=True)
    for i, line in enumerate(lines):
        if re.match(r"\s*[a-z_]\w*:", line):
            assert "given twice" in refusal(tmp_path, name, "".join([*lines[: i + 1], line, *lines[i + 1 :]]))


TOKENS = """\
\t|: |- |[|]|{|}|&a |*a|!!|? |>|'|"|#|%|@|null|~|true|-1|1e999|.nan|{1..3}|<<: *a|2014-01-01|0o7|0x1f|1_000|12:30:45\n|---\n\
|...\n|  |é|\u2028|\x00|\ufeff""".split("|")  # noqa: SIM905
JUNK = st.sampled_from([b"\xff", b"\xc3", b"|", *(token.encode() for token in TOKENS)])


def test_a_second_byte_order_mark_is_refused(tmp_path: Path) -> None:
    content = (CATALOG / "synthetic.yaml").read_bytes()
    assert load(tmp_path, "synthetic", b"\xef\xbb\xbf" + content)
    assert refusal(tmp_path, "synthetic", "\ufeff\ufeff" + content.decode())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.soak
@examples(400)
@given(data=st.data())
def test_random_damage_is_refused_or_means_what_it_says(tmp_path_factory: pytest.TempPathFactory, name: str, data: Any) -> None:
    content = TEXTS[name]
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(content)))
        cut = data.draw(st.integers(0, 12))
        content = content[:start] + data.draw(JUNK | st.binary(max_size=4)) + content[start + cut :]
    folder = tmp_path_factory.getbasetemp() / "damage"
    folder.mkdir(exist_ok=True)
    harmless(folder, name, content)


def test_anchors_are_fine(tmp_path: Path) -> None:
    text = TEXTS["criteo"].decode().replace("label_rate: {", "volume: &band {min: 0.15, max: 0.4}\n  label_rate: *band #{")
    assert load(tmp_path, "criteo", text).expectations.volume.max == 0.4


def test_a_byte_order_mark_is_fine(tmp_path: Path) -> None:
    read = load(tmp_path, "criteo", b"\xef\xbb\xbf" + TEXTS["criteo"])
    assert read.model_dump() == load_catalog()["criteo"].model_dump()
