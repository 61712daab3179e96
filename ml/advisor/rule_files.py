"""Rule files: the built-in rules, `rules.yaml`, and the user's files in the same format, whose rules apply after them."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from pydantic import ValidationError

from ml.advisor.rules import Rules
from ml.catalog.document import read_document
from ml.catalog.explain import explain
from ml.catalog.spec import DatasetSpec

RULES = Path(__file__).with_name("rules.yaml")


def load_rules(*files: Path) -> Rules:
    """Load Evergreen's rules and a user's files of rules, which apply after them.

    Args:
        files: The user's files, in order.

    Returns:
        The rules of all files.

    Raises:
        CatalogError: A file is not valid. The message names the file, the rule and the key.

    Example:
        >>> rules = load_rules()
        >>> all(rule.reason and rule.source for rule in rules.rules)
        True
    """
    found, known = _built_in(), hashlib.sha256()
    for path in files:
        own = _read(path)
        known.update(own.model_dump_json(exclude_defaults=True).encode())
        found = found.and_then(own)
        found.check_lists(path)
    return found.with_digest(known.hexdigest()[:16]) if files else found


def rules_of(spec: DatasetSpec, *files: Path) -> Rules:
    """Load the rules that apply to a dataset: Evergreen's, those of its catalog entry, and those of further files.

    Raises:
        CatalogError: As for `load_rules`.
    """
    return load_rules(*spec.recipe.rule_files, *files)


@cache
def _built_in() -> Rules:
    rules = _read(RULES)
    rules.check_lists(RULES)
    return rules


def _read(path: Path) -> Rules:
    document = read_document(path)
    try:
        return Rules.model_validate(document.data)
    except ValidationError as error:
        raise explain(path, error, Rules, document) from error
