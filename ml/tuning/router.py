"""Finds the handler of a request."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ml.tuning.call import Call
from ml.tuning.errors import ApiError

Handler = Callable[[Call], dict[str, Any] | None]
"""Answers one call with the JSON of the response; None for a response without content."""


@dataclass(frozen=True)
class Route:
    """One call of the API.

    Attributes:
        method: `GET`, `POST`, `PUT`, `MERGE` or `DELETE`.
        path: Path without the version, such as `experiments/{experiment}/suggestions`; `{name}` matches any one part.
        handler: What answers it. Its first docstring line describes the call.
    """

    method: str
    path: str
    handler: Handler

    @property
    def writes(self) -> bool:
        """Whether the handler writes."""
        return self.method != "GET"

    @property
    def parts(self) -> list[str]:
        return self.path.split("/")

    def match(self, path: Sequence[str]) -> dict[str, str] | None:
        """Return the arguments in a path, or None if the path does not match."""
        if len(path) != len(self.parts):
            return None
        arguments: dict[str, str] = {}
        for pattern, part in zip(self.parts, path, strict=True):
            if pattern.startswith("{"):
                arguments[pattern[1:-1]] = part
            elif pattern != part:
                return None
        return arguments


class Router:
    """All routes of the service.

    Args:
        routes: The routes. Of two that match the same path, the one with more fixed parts wins.
    """

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = sorted(routes, key=lambda route: route.path.count("{"))

    def find(self, method: str, path: Sequence[str]) -> tuple[Route, Mapping[str, str]]:
        """Return the route of a request and the arguments in its path.

        Raises:
            ApiError: 404 for an unknown path, 405 for a method that the path does not have.
        """
        methods = set()
        for route in self.routes:
            arguments = route.match(path)
            if arguments is None:
                continue
            if route.method == method:
                return route, arguments
            methods.add(route.method)
        if methods:
            raise ApiError(405, f"/v1/{'/'.join(path)} accepts {', '.join(sorted(methods))}, not {method}")
        raise ApiError(404, f"There is no /v1/{'/'.join(path)}")
