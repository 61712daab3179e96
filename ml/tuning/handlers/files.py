"""Files of training runs, such as plots.

A file is announced with its length and its MD5 digest. The response has a URL with a secret of its own, to which the caller
uploads the content without a token, see `ml.tuning.uploads`.
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from typing import Any

import sqlalchemy as sa

from ml.tuning import render, schema
from ml.tuning.call import Call
from ml.tuning.errors import missing
from ml.tuning.router import Route
from ml.tuning.runs import table as runs
from ml.tuning.values import Reader, as_identity

MAX_NAME, MAX_BYTES = 100, 10 * 2**20
CONTENT_TYPES = (
    *("image/apng", "image/bmp", "image/gif", "image/jpeg", "image/png", "image/svg+xml", "image/webp", "image/x-icon"),
    *("application/json", "application/pdf", "text/csv", "text/plain"),
)
table = schema.files


def create(call: Call) -> dict[str, Any]:
    """Announce a file of a run. The content is uploaded as the response says."""
    run = runs.requested(call, lock=True)
    reader = Reader(call.data)
    columns = {
        "client": call.caller.client,
        "training_run": run["id"],
        "name": reader.optional_text("name", limit=MAX_NAME),
        "filename": reader.optional_text("filename", limit=MAX_NAME),
        "content_type": reader.text("content_type", choices=CONTENT_TYPES),
        "content_length": _length(reader),
        "content_md5": _digest(reader),
        "secret": secrets.token_urlsafe(24),
        "created": call.now,
    }
    reader.close()
    if columns["name"] is None and columns["filename"] is None:
        raise reader.error("filename", "is required if there is no name")
    row = call.connection.execute(table.insert().values(columns).returning(*table.c)).one()
    runs.touch(call, run)
    headers = {"Content-Type": row.content_type, "Content-MD5": row.content_md5}
    return {**_shown(row), "upload": {"object": "upload", "url": _url(call, row), "method": "PUT", "headers": headers}}


def fetch(call: Call) -> dict[str, Any]:
    """Fetch the description of a file, with a URL from which it can be downloaded."""
    key = call.arguments["file"]
    row = call.connection.execute(
        sa.select(table).where(table.c.id == as_identity(key), table.c.client == call.caller.client)
    ).one_or_none()
    if row is None or call.caller.experiment is not None:
        raise missing("file", key)
    return {**_shown(row), "download": {"object": "download", "url": _url(call, row)}}


def _url(call: Call, row: sa.Row) -> str:
    return f"{call.caller.url}/uploads/{row.id}/{row.secret}"


def _length(reader: Reader) -> int:
    length = reader.integer("content_length", least=1)
    if length > MAX_BYTES:
        raise reader.error("content_length", f"must be at most {MAX_BYTES} bytes, not {length}")
    return length


def _digest(reader: Reader) -> str:
    digest = reader.text("content_md5")
    try:
        if re.fullmatch(r"[A-Za-z0-9+/]{22}==", digest) and len(base64.b64decode(digest, validate=True)) == 16:
            return digest
    except binascii.Error:
        pass
    raise reader.error("content_md5", "must be an MD5 digest in base64")


def _shown(row: sa.Row) -> dict[str, Any]:
    return {
        "object": "file",
        "id": render.identity(row.id),
        "client": render.identity(row.client),
        "user": None,
        "created": int(row.created),
        **{key: row._mapping[key] for key in ("name", "filename", "content_type", "content_length", "content_md5")},
    }


ROUTES = (
    Route("POST", "training_runs/{run}/files", create),
    Route("GET", "files/{file}", fetch),
)
