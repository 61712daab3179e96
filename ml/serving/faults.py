"""What is wrong with a request."""

from __future__ import annotations


class WrongColumn(ValueError):
    """A request names a column that does not exist, or has a value of another type; the message names it."""


class WrongEvent(ValueError):
    """An event cannot be a row of the log; the message names the event and the column."""
