"""Reads JSON values and names the key path of what is wrong.

`check` accepts any JSON that can be stored; the other functions read one value of one type.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ml.tuning.errors import ApiError, invalid

MAX_DEPTH = 32
MAX_INTEGER = 2**53  # JSON numbers are read as doubles by many clients, which are exact up to here
MAX_COUNT = 2**31 - 1  # what an integer column of PostgreSQL holds
MAX_NUMBER = 1e300  # differences and sums of a few numbers stay finite
_SURROGATE = re.compile("[\ud800-\udfff]")


def check(value: Any, path: str = "", depth: int = 0, *, replace: bool = False) -> Any:
    """Return a JSON value that every database can store.

    Args:
        value: A value of JSON types.
        path: Its key path.
        depth: How many objects and lists enclose it.
        replace: Whether characters that cannot be stored are replaced instead of refused, as in logs.

    Raises:
        ApiError: It contains NaN, a number that is too large, NUL, half of a surrogate pair, or too many levels.
    """
    if isinstance(value, str):
        return _characters(value, path, replace=replace)
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int | float):
        return _finite(value, path)
    if depth >= MAX_DEPTH:
        raise invalid(path, f"has more than {MAX_DEPTH} levels")
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise invalid(path, "keys must be strings")
            _characters(key, _join(path, ascii(key)))
        return {
            key: check(item, _join(path, key), depth + 1, replace=replace or (depth == 0 and key == "logs"))
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [check(item, f"{path}[{index}]", depth + 1, replace=replace) for index, item in enumerate(value)]
    raise invalid(path, f"has the type {type(value).__name__}, which JSON does not have")


def _characters(value: str, path: str, *, replace: bool = False) -> str:
    if "\0" not in value and not _SURROGATE.search(value):
        return value
    if replace:
        return _SURROGATE.sub("\ufffd", value).replace("\0", "\ufffd")
    raise invalid(path, "contains NUL or half of a surrogate pair")


def _finite(value: float, path: str) -> float:
    if not -MAX_NUMBER <= value <= MAX_NUMBER:  # also false for NaN
        raise invalid(path, f"must be a finite number with an absolute value of at most {MAX_NUMBER:g}")
    return value


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


class Reader:
    """Reads the keys of one JSON object, each once, and refuses the keys that nobody read.

    Args:
        data: The object.
        path: Its key path; empty for the body.

    Example:
        >>> reader = Reader({"name": "lr", "max": "1"}, "parameters[2]")
        >>> reader.text("name")
        'lr'
        >>> reader.number("max")
        Traceback (most recent call last):
        ml.tuning.errors.ApiError: parameters[2].max: must be a number, not a string
    """

    def __init__(self, data: Any, path: str = "") -> None:
        if not isinstance(data, Mapping):
            raise invalid(path, f"must be an object, not {_type(data)}")
        self._data, self._path, self._read = data, path, set[str]()

    def path(self, key: str) -> str:
        """Return the key path of a key."""
        return _join(self._path, key)

    def error(self, key: str, problem: str) -> ApiError:
        """Return the error for a key."""
        return invalid(self.path(key), problem)

    def has(self, key: str) -> bool:
        """Whether a key is present and not null."""
        self._read.add(key)
        return self._data.get(key) is not None

    def present(self, key: str) -> bool:
        """Whether a key is present, also with null."""
        self._read.add(key)
        return key in self._data

    def raw(self, key: str, *, required: bool = False) -> Any:
        """Return a value of any type, None if it is absent."""
        self._read.add(key)
        value = self._data.get(key)
        if value is None and required:
            raise self.error(key, "is required")
        return value

    def text(self, key: str, *, limit: int | None = None, choices: Sequence[str] = ()) -> str:
        """Return a string that is not empty.

        Args:
            key: The key.
            limit: Largest length.
            choices: The only allowed values.
        """
        return as_text(self.raw(key, required=True), self.path(key), limit=limit, choices=choices)

    def optional_text(self, key: str, *, limit: int | None = None, choices: Sequence[str] = ()) -> str | None:
        """Return a string, or None if it is absent."""
        return self.text(key, limit=limit, choices=choices) if self.has(key) else self.raw(key)

    def number(self, key: str) -> float:
        """Return a finite number."""
        return as_number(self.raw(key, required=True), self.path(key))

    def optional_number(self, key: str) -> float | None:
        """Return a finite number, or None if it is absent."""
        return self.number(key) if self.has(key) else self.raw(key)

    def integer(self, key: str, *, least: int | None = None, most: int = MAX_INTEGER) -> int:
        """Return an integer between `least` and `most`."""
        return as_integer(self.raw(key, required=True), self.path(key), least=least, most=most)

    def optional_integer(self, key: str, *, least: int | None = None, most: int = MAX_INTEGER) -> int | None:
        """Return an integer, or None if it is absent."""
        return self.integer(key, least=least, most=most) if self.has(key) else self.raw(key)

    def flag(self, key: str) -> bool:
        """Return a boolean, False if it is absent."""
        value = self.raw(key)
        if value is not None and not isinstance(value, bool):
            raise self.error(key, f"must be true or false, not {_type(value)}")
        return bool(value)

    def items(self, key: str, *, required: bool = False) -> list[tuple[str, Any]]:
        """Return the items of a list with their key paths; no items if it is absent."""
        value = self.raw(key, required=required)
        if value is None:
            return []
        if not isinstance(value, list | tuple):
            raise self.error(key, f"must be a list, not {_type(value)}")
        return [(f"{self.path(key)}[{index}]", item) for index, item in enumerate(value)]

    def object(self, key: str, *, required: bool = False) -> Mapping[str, Any] | None:
        """Return an object, or None if it is absent."""
        value = self.raw(key, required=required)
        if value is not None and not isinstance(value, Mapping):
            raise self.error(key, f"must be an object, not {_type(value)}")
        return value

    def identity(self, key: str) -> int | None:
        """Return an id, which can be an integer or its digits; None if it is absent."""
        value = self.raw(key)
        if value is None:
            return None
        found = as_identity(value)
        if found is None:
            raise self.error(key, "must be an id")
        return found

    def ignore(self, *keys: str) -> None:
        """Accept keys whose values have no effect, such as those that only responses have."""
        self._read.update(keys)

    def close(self) -> None:
        """Refuse keys that were not read.

        Raises:
            ApiError: There are unknown keys.
        """
        unknown = sorted(set(self._data) - self._read)
        if unknown:
            raise self.error(unknown[0], f"is not a known key; expected {', '.join(sorted(self._read))}")


def as_text(value: Any, path: str, *, limit: int | None = None, choices: Sequence[str] = ()) -> str:
    """Return a string that every database can store, is not empty, at most `limit` long and one of `choices`."""
    if not isinstance(value, str):
        raise invalid(path, f"must be a string, not {_type(value)}")
    _characters(value, path)
    if not value:
        raise invalid(path, "must not be empty")
    if limit is not None and len(value) > limit:
        raise invalid(path, f"must have at most {limit} characters, but has {len(value)}")
    if choices and value not in choices:
        raise invalid(path, f"must be one of {', '.join(choices)}, not {value}")
    return value


def as_number(value: Any, path: str) -> float:
    """Return a finite number: an int stays an int."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise invalid(path, f"must be a number, not {_type(value)}")
    return _finite(value, path)


def as_integer(value: Any, path: str, *, least: int | None = None, most: int = MAX_INTEGER) -> int:
    """Return an integer. Floats without a fraction are accepted, because some JSON encoders write all numbers as floats."""
    number = as_number(value, path)
    if number != math.floor(number):
        raise invalid(path, f"must be an integer, not {number:g}")
    if abs(number) > MAX_INTEGER:
        raise invalid(path, "must be an integer between -2^53 and 2^53")
    if least is not None and number < least:
        raise invalid(path, f"must be at least {least}, not {number:g}")
    if number > most:
        raise invalid(path, f"must be at most {most}, not {number:g}")
    return int(number)


def as_identity(value: Any) -> int | None:
    """Return a positive id that a database can store; None for anything else."""
    digits = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    return int(digits) if isinstance(digits, str) and re.fullmatch(r"[0-9]{1,18}", digits) else None


def _type(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    return "a string" if isinstance(value, str) else "an object" if isinstance(value, Mapping) else "a list"
