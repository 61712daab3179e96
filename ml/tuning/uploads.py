"""Receives and returns the content of files, at URLs that carry a secret instead of a token.

SigOpt's client uploads the content of a file in a request of its own, without its token, to the URL in the description of the
file.
"""

from __future__ import annotations

import base64
import hashlib
import hmac

import sqlalchemy as sa
from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool

from ml.http.app import create_app
from ml.tuning import schema
from ml.tuning.database import Database
from ml.tuning.errors import ApiError
from ml.tuning.refusals import refusal
from ml.tuning.values import as_identity


def uploads_app(database: Database) -> FastAPI:
    """Create an app that only receives and returns files, for a service that runs in the process of its client.

    Args:
        database: Database of the service.

    Returns:
        The app.
    """
    app = create_app("Files of the tuning service")
    add_upload_routes(app, database)
    return app


def add_upload_routes(app: FastAPI, database: Database) -> None:
    """Add the routes of uploads to an app.

    Args:
        app: The app.
        database: Database of the service.
    """

    @app.put("/uploads/{file}/{secret}", include_in_schema=False)
    async def upload(file: str, secret: str, request: Request) -> Response:
        """Store the content of a file."""
        body = await request.body()
        try:
            await run_in_threadpool(store, database, file, secret, body)
        except ApiError as error:
            return refusal(error)
        return Response(status_code=204)

    @app.get("/uploads/{file}/{secret}", include_in_schema=False)
    def download(file: str, secret: str) -> Response:
        """Return the content of a file."""
        try:
            content, content_type = read(database, file, secret)
        except ApiError as error:
            return refusal(error)
        return Response(content, media_type=content_type, headers={"Content-Disposition": "attachment"})


def store(database: Database, file: str, secret: str, content: bytes) -> None:
    """Store the content of a file, unless it is stored already.

    Args:
        database: Database of the service.
        file: Id of the file.
        secret: Its secret.
        content: The content.

    Raises:
        ApiError: 404 if there is no such file, 400 if the content is not what was announced.
    """
    with database.transaction() as connection:
        row = _find(connection, file, secret)
        digest = base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()
        if (len(content), digest) != (row.content_length, row.content_md5):
            raise ApiError(
                400,
                f"The content has {len(content)} bytes and the MD5 digest {digest}, "
                f"but {row.content_length} bytes and {row.content_md5} were announced",
            )
        table = schema.file_contents
        if connection.execute(sa.select(table.c.file).where(table.c.file == row.id)).one_or_none() is None:
            connection.execute(table.insert().values(file=row.id, content=content))


def read(database: Database, file: str, secret: str) -> tuple[bytes, str]:
    """Return the content of a file and its type.

    Args:
        database: Database of the service.
        file: Id of the file.
        secret: Its secret.

    Raises:
        ApiError: 404 if there is no such file, or if it has not been uploaded.
    """
    with database.transaction(write=False) as connection:
        row = _find(connection, file, secret)
        content = connection.scalar(sa.select(schema.file_contents.c.content).where(schema.file_contents.c.file == row.id))
    if content is None:
        raise ApiError(404, f"The file {file} has not been uploaded")
    return content, row.content_type


def _find(connection: sa.Connection, file: str, secret: str) -> sa.Row:
    row = connection.execute(sa.select(schema.files).where(schema.files.c.id == as_identity(file))).one_or_none()
    if row is None or not hmac.compare_digest(row.secret.encode(), secret.encode(errors="replace")):
        raise ApiError(404, f"There is no file {file} with this secret")
    return row
