"""The token that a client of an HTTP service presents: its file, and how it is compared.

The file is readable by its owner alone, because anyone who reads it can use the service.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import secrets
import stat
from pathlib import Path


def load_token(path: Path) -> str:
    """Read the token of a service. The first call creates it, in a file of mode 0600.

    Args:
        path: File of the token. Missing folders are created.

    Returns:
        The token.

    Raises:
        PermissionError: If others than the owner can access the file.
        ValueError: If the file does not hold exactly one word.
    """
    if not path.exists():
        _create(path)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise PermissionError(f"{path} has mode {mode:04o}, so others can read the token: run `chmod 600 {path}`")
    token = path.read_text().strip()
    if not token or not token.isascii() or any(letter.isspace() or letter in ":@" for letter in token):
        raise ValueError(
            f"{path} does not hold a token, which is one word without : and @: delete the file, and a new token is created"
        )
    return token


def _create(path: Path) -> None:
    """Write a new token. If another process is faster, its token stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(24) + "\n")
    try:
        os.link(aside, path)  # unlike a rename, it fails if the file exists
    except FileExistsError:
        pass
    finally:
        aside.unlink()


def presented_token(authorization: str) -> str:
    """Extract the token from an `Authorization` header.

    Args:
        authorization: `Bearer TOKEN`, or `Basic` credentials with the token as the user name.

    Returns:
        The token; empty if the header holds none.
    """
    scheme, _, credentials = authorization.strip().partition(" ")
    if scheme.lower() == "bearer":
        return credentials.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(credentials.strip(), validate=True).decode().partition(":")[0]
        except (binascii.Error, ValueError):
            return ""
    return ""


def same_token(presented: str, expected: str) -> bool:
    """Whether two tokens are equal, in a time that does not depend on where they differ."""
    return hmac.compare_digest(presented.encode(errors="replace"), expected.encode())
