"""Checks of arguments that several functions of this package take."""

from __future__ import annotations


def check_positive(**numbers: int) -> None:
    """Raises `ValueError`, naming the argument, if one of the numbers is below 1."""
    for name, value in numbers.items():
        if value < 1:
            raise ValueError(f"{name}: expected at least 1, found {value}")
