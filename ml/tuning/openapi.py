"""The OpenAPI description of the tuning service, from its routes and the schemas of their bodies."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from ml.tuning import request_schemas
from ml.tuning.router import Route

ERRORS = {
    "400": "The request is not valid; the message names the key.",
    "401": "The token is missing or not valid.",
    "403": "The token or the state of the object does not allow the call.",
    "404": "There is no such object.",
    "409": "The object exists already, or its state conflicts with the call.",
    "422": "The request refers to an object that does not exist.",
    "429": "The service is busy; try again.",
    "503": "The database of the service is unavailable; try again later.",
}


def describe(routes: Iterable[Route]) -> dict[str, Any]:
    """Describe the API.

    OpenAPI 3.1 has no place for the verb MERGE. Its operations are under `x-merge`; they accept the same bodies as PUT.

    Args:
        routes: Routes of the service.

    Returns:
        The description, as JSON.
    """
    paths: dict[str, dict[str, Any]] = {}
    for route in sorted(routes, key=lambda route: (route.path, route.method)):
        method = "x-merge" if route.method == "MERGE" else route.method.lower()
        paths.setdefault(f"/v1/{route.path}", {})[method] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Evergreen's tuning service, which implements SigOpt's API", "version": "1"},
        "paths": paths,
        "components": {
            "schemas": {**request_schemas.COMPONENTS, "Error": _ERROR},
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "basic",
                    "description": "The token is the user name; the password is empty.",
                }
            },
        },
        "security": [{"token": []}],
    }


def _operation(route: Route) -> dict[str, Any]:
    summary = (route.handler.__doc__ or "").strip().partition("\n")[0]
    operation: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", f"{route.method.lower()}_{route.path}").strip("_"),
        "summary": summary,
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": request_schemas.path_argument(name)}
            for name in re.findall(r"{(\w+)}", route.path)
        ],
        "responses": {
            "200": {"description": "The object.", "content": {"application/json": {"schema": {"type": "object"}}}},
            "204": {"description": "No content, because of the header `X-Response-Content: skip`."},
            **{status: _error(text) for status, text in ERRORS.items()},
        },
    }
    if route.method in ("GET", "DELETE"):
        operation["parameters"] += [
            {"name": name, "in": "query", "required": False, "schema": schema}
            for name, schema in request_schemas.query(route.method, route.path).items()
        ]
    else:
        body = request_schemas.body(route.method, route.path)
        operation["requestBody"] = {"content": {"application/json": {"schema": body}}}
    return operation


def _error(text: str) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}


_ERROR = {
    "type": "object",
    "required": ["message", "status"],
    "properties": {"message": {"type": "string"}, "status": {"type": "integer"}},
}
