"""Reads a YAML file as plain data: mappings, lists, text, numbers and dates. The meaning of keys is not known here.

Duplicate keys, merge keys, cyclic aliases and aliases that expand to more than a catalog entry can hold are errors, and so are
names that YAML reads as numbers or booleans.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 1_000_000
MAX_NODES = 100_000
MAX_DEPTH = 50
INT64 = 2**63


class CatalogError(ValueError):
    """A catalog file is not valid. The message has one line per fault: file, key path, what was expected and what was found."""


class _Loader(yaml.SafeLoader):
    """YAML silently keeps the last of duplicate keys; this loader refuses them."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys: set[Any] = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            raise _refusal("merge keys (<<) are not supported: write the keys out, or quote the name", key_node)
        key = loader.construct_object(key_node, deep=True)  # type: ignore[no-untyped-call]
        if not isinstance(key, str):
            raise _refusal(f"a key must be a name, found {shown(key)}; if it is one, put it in quotes", key_node)
        if key in keys:
            raise _refusal(f"key {shown(key)} is given twice", key_node)
        keys.add(key)
    return loader.construct_mapping(node, deep=True)


def _refusal(problem: str, node: yaml.Node) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _timestamp(loader: _Loader, node: yaml.ScalarNode) -> Any:
    try:
        return loader.construct_yaml_timestamp(node)  # type: ignore[no-untyped-call]
    except ValueError:  # 2025-13-01 is text, which a key that takes a date refuses
        return node.value
    except AttributeError as error:  # from PyYAML, for `!!timestamp soon`
        raise _refusal(f"{shown(node.value)} is not a date", node) from error


def _boolean(loader: _Loader, node: yaml.ScalarNode) -> Any:
    try:
        return loader.construct_yaml_bool(node)  # type: ignore[no-untyped-call]
    except KeyError as error:  # from PyYAML, for `!!bool maybe`
        raise _refusal(f"{shown(node.value)} is not true or false", node) from error


def _number(loader: _Loader, node: yaml.ScalarNode) -> Any:
    try:
        whole = node.tag == "tag:yaml.org,2002:int"
        return (loader.construct_yaml_int if whole else loader.construct_yaml_float)(node)  # type: ignore[no-untyped-call]
    except (ValueError, OverflowError, IndexError) as error:  # PyYAML raises IndexError for an empty `!!int`
        raise _refusal(f"{shown(node.value)} is not a number", node) from error


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_Loader.add_constructor("tag:yaml.org,2002:timestamp", _timestamp)
_Loader.add_constructor("tag:yaml.org,2002:bool", _boolean)
_Loader.add_constructor("tag:yaml.org,2002:int", _number)
_Loader.add_constructor("tag:yaml.org,2002:float", _number)


class Document:
    """The data of a YAML file, and the line numbers of its keys."""

    def __init__(self, path: Path, data: dict[str, Any], root: yaml.Node) -> None:
        self.path, self.data, self._root = path, data, root

    def line(self, keys: Sequence[str | int]) -> int:
        """Returns the line number, from 1, of the deepest of these nested keys and list positions in the file."""
        node, line = self._root, self._root.start_mark.line
        for key in keys:
            below = _below(node, key)
            if below is None:
                break
            line, node = below
        return line + 1


def _below(node: yaml.Node, key: str | int) -> tuple[int, yaml.Node] | None:
    if isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
        return node.value[key].start_mark.line, node.value[key]
    if isinstance(node, yaml.MappingNode):
        for key_node, value in node.value:
            if key_node.value == key:
                return key_node.start_mark.line, value
    return None


def read_document(path: Path) -> Document:
    """Reads a file.

    Raises:
        CatalogError: The file cannot be read, or is not UTF-8, not YAML, not plain data, or not a mapping of names.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise CatalogError(f"{path}: cannot be read: {error.strerror}") from error
    if len(raw) > MAX_BYTES:
        raise CatalogError(f"{path}: {len(raw)} bytes; expected a catalog entry of at most {MAX_BYTES}")
    try:
        loader = _Loader(raw.decode())  # PyYAML skips one byte order mark
        root = loader.get_single_node()
        data = loader.construct_document(root) if root is not None else None
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise CatalogError(f"{path}: line {line}: not UTF-8 at byte {error.start}; save the file as UTF-8") from error
    except RecursionError as error:
        raise CatalogError(f"{path}: nested too deeply; expected at most {MAX_DEPTH} levels") from error
    except (yaml.YAMLError, ValueError, OverflowError, IndexError) as error:  # PyYAML raises IndexError for an empty `!!int`
        raise CatalogError(f"{path}: {_where(error, raw)}not valid YAML: {_what(error, raw)}") from error
    if root is None or not isinstance(data, dict):
        found = "nothing" if data is None else f"a {type(data).__name__}"
        raise CatalogError(f"{path}: expected keys with values at the top, such as `name: shop`, found {found}")
    _check(path, data, (), set(), [0])
    return Document(path, data, root)


_KEY = re.compile(r"""^( *(?:- +)?)(["']?)([A-Za-z_][^:"']*?)\2 *:(?: +(.*))?$""")
_SPECIAL = re.compile(r"[*&!%@`]|[\[{][^\]}]*[\]}]\S")  # a plain YAML text cannot begin so


def _where(error: Exception, raw: bytes) -> str:
    """The key, the line and the column of a YAML error, as far as they are known."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return ""
    keys = _keys_at(raw.decode().splitlines(), mark.line)
    return f"{'.'.join(keys)}: " * bool(keys) + f"line {mark.line + 1}, column {mark.column + 1}: "


def _keys_at(lines: Sequence[str], line: int) -> list[str]:
    """The key on a line and the keys above it, by their indentation, in a file that is not valid YAML."""
    keys: list[str] = []
    if line >= len(lines):
        return keys
    inner = len(lines[line])
    for text in reversed(lines[: line + 1]):
        found = _KEY.match(text)
        if found and len(found[1]) < inner and (keys or text is lines[line]):
            keys.insert(0, found[3])
            inner = len(found[1])
        elif text is lines[line]:
            return []
    return keys


def _what(error: Exception, raw: bytes) -> str:
    problem = getattr(error, "problem", None) or str(error).partition("\n")[0] or type(error).__name__
    if "recursive" in problem:
        return "an alias (*) refers to a value that contains it"
    mark = getattr(error, "problem_mark", None)
    lines = raw.decode().splitlines() if mark else []
    found = _KEY.match(lines[mark.line]) if mark and mark.line < len(lines) else None
    if found and found[4] and _SPECIAL.match(found[4]):
        return f"{problem:.300}; put the value in quotes: {found[3]}: {json.dumps(found[4][:80], ensure_ascii=False)}"
    tab = "; indent with spaces, not tabs" if "'\\t'" in problem else ""
    return f"{problem:.300}{tab}"


def _check(path: Path, value: Any, keys: tuple[str | int, ...], above: set[int], count: list[int]) -> None:
    """Refuses data that is not plain. Aliased parts are counted as often as they are used."""
    count[0] += 1
    where = f"{path}: {'.'.join(map(str, keys[:6])) or '(top)'}: "
    if count[0] > MAX_NODES:
        raise CatalogError(f"{where}aliases (*) expand the file to more than {MAX_NODES} values; write the values out")
    if id(value) in above:
        raise CatalogError(f"{where}an alias (*) refers to a value that contains it")
    if len(keys) > MAX_DEPTH:
        raise CatalogError(f"{where}nested too deeply; expected at most {MAX_DEPTH} levels")
    if isinstance(value, dict | list):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in parts:
            _check(path, part, (*keys, key), above | {id(value)}, count)
    elif isinstance(value, int) and not -INT64 <= value < INT64:
        raise CatalogError(f"{where}an integer of more than 64 bits")
    elif value is not None and not isinstance(value, str | int | float | date):
        raise CatalogError(f"{where}expected text, a number, a date, a list or keys with values, found {type(value).__name__}")


def shown(value: Any) -> str:
    """Formats a value for an error message, in at most 80 characters."""
    text = repr(value) if not isinstance(value, int) or -INT64 <= value < INT64 else "a very large number"
    return text if len(text) <= 80 else f"{text[:77]}..."
