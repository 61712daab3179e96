"""The FastAPI app from which each HTTP service of the project is built."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fastapi import APIRouter, FastAPI, Response
from fastapi.responses import JSONResponse

from ml.http.errors import install_error_handlers
from ml.http.guard import LOOPBACK, Guard
from ml.http.limits import Limited, Limits
from ml.http.routes import JsonRoute

BODY_LIMIT = 16 * 2**20
HEALTH = "/health"


def create_app(
    title: str,
    token: str | None = None,
    hosts: Iterable[str] = LOOPBACK,
    body_limit: int = BODY_LIMIT,
    open_paths: Iterable[str] = (),
    health: Callable[[], Mapping[str, Any]] = lambda: {"status": "ok"},
    limits: Limits | None = None,
) -> FastAPI:
    """Create an app with the project's checks, headers and error shape, and a `/health` route that needs no token.

    Args:
        title: Name of the service in its OpenAPI description, at `/openapi.json`.
        token: Token that requests have to present; None if the service is open, or authenticates requests itself.
        hosts: Host names under which the service is reached; `*` allows all.
        body_limit: Largest request body, in bytes.
        open_paths: Further paths that need no token, such as a page without data.
        health: Returns the body of `/health`, which anyone can read and which has no limits.
        limits: Rate, requests in progress and time of bodies; by default unlimited.

    Returns:
        The app, to which the service adds its routes.

    Example:
        >>> app = create_app("Echo", token="secret")
        >>> @app.get("/echo")
        ... def echo(text: str) -> dict[str, str]:
        ...     return {"text": text}
    """
    app = FastAPI(title=title, docs_url=None, redoc_url=None)  # both pages load scripts from other sites
    install_error_handlers(app)
    if limits is not None:
        app.add_middleware(Limited, limits=limits, free=frozenset({HEALTH}))
    app.add_middleware(
        Guard,
        token=token,
        hosts=frozenset(host.lower() for host in hosts),
        body_limit=body_limit,
        open_paths=frozenset({HEALTH, *open_paths}),
        body_seconds=limits.body_seconds if limits else None,
    )

    router = APIRouter(route_class=JsonRoute)

    @router.get(HEALTH, response_model=dict[str, Any])
    async def healthy() -> Response:  # needs no thread, so it answers also when all threads are busy
        """Whether the service answers."""
        return JSONResponse(health())

    app.include_router(router)
    return app
