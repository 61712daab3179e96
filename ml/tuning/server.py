"""Serves the tuning service over HTTP: `python -m ml.tuning.server`.

`TuningService` defines the routes, their rules and their errors; this module only translates between HTTP and its calls.
The description of the API is at `/openapi.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from fastapi import FastAPI, Request, Response
from sqlalchemy.exc import ArgumentError, DatabaseError
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse

from ml.http.app import create_app
from ml.http.guard import LOOPBACK
from ml.http.server import listen, serve, url_of
from ml.http.tokens import load_token, presented_token
from ml.tuning import openapi
from ml.tuning.database import Database, SchemaMismatch
from ml.tuning.driver import WORKER_HEADER
from ml.tuning.errors import ApiError
from ml.tuning.page.routes import add_page_routes
from ml.tuning.records import tokens
from ml.tuning.refusals import refusal
from ml.tuning.service import TuningService
from ml.tuning.uploads import add_upload_routes

PORT = 8714
MOST_WAITING = 16  # calls that wait for suggestions, of the 40 threads in which the server answers
METHODS = ["GET", "POST", "PUT", "MERGE", "DELETE"]
WITHOUT_BODY = ("GET", "DELETE")


def create_tuning_app(service: TuningService, hosts: Iterable[str] = LOOPBACK) -> FastAPI:
    """Create the HTTP app of a service.

    Args:
        service: What answers the calls, and who may make them.
        hosts: Host names under which the app is reached.

    Returns:
        The app.
    """
    app = create_app("Evergreen's tuning service", hosts=hosts)
    app.openapi = lambda: openapi.describe(service.router.routes)
    add_upload_routes(app, service.database)
    add_page_routes(app, service)

    @app.api_route("/v1/{path:path}", methods=METHODS, include_in_schema=False)
    async def call(request: Request) -> Response:
        """Answer one call of the API."""
        body = b"" if request.method in WITHOUT_BODY else await request.body()
        return await run_in_threadpool(_answer, service, request, body)

    return app


def _answer(service: TuningService, request: Request, body: bytes) -> Response:
    try:
        path = _path(request)
        data = dict(request.query_params) if request.method in WITHOUT_BODY else _json(body)
        token = presented_token(request.headers.get("authorization", ""))
        if not token and (request.method, path) == ("POST", ["sessions"]):
            token = str(data.get("password", ""))
        caller = service.authenticate(token, request.headers.get(WORKER_HEADER))
        answer = service.handle(request.method, path, data, replace(caller, url=str(request.base_url).rstrip("/")))
    except ApiError as error:
        return refusal(error)
    if answer is None or request.headers.get("x-response-content") == "skip":
        return Response(status_code=204)
    return JSONResponse(answer)


def _path(request: Request) -> list[str]:
    """Return the parts of the path behind the version. A part can contain an escaped slash."""
    return [unquote(part) for part in request.scope["raw_path"].decode("ascii").split("/")[2:]]


def _json(body: bytes) -> dict[str, Any]:
    if not body.strip():
        return {}
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:
        reason = "is nested too deeply" if isinstance(error, RecursionError) else f"is not JSON: {error}"
        raise ApiError(400, f"The request body {reason}") from None
    if not isinstance(data, dict):
        raise ApiError(400, "The request body must be a JSON object")
    return data


def main(arguments: list[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT."""
    home = Path(os.environ.get("EVERGREEN_HOME", ".evergreen")).absolute() / "tuning"
    parser = argparse.ArgumentParser(prog="python -m ml.tuning.server", description="Serve the tuning service over HTTP.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=PORT, help="port; 0 for any free one")
    parser.add_argument("--allow-host", action="append", default=[], metavar="NAME", help="a name under which clients reach it")
    parser.add_argument(
        "--database",
        default=os.environ.get("EVERGREEN_TUNING_DB") or str(home / "tuning.db"),
        help="SQLite file or PostgreSQL URL; by default EVERGREEN_TUNING_DB, else $EVERGREEN_HOME/tuning/tuning.db",
    )
    parser.add_argument("--token-file", type=Path, default=home / "token", help="file of the token; created if it is absent")
    options = parser.parse_args(arguments)

    service = TuningService(_opened(options.database), most_waiting=MOST_WAITING)
    try:
        token, listener = load_token(options.token_file), listen(options.host, options.port)
    except (OSError, ValueError) as error:
        raise SystemExit(getattr(error, "strerror", None) or str(error)) from None
    with service.database.transaction() as connection:
        tokens.ensure(connection, token, time.time())
    app = create_tuning_app(service, {*LOOPBACK, options.host, *options.allow_host})
    with listener:
        sys.stdout.write(_start_lines(url_of(listener), service.database, options.token_file))
        sys.stdout.flush()
        serve(app, listener)


def _opened(address: str) -> Database:
    """Return the database at an address, or exit with a line that says what to do."""
    try:
        return Database(address)
    except ApiError as error:  # its reason is logged
        raise SystemExit(error.message) from None
    except (SchemaMismatch, ModuleNotFoundError) as error:
        raise SystemExit(str(error)) from None
    except (ValueError, ArgumentError, OSError, DatabaseError) as error:
        reason = str(getattr(error, "orig", None) or error).strip().partition("\n")[0].rstrip(".").removeprefix(f"{address}: ")
        shown = re.sub(r"//[^@/]*@", "//***@", address)  # a URL can have a password
        way_out = "Give the path of a SQLite file, or a URL such as postgresql://user@host/name (EVERGREEN_TUNING_DB)."
        raise SystemExit(f"--database {shown}: {reason}. {way_out}") from None


def _start_lines(url: str, database: Database, token_file: Path) -> str:
    return (
        f"The tuning service runs on {url} and stores its state in {database.url.render_as_string()}.\n"
        f"Its experiments are shown on {url}/ in a browser, which asks for a user name: the token. The password stays empty.\n"
        "For the sigopt client, run:\n"
        f"export SIGOPT_API_URL={url}\n"
        f"export SIGOPT_API_TOKEN=$(cat {shlex.quote(str(token_file))})\n"
    )


if __name__ == "__main__":
    main()
