"""A Griffe extension that renders `Example:` sections of docstrings as code, like `Examples:` sections."""

from __future__ import annotations

import re
from typing import Any

import griffe


class ExampleSections(griffe.Extension):
    """Rewrites `Example:` to `Examples:`, because Griffe's Google style renders the singular as an admonition."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
