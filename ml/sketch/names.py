"""Words in the names of columns, from which the role of a column is guessed."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from ml.catalog.strict import NOT_IN_FEATURE_NAMES

WORDS: dict[str, list[str]] = yaml.safe_load(Path(__file__).with_name("words.yaml").read_text())
"""Role -> words in the names of columns that suggest it."""


def split_name(name: str) -> list[str]:
    """The words of a name, in lower case.

    >>> split_name("click_articleId")
    ['click', 'article', 'id']
    """
    return [word for word in re.split(r"[^a-z0-9]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()) if word]


def words_of(name: str) -> set[str]:
    """The words of a name, and the whole name, in lower case."""
    return {name.lower(), *split_name(name)}


def thing_of(name: str) -> str:
    """What a name names: its last word that does not mean id.

    >>> thing_of("click_articleId"), thing_of("user_age"), thing_of("uid")
    ('article', 'age', 'uid')
    """
    return next((word for word in reversed(split_name(name)) if word not in WORDS["id"]), name.lower())


def names_id(name: str) -> bool:
    """Whether a name is that of an id or a code, not of a quantity.

    >>> names_id("product_id"), names_id("visitor"), names_id("price")
    (True, True, False)
    """
    return name.lower().endswith(("id", "_code", "_key", "type")) or thing_of(name) in (*WORDS["user"], *WORDS["item"])


def feature_name(column: str) -> str:
    """Name a feature after its column: characters that names of features cannot have become underscores.

    >>> feature_name("User Id"), feature_name("price")
    ('User_Id', 'price')
    """
    return re.sub(f"[{NOT_IN_FEATURE_NAMES}]", "_", column)
